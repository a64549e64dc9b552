"""measure.ledger: every rule of the verdict at its boundary, and records that cannot be talked into anything."""
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from diversity_kit import kit
from diversity_kit.measure import ledger
from diversity_kit.measure.ledger import VERDICTS, Claim, interval90, settle
from diversity_kit.measure.stats import Effect, bootstrap, paired_t, tost


def claim(expected="+", margin=0.5, seeds=10, id="K01", **more):
    return Claim(id, "A helps", "S0 4.2", "accuracy(A) - accuracy(control)", expected, margin, seeds, **more)


def effect(low, high, n=20, p=0.001):
    return Effect((low + high) / 2, low, high, n, p)


def ninety(low, high, n=20):
    "The 90 % interval behind a 95 % one, by hand."
    half = (high - low) / 2 * t.ppf(0.95, n - 1) / t.ppf(0.975, n - 1)
    return (low + high) / 2 - half, (low + high) / 2 + half


@pytest.fixture(autouse=True)
def commit(monkeypatch, tmp_path):
    "A commit chosen by the test: commit('abc', 100)."
    monkeypatch.setenv("DIVERSITY_KIT_PROFILE", "smoke")
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path / "cache"))
    def choose(name, when):
        monkeypatch.setenv("DIVERSITY_KIT_COMMIT", f"{name}:{when}")
        kit._commit.cache_clear()
    choose("abc", 1000)
    yield choose
    kit._commit.cache_clear()


# ---------------------------------------------------------------------------------------------------------------- verdicts

EPS = 1e-9
LOW90, HIGH90 = ninety(-0.3, 0.5)


@pytest.mark.parametrize("c, e, want", [
    (claim("+"), effect(0.1, 0.9), "supported"),
    (claim("+"), effect(EPS, 0.9), "supported"),
    (claim("+", 0.1), effect(0.0, 2.0), "inconclusive"),                    # an interval that touches 0 includes it
    (claim("+"), effect(-0.9, -0.1), "refuted"),
    (claim("+", 0.1), effect(-2.0, 0.0), "inconclusive"),
    (claim("-"), effect(-0.9, -0.1), "supported"),
    (claim("-"), effect(0.1, 0.9), "refuted"),
    (claim("-", 0.1), effect(-2.0, 0.0), "inconclusive"),
    (claim("+", HIGH90), effect(-0.3, 0.5), "inconclusive"),                # the 90 % interval only reaches the margin
    (claim("+", HIGH90 + EPS), effect(-0.3, 0.5), "equivalent"),            # and now it lies inside
    (claim("-", HIGH90 + EPS), effect(-0.3, 0.5), "equivalent"),
    (claim("+", HIGH90), effect(-0.5, 0.3), "inconclusive"),                # at the lower side
    (claim("+", HIGH90 + EPS), effect(-0.5, 0.3), "equivalent"),
    (claim("+", 0.5), effect(0.05, 0.2), "supported"),                      # small, but sure: the sign is what was claimed
    (claim("0", HIGH90 + EPS), effect(-0.3, 0.5), "supported"),
    (claim("0", HIGH90), effect(-0.3, 0.5), "inconclusive"),
    (claim("0", 0.5), effect(0.05, 0.2), "supported"),                      # not zero, but too small to matter
    (claim("0", 0.5), effect(0.5, 0.9), "refuted"),                         # beyond the margin, whole
    (claim("0", 0.5), effect(0.5 - EPS, 0.9), "inconclusive"),
    (claim("0", 0.5), effect(-0.9, -0.5), "refuted"),
    (claim("0", 0.5), effect(-0.9, -0.5 + EPS), "inconclusive"),
    (claim(3.0, 0.5), effect(2.5, 3.5), "supported"),                       # a value: the interval inside the band, ends included
    (claim(3.0, 0.5), effect(2.5 - EPS, 3.5), "inconclusive"),
    (claim(3.0, 0.5), effect(2.5, 3.5 + EPS), "inconclusive"),
    (claim(3.0, 0.5), effect(3.5, 4.0), "inconclusive"),                    # they meet in one point
    (claim(3.0, 0.5), effect(3.5 + EPS, 4.0), "refuted"),
    (claim(3.0, 0.5), effect(1.0, 2.5 - EPS), "refuted"),
    (claim(0, 0.5), effect(-0.4, 0.4), "supported"),                        # the value 0 and the claim '0' are two things
    (claim(-2, 0.5), effect(-2.2, -1.8), "supported"),
])
def test_verdict_at_its_boundaries(c, e, want):
    assert c.verdict(e) == want


@pytest.mark.parametrize("c, e", [(claim("+"), effect(5, 6, n=9)), (claim("-"), effect(5, 6, n=9)), (claim("0"), effect(-0.01, 0.01, n=9)), (claim(3.0), effect(3, 3.1, n=9))])
def test_too_few_seeds_are_never_a_verdict(c, e):
    assert c.verdict(e) == "inconclusive"
    assert c.verdict(Effect(e.mean, e.low, e.high, 10 if min(abs(e.low), abs(e.high)) >= 2 else 20, e.p)) != "inconclusive"


@pytest.mark.parametrize("mean, n, unit, want", [(1.9, 19, "points", "inconclusive"), (-1.9, 19, "points", "inconclusive"), (1.9, 20, "points", "supported"), (2.15, 19, "points", "supported"), (2.05, 19, "points", "inconclusive"), (-2.05, 19, "points", "inconclusive"), (1.9, 19, "chrF points", "supported")])
def test_effects_not_surely_two_points_need_twenty_seeds(mean, n, unit, want):
    e = Effect(mean, mean - 0.1, mean + 0.1, n, 1e-9)
    assert claim("+" if mean > 0 else "-", unit=unit).verdict(e) == want


@pytest.mark.parametrize("e, p, want", [
    (effect(1, 2), 0.049, "supported"), (effect(1, 2), 0.05, "inconclusive"), (effect(1, 2), None, "supported"),
    (effect(-2, -1), 0.049, "refuted"), (effect(-2, -1), 0.05, "inconclusive"),
    (effect(0.01, 0.2), 0.2, "equivalent"),                                 # not sure of the sign, sure that it is small
])
def test_adjusted_p_decides_too(e, p, want):
    assert claim("+").verdict(e, p) == want


BOUNDS = st.tuples(st.floats(-10, 10), st.floats(0, 10)).map(lambda x: (x[0], x[0] + x[1]))


@settings(max_examples=200, deadline=None)
@given(BOUNDS, st.floats(0.01, 5), st.integers(2, 40), st.none() | st.floats(0, 1))
def test_verdict_is_symmetric_and_one_of_four(bounds, margin, n, p):
    e, mirror = effect(*bounds, n=n), effect(-bounds[1], -bounds[0], n=n)
    plus = claim("+", margin).verdict(e, p)
    assert plus in VERDICTS and plus == claim("-", margin).verdict(mirror, p)
    assert claim("0", margin).verdict(e) == claim("0", margin).verdict(mirror)
    opposite = {"supported": "refuted", "refuted": "supported"}
    assert claim("-", margin).verdict(e, p) == opposite.get(plus, plus)     # what supports a claim refutes its opposite
    if n >= 20 and plus == "equivalent":
        assert claim("0", margin).verdict(e) == "supported"


def test_interval90_is_the_one_of_the_t_test():
    for seed in range(5):
        d = np.random.default_rng(seed).normal(0.3, 1, size=7 + seed)
        want = paired_t(d, level=0.9)
        assert interval90(paired_t(d)) == pytest.approx((want.low, want.high), rel=1e-9)
        assert interval90(paired_t(d, level=0.99)) == pytest.approx((want.low, want.high), rel=1e-9)
    assert interval90(Effect(1.0, 1.0, 1.0, 1, 1.0)) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no t interval behind"):
        interval90(bootstrap(np.arange(10.0), n_boot=50))


@pytest.mark.parametrize("change, words", [
    (dict(expected="plus"), "expected must be"), (dict(expected=math.nan), "expected must be"), (dict(expected=None), "expected must be"), (dict(expected=True), "expected must be"),
    (dict(margin=0), "margin must be a positive"), (dict(margin=-1), "margin must be a positive"), (dict(margin=math.inf), "margin must be a positive"),
    (dict(margin=math.nan), "margin must be a positive"), (dict(margin="0.5"), "margin must be a positive"), (dict(seeds=0), "seeds must be a whole"), (dict(seeds="10"), "seeds must be a whole"),
    (dict(published="+3 points"), "source mark"), (dict(published="+3 [v]"), "source mark"), (dict(published="V"), "source mark"),
    (dict(id="../up"), "names a file"), (dict(id=""), "names a file"), (dict(id="a b"), "names a file"), (dict(id="a.json"), "names a file"),
])
def test_claims_that_cannot_be_used_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        claim(**change)


def test_published_figures_with_their_mark_are_taken():
    assert claim(published="+0.8 points [V]").published and claim(published="[V2] 71 %").published and claim(id="K01_a-b")
    with pytest.raises(AttributeError):
        claim().margin = 9.0                                                # written down before the run, and not changed after it


# ---------------------------------------------------------------------------------------------------------------- records

def test_holm_runs_over_the_claims_with_a_sign_or_of_no_effect(tmp_path):
    measured = [(claim("+", id="a"), effect(0.6, 1.2, p=0.03)), (claim("-", id="b"), effect(-1.2, -0.6, p=0.04)),
                (claim("0", id="c"), effect(-0.1, 0.1, p=0.04)), (claim(3.0, id="d"), effect(2.9, 3.1, p=1e-9))]
    records = settle(measured, folder=tmp_path)
    assert [r["verdict"] for r in records] == ["inconclusive", "inconclusive", "supported", "supported"]
    smallest = ledger.tost_p(effect(-0.1, 0.1), 0.5)
    assert [r["effect"]["p_holm"] for r in records[:3]] == pytest.approx([0.06, 0.06, 3 * smallest], rel=1e-5) and records[3]["effect"]["p_holm"] is None
    family = [(claim("0", id=i), effect(-0.3, 0.55, p=math.nan)) for i in "ab"]
    assert settle(family[:1], folder=tmp_path / "one")[0]["verdict"] == "supported" and 0.025 < ledger.tost_p(family[0][1], 0.5) < 0.05
    assert [r["verdict"] for r in settle(family, folder=tmp_path / "two")] == ["inconclusive"] * 2 and ledger.table(ledger.read(tmp_path))["verdict"].tolist().count("inconclusive, by Holm's p") == 2
    alone, = settle(measured[:1], folder=tmp_path / "alone")
    assert alone["verdict"] == "supported" and alone["effect"]["p_holm"] == 0.03
    sure = settle([(c, effect(e.low, e.high, p=0.02)) for c, e in measured[:2]], folder=tmp_path / "sure")
    assert [r["verdict"] for r in sure] == ["supported", "supported"] and sure[0]["effect"]["p_holm"] == 0.04


def test_a_record_holds_the_claim_the_numbers_and_where_they_come_from(tmp_path):
    c = claim(published="+1 [V]")
    r, = settle([(c, Effect(1.23456789, 0.5, 2.0, 20, 0.0123456789))], minutes=3.14159, chapter="81_x", deviations="smaller", folder=tmp_path, curve={"t": {"a": {"10": [1, 0, 2]}}})
    assert json.loads((tmp_path / "K01.json").read_text(encoding="utf-8")) == r
    assert r["claim"] == {"id": "K01", "statement": "A helps", "source": "S0 4.2", "quantity": "accuracy(A) - accuracy(control)", "expected": "+", "margin": 0.5,
                          "seeds": 10, "unit": "points", "published": "+1 [V]"}
    assert r["effect"] == {"mean": 1.23457, "low": 0.5, "high": 2.0, "p": 0.0123457, "n": 20, "p_holm": 0.0123457}
    assert (r["chapter"], r["deviations"], r["minutes"], r["commit_time"], r["env"]["commit"]) == ("81_x", "smaller", 3.14, 1000, "abc")
    assert r["env"]["profile"] == "smoke" and re.fullmatch(r"\d{4}-\d\d-\d\d", r["date"]) and r["curve"]["t"]["a"]["10"] == [1, 0, 2]


def test_smoke_records_stay_out_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("DIVERSITY_KIT_RESULTS", raising=False)
    settle([(claim(), effect(1, 2))])
    assert [p.name for p in (tmp_path / "cache/smoke").glob("smoke-*/*.json")] == ["K01.json"]
    assert [r["claim"]["id"] for r in ledger.read()] == ["K01"]


def test_nothing_is_rewritten_when_only_the_date_would_change(tmp_path, monkeypatch, commit):
    path = tmp_path / "K01.json"
    first, = settle([(claim(), effect(1, 2))], minutes=5, folder=tmp_path)
    before = path.read_bytes(), path.stat().st_ino
    monkeypatch.setattr(ledger.time, "strftime", lambda f: "2099-01-01")
    commit("newer", 2000)
    again, = settle([(claim(), effect(1, 2))], minutes=7, folder=tmp_path)
    assert (path.read_bytes(), path.stat().st_ino) == before and again == first
    changed, = settle([(claim(), effect(1, 2.5))], minutes=7, folder=tmp_path)
    assert path.stat().st_ino != before[1] and changed["date"] == "2099-01-01" and changed["env"]["commit"] == "newer"
    other, = settle([(claim(margin=0.6), effect(1, 2.5))], folder=tmp_path)                 # another claim with the same numbers is another record
    assert json.loads(path.read_text())["claim"]["margin"] == 0.6 == other["claim"]["margin"]


def test_an_older_commit_never_replaces_a_newer_record(tmp_path, commit):
    commit("new", 2000)
    settle([(claim(), effect(1, 2))], folder=tmp_path)
    commit("old", 1999)
    with pytest.warns(UserWarning, match="newer commit .new. and stays"):
        got, = settle([(claim(), effect(-2, -1))], folder=tmp_path)
    kept = json.loads((tmp_path / "K01.json").read_text())
    assert kept["verdict"] == "supported" and kept["env"]["commit"] == "new"
    assert got["verdict"] == "refuted" and got["effect"]["mean"] == -1.5           # what was measured, not what the file says
    commit("same", 2000)
    settle([(claim(), effect(-2, -1))], folder=tmp_path)
    assert json.loads((tmp_path / "K01.json").read_text())["verdict"] == "refuted"


@pytest.mark.parametrize("measured, words", [
    ([(claim(), effect(1, 2)), (claim(margin=2), effect(1, 2))], "same claim twice"),
    ([(claim(id="ok"), effect(1, 2)), (claim(), effect(1, math.nan))], "claim K01: the effect .* is not finite"),
    ([(claim(id="ok"), effect(1, 2)), (claim(), effect(1, math.inf))], "claim K01: the effect .* is not finite"),
    ([(claim(id="ok"), effect(1, 2)), (claim(), effect(1, 2, p=math.nan))], "claim K01: a claim with a sign needs a p-value"),
    ([(claim(id="ok"), effect(1, 2)), (claim(), effect(1, 2, p=1.5))], "claim K01: a claim with a sign needs a p-value"),
    ([(claim(id="ok"), effect(1, 2)), (claim("0"), paired_t(np.arange(20.0) / 100, level=0.9))], "claim K01: a verdict is read from a 95 % interval .* at level 0.9"),
    ([(claim(id="ok"), effect(1, 2)), (claim(1.0), effect(2, 1))], "claim K01: a verdict is read from"),
    ([(claim(id="ok"), effect(1, 2)), (claim(), Effect(-5, 1, 2, 20, 0.001))], "claim K01: a verdict is read from"),
])
def test_what_supports_nothing_writes_nothing(tmp_path, measured, words):
    with pytest.raises(ValueError, match=words):
        settle(measured, folder=tmp_path)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("measured", [(claim(), effect(1, 2)), [(claim(), 0.5)], [("K01", effect(1, 2))], [claim()]])
def test_anything_but_pairs_is_refused_before_a_file_is_written(tmp_path, measured):
    with pytest.raises(TypeError, match=r"pairs \(Claim, Effect\)"):
        settle(measured, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_verdict_follows_from_what_the_file_says_even_for_a_tiny_margin(tmp_path):
    exact = 2.2256440889984477
    c = claim(exact, margin=1e-9, seeds=1, unit="nats")
    r, = settle([(c, Effect(exact, exact, exact, 1, math.nan))], chapter="foundations/22_losses", folder=tmp_path)
    said = json.loads((tmp_path / "K01.json").read_text())
    assert r["verdict"] == "supported" == Claim(**said["claim"]).verdict(Effect(*(said["effect"][k] for k in ("mean", "low", "high", "n")), math.nan))
    assert said["chapter"] == "22_losses"                                   # one spelling, whatever the notebook says
    assert "2.22564" in ledger.table([r | {"where": "here"}])["ours (95 % interval)"][0]


@pytest.mark.parametrize("c, e, want", [
    (claim("+", seeds=10), effect(0.5, 1.5, n=12), "inconclusive, 12 of 20 seeds"), (claim("+", seeds=30), effect(2.5, 3.5), "inconclusive, 20 of 30 seeds"),
    (claim("+"), effect(2.5, 3.5, p=0.2), "inconclusive, by Holm's p"), (claim("+", 5.), effect(-3.5, -2.5, p=0.2), "equivalent, by Holm's p"),
    (claim("+", 9.), effect(2.5, 3.5), "supported, below the margin"), (claim("+"), effect(-2.5, 3.5), "inconclusive"), (claim("+"), effect(2.5, 3.5), "supported"),
])
def test_the_table_says_what_the_interval_does_not_show(tmp_path, c, e, want):
    assert ledger.table(settle([(c, e)], folder=tmp_path))["verdict"].tolist() == [want]


def test_a_value_can_be_attached_to_one_claim(tmp_path):
    one, two = settle([(claim(id="K01"), effect(1, 2)), (claim(id="K02"), effect(1, 2))], minutes=5, deviations="both", folder=tmp_path,
                      attach={"K02": {"minutes": 1.234, "deviations": "other", "curve": {}, "speed": {"docs/s": 3}}})
    assert (one["minutes"], one["deviations"], "curve" in one, "speed" in one) == (5, "both", False, False)
    assert (two["minutes"], two["deviations"], two["curve"], two["speed"]) == (1.23, "other", {}, {"docs/s": 3})
    with pytest.raises(ValueError, match="attach names K03"):
        settle([(claim(id="K04"), effect(1, 2))], folder=tmp_path, attach={"K03": {}})
    assert not (tmp_path / "K04.json").exists()


def test_the_p_of_a_record_is_that_of_its_claims_test(tmp_path):
    kept = settle([(claim(x, id=f"K{i}"), effect(-0.1, 0.1)) for i, x in enumerate(("+", "-", "0", 3.0))], folder=tmp_path)
    assert [r["effect"]["p"] for r in kept[:3]] == pytest.approx([0.001, 0.001, ledger.tost_p(effect(-0.1, 0.1), 0.5)], rel=1e-5) and kept[3]["effect"]["p"] is None


def test_tost_p_is_that_of_the_test_itself():
    for seed in range(6):
        d = np.random.default_rng(seed).normal(0.2, 1, size=8 + seed)
        assert ledger.tost_p(paired_t(d), 0.6) == pytest.approx(tost(d, margin=0.6).p, rel=1e-9)
        assert ledger.tost_p(paired_t(d, level=.99), 0.6) == pytest.approx(tost(d, margin=0.6).p, rel=1e-9)
    assert ledger.tost_p(Effect(.2, .2, .2, 5, 0), .5) == 0 and ledger.tost_p(Effect(.5, .5, .5, 1, 0), .5) == 1


def test_a_value_needs_no_p(tmp_path):
    r, = settle([(claim(3.0), effect(2.9, 3.1, p=math.nan))], folder=tmp_path)
    assert r["verdict"] == "supported" and r["effect"]["p"] is None and "NaN" not in (tmp_path / "K01.json").read_text()


def test_folders_are_merged_and_the_newer_commit_wins(tmp_path, commit):
    here, there = tmp_path / "here", tmp_path / "there"
    commit("a", 100)
    settle([(claim(id="K01"), effect(1, 2)), (claim(id="K02"), effect(1, 2))], folder=here / "cpu-2core")
    settle([(claim(id="K01"), effect(1, 2))], folder=here / "gpu-h100")
    commit("b", 200)
    settle([(claim(id="K01"), effect(-2, -1)), (claim(id="K03"), effect(1, 2))], folder=there / "cpu-2core")
    for folders in ([here, there], [there, here]):                          # whatever the order
        got = {(r["where"], r["claim"]["id"]): r["verdict"] for r in ledger.read(folders)}
        assert got == {("cpu-2core", "K01"): "refuted", ("cpu-2core", "K02"): "supported", ("cpu-2core", "K03"): "supported", ("gpu-h100", "K01"): "supported"}
    assert [(r["where"], r["claim"]["id"]) for r in ledger.read(str(here))] == [("cpu-2core", "K01"), ("cpu-2core", "K02"), ("gpu-h100", "K01")]
    assert ledger.read(tmp_path / "nowhere") == []


@pytest.mark.parametrize("text", ["", "{", "<<<<<<< HEAD\n{}", "[]", "3", '{"claim": {"id": "K01"}}', '"claim"'])
def test_a_damaged_record_is_named_and_can_be_made_again(tmp_path, text):
    path = tmp_path / "cpu-x" / "K01.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cpu-x.K01\.json is not a ledger record .*delete it and run its chapter again"):
        ledger.read(tmp_path)
    settle([(claim(), effect(1, 2))], folder=path.parent)
    assert [r["verdict"] for r in ledger.read(tmp_path)] == ["supported"]


def test_other_files_in_results_are_left_alone(tmp_path):
    settle([(claim(), effect(1, 2))], folder=tmp_path / "cpu-x")
    (tmp_path / "cpu-x/chapters.json").write_text('{"measure/11_stats": {"minutes": 1}}')
    assert len(ledger.read(tmp_path)) == 1


# ---------------------------------------------------------------------------------------------------------------- tables and the report

def records(tmp_path):
    nasty = Claim("K02", "a | b\nc <b>bold</b> & \"q\"", "S1", "x - y", "0", 0.01, 10, unit="F1", published="<0.1 [V2]")
    settle([(claim(), effect(1, 2)), (claim(12.0, id="speed", unit="docs/s"), Effect(12.0, 11.9, 12.1, 12, 0.0))], folder=tmp_path / "cpu-2core", minutes=1.5,
           curve={"accuracy": {"base": {"100": [60, 58, 62], "500": [70, 69, 71]}, "augmented": {"100": [63, 61, 65], "500": [71, 70, 72]}}})
    settle([(nasty, effect(-0.001, 0.002))], folder=tmp_path / "gpu-h100", deviations="one | less")
    return ledger.read(tmp_path)


def test_table_has_a_row_per_record(tmp_path):
    frame = ledger.table(records(tmp_path))
    assert frame["claim"].tolist() == ["K01", "speed", "K02"] and frame["where"].tolist() == ["cpu-2core", "cpu-2core", "gpu-h100"]
    assert frame["ours (95 % interval)"].tolist() == ["+1.50 [+1.00, +2.00] points", "+12.0000 [+11.9000, +12.1000] docs/s", "+0.0005 [-0.0010, +0.0020] F1"]
    assert frame["verdict"].tolist() == ["supported"] * 3 and frame["seeds"].tolist() == [20, 12, 20] and frame["published"].tolist() == ["-", "-", "<0.1 [V2]"]
    assert list(ledger.table([]).columns) == list(frame.columns)


def test_a_sure_sign_below_the_margin_is_said_wherever_the_verdict_is(tmp_path):
    signed = lambda name, low, high, sign="+": (claim(sign, .5, id=name), effect(low, high))
    made = settle([signed("K01", .1, .3), signed("K02", -.3, -.1), signed("K03", .1, .7), signed("K04", .55, .9), signed("K05", -.2, .2), signed("K06", -.2, .2, "0")], folder=tmp_path / "cpu-x")
    assert [r["verdict"] for r in made] == ["supported", "refuted", "supported", "supported", "equivalent", "supported"]
    assert [ledger.below_margin(r) for r in made] == [True, True, False, False, False, False]
    found = ledger.read(tmp_path)
    assert ledger.table(found)["verdict"].tolist() == ["supported, below the margin", "refuted, below the margin", "supported", "supported", "equivalent", "supported"]
    assert "2 are smaller than the margin" in ledger.summary(found) and "smaller" not in ledger.summary(found[2:])
    page = ledger.report(tmp_path / "r.html", found).read_text(encoding="utf-8")
    assert "<td class=supported>supported, below the margin</td>" in page


def test_markdown_keeps_its_columns(tmp_path):
    lines = ledger.markdown(records(tmp_path)).splitlines()
    assert len(lines) == 5 and {len(re.findall(r"(?<!\\)\|", x)) for x in lines} == {11}   # ten cells in every row
    assert "a \\| b c <b>" in lines[-1] and "one \\| less" in lines[-1]
    assert lines[1] == "|" + "---|" * 10
    assert "python3 kit run" in ledger.markdown([])


class Page(HTMLParser):
    "What a page loads, and whether its elements close."

    def __init__(self):
        super().__init__()
        self.loads, self.open, self.texts, self.figures, self.bad = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.loads += [v for k, v in attrs.items() if k in ("src", "srcset", "data", "action", "poster") or (k.endswith("href") and not v.startswith("#"))]
        if tag in ("script", "link", "iframe", "object", "embed", "b"):
            self.bad.append(tag)
        if tag == "figure":
            self.figures.append(attrs["aria-label"])
        if tag not in ("meta", "html"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.remove(tag)

    def handle_endtag(self, tag):
        if tag != "html":
            assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.texts.append(data)


def test_report_is_one_file_that_loads_nothing(tmp_path):
    path = ledger.report(tmp_path / "deep" / "report.html", records(tmp_path))
    text, page = path.read_text(encoding="utf-8"), Page()
    page.feed(text)
    assert not page.loads and not page.bad and not page.open
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    shown = " ".join(page.texts)
    assert 'a | b\nc <b>bold</b> & "q"' in shown and "3 records" in shown and kit.env_report()["python"] in shown
    assert page.figures == ["Effects in points with 95 % intervals, cpu-2core", "accuracy, cpu-2core"]     # two records share the curve; F1 and docs/s have no common zero
    assert text.count("<svg") == 2 and text.count("<td class=supported>") == 3


def test_large_effects_get_an_axis_of_their_own(tmp_path):
    settle([(claim(id="at"), effect(1, 2)), (claim(id="beyond"), effect(1, 2.01))], folder=tmp_path / "cpu-x")        # 4 margins are the border
    page = Page()
    page.feed(ledger.report(tmp_path / "report.html", ledger.read(tmp_path)).read_text(encoding="utf-8"))
    assert page.figures == ["Effects in points with 95 % intervals, cpu-x", "Large effects in points with 95 % intervals, cpu-x"]


def test_forest_draws_the_unit_it_is_asked_for_of_any_size_and_of_what_settle_returns(tmp_path):
    settled = settle([(claim(id="n", unit="nats"), effect(0.1, 0.2)), (claim(id="large"), effect(9, 11))], folder=tmp_path / "cpu-x")
    for unit in ("nats", "points"):
        assert "<svg" in ledger.forest(settled, tmp_path / f"{unit}.svg", unit=unit).read_text()
    assert ledger.forest(settled, tmp_path / "none.svg", unit="BLEU") is None and not (tmp_path / "none.svg").exists()
    page = Page()
    page.feed(ledger.report(tmp_path / "r.html", settled).read_text(encoding="utf-8"))
    assert page.figures == [f"Large effects in points with 95 % intervals, {kit.results_dir().name}"]


def test_report_without_records(tmp_path):
    text = ledger.report(tmp_path / "report.html", []).read_text(encoding="utf-8")
    assert "0 records" in text and "<svg" not in text


def test_p_values_are_printed_for_readers():
    assert [ledger.p_text(p) for p in (1, .5512, .1, .0996, .0484, .001, .00099, 0, None, math.nan)] == ["1.00", "0.55", "0.10", "0.100", "0.048", "0.001", "< 0.001", "< 0.001", "–", "–"]
    for bad in (-.1, 1.2, math.inf):
        with pytest.raises(ValueError, match="between 0 and 1"):
            ledger.p_text(bad)


def test_no_chapter_prints_a_raw_p_value():
    "Every table of claims formats its p: 5.5e-01 and NaN say nothing to a reader."
    from pathlib import Path

    import nbformat
    for path in sorted((Path(__file__).parents[1] / "nbs").rglob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code" and "p_holm" in cell.source and "#| export" not in cell.source:
                assert '"p (Holm)": r[' not in cell.source, f"{path.name}, cell {cell.id}: p_text(r['effect']['p_holm'])"
                for out in cell.outputs:
                    assert not re.search(r"\d\.\d+e-\d\d\s|\bNaN\b", out.get("data", {}).get("text/plain", "").partition("p (Holm)")[2]), f"{path.name}, cell {cell.id}"


def test_elsewhere_shows_the_chapter_on_other_machines_alone(tmp_path, monkeypatch):
    here, there = tmp_path / "cpu-here", tmp_path / "gpu-there"
    for folder, chapter, i in ((here, "63_finetune", "A"), (there, "63_finetune", "A"), (there, "63_finetune", "B"), (there, "64_pretrain", "C")):
        folder.mkdir(exist_ok=True)
        ledger.settle([(Claim(i, "it helps", "here", "a - b", "+", 0.5, 2), Effect(1.0, 0.5, 1.5, 10, 0.001))], chapter=chapter, folder=folder)
    monkeypatch.setattr(ledger.kit, "results_dir", lambda: here)
    found = ledger.elsewhere("63_finetune")
    assert found["claim"].tolist() == ["A", "B"] and set(found["where"]) == {"gpu-there"}
    assert ledger.elsewhere("65_peft") == "no other machine has run this chapter yet"


def test_a_record_says_that_its_interval_covers_the_test_rows(tmp_path):
    from diversity_kit.measure.stats import paired_t, two_way
    claim = lambda i: Claim(i, "s", "S", "q", "+", .5, 2)
    wide, narrow = ledger.settle([(claim("A"), two_way([1., 2, 3], [2., 2, 2.1])), (claim("B"), paired_t([1., 2, 3]))], folder=tmp_path, deviations="as written")
    assert wide["effect"]["over"] == "seeds and test rows" and "over" not in narrow["effect"]
    said = ledger.table([wide, narrow])["deviations"].tolist()
    assert said == ["interval over seeds and test rows; as written", "as written"]
