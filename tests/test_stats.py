"""measure.stats: properties, golden values, agreement with scipy and statsmodels, faults; and the exercises of its chapter."""
import json
import pickle
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from diversity_kit.measure import stats
from diversity_kit.measure.stats import (
    Effect, Equivalence, bootstrap, detectable, holm, mcnemar, paired_t, power, seeds_needed, sign_flip, tost, two_way, row_blocks, without_blocks, over_rows)

CHAPTER = Path(__file__).parent.parent / "nbs" / "measure" / "11_stats.ipynb"
numbers = st.lists(st.integers(-1000, 1000).map(lambda k: k / 8), min_size=2, max_size=12)          # sums are exact in binary
quick = settings(max_examples=60, deadline=None)


# ---- what every function of paired scores must refuse

@pytest.mark.parametrize("call", [paired_t, bootstrap, sign_flip, lambda a: tost(a, margin=1), lambda a: two_way(a, [1, 2]), lambda a: two_way([1, 2], a)], ids=["t", "bootstrap", "flip", "tost", "seeds", "rows"])
@pytest.mark.parametrize("bad,error", [
    ([], ValueError), ([1.0], ValueError), ([1, np.nan, 2], ValueError), ([1, np.inf], ValueError), ([1, None], ValueError),
    (3.0, ValueError), ("12", TypeError), ({1.0, 2.0}, TypeError), ({"a": 1, "b": 2}, TypeError)], ids=str)
def test_bad_samples_are_refused(call, bad, error):
    with pytest.raises(error):
        call(bad)


@pytest.mark.parametrize("call", [paired_t, sign_flip, lambda a, b=None: tost(a, b, margin=1)])
@pytest.mark.parametrize("bad", [["1", "2"], [1j, 2], [[1, 2], [3, 4]], [[1], [2, 3]]], ids=str)
def test_only_vectors_of_real_numbers(call, bad):
    with pytest.raises((TypeError, ValueError)):
        call(bad)


def test_messages_say_what_and_where():
    with pytest.raises(ValueError, match=r"a has NaN or inf at position\(s\) \[1\]"): paired_t([1, np.nan], [1, 2])
    with pytest.raises(ValueError, match="3 values against 2"): paired_t([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="empty"): paired_t([])
    with pytest.raises(ValueError, match="one value"): paired_t([4])
    with pytest.raises(ValueError, match="write 0.95"): paired_t([1, 2], level=95)
    with pytest.raises(TypeError, match="margin="): tost([1, 2])


@pytest.mark.parametrize("level", [0, 1, -0.1, 95, True, np.nan, "0.95", None])
def test_wrong_level(level):
    for f in (paired_t, bootstrap):
        with pytest.raises(ValueError, match="level"): f([1, 2, 3], level=level)


@pytest.mark.parametrize("call", [paired_t, sign_flip, lambda a, b: tost(a, b, margin=1), lambda a, b: bootstrap(a, other=b)])
def test_unequal_lengths(call):
    with pytest.raises(ValueError): call([1, 2, 3], [1, 2])


def test_pandas_index_must_match():
    import pandas as pd
    a = pd.Series([1.0, 2.0, 4.0], index=[0, 1, 2])
    right = pd.Series([1, 0, 1], index=[0, 1, 2])
    for call in (lambda: paired_t(a, a[::-1]), lambda: bootstrap(a, other=a[::-1]), lambda: mcnemar(right, right[::-1])):
        with pytest.raises(ValueError, match="index"): call()
    assert paired_t(a, a + 1).mean == -1


# ---- paired t

@quick
@given(numbers, st.floats(0.5, 0.999))
def test_paired_t_is_scipys(d, level):
    e = paired_t(d, level=level)
    if np.ptp(d) == 0:
        assert (e.low, e.high, e.p) == (d[0], d[0], float(d[0] == 0))
        return
    ref = scipy.stats.ttest_1samp(d, 0)
    assert np.allclose([e.low, e.high], ref.confidence_interval(level)) and np.isclose(e.p, ref.pvalue)
    assert e.n == len(d) and e.low <= e.mean <= e.high
    if abs(e.p - (1 - level)) > 1e-9:
        assert e.excludes_zero == (e.p < 1 - level)                               # interval and p say the same


@quick
@given(numbers, st.data())
def test_paired_t_pairs_and_mirrors(a, data):
    b = data.draw(st.lists(st.integers(-100, 100).map(float), min_size=len(a), max_size=len(a)))
    assert paired_t(a, b) == paired_t(np.subtract(a, b))
    e, r = paired_t(a, b), paired_t(b, a)
    assert np.allclose([e.mean, e.low, e.high, e.p], [-r.mean, -r.high, -r.low, r.p])


def test_paired_t_golden_and_degenerate():
    e = paired_t([1, 2, 3])
    assert np.allclose([e.mean, e.low, e.high, e.p], [2, -0.484138, 4.484138, 0.0741799], atol=1e-6)
    assert (e.n, e.level, e.method) == (3, 0.95, "paired t")
    same = paired_t([0.3, 0.3, 0.3])
    assert (same.low, same.high, same.p) == (0.3, 0.3, 0.0) and same.excludes_zero
    zero = paired_t([5, 5], [5, 5])
    assert (zero.mean, zero.p, zero.excludes_zero) == (0.0, 1.0, False)
    assert paired_t([0.1 + 0.2] * 4, [0.3] * 4).p == 1.0                          # a rounding error is not an effect
    assert paired_t([True, False, True], [False, False, True]).mean == pytest.approx(1 / 3)
    assert paired_t(np.array([250, 1, 2], np.uint8), np.array([255, 2, 2], np.uint8)).mean == -2       # no wrap-around
    assert paired_t(x for x in (1.0, 2.0)).n == 2


def test_shown_as_promised():
    e = Effect(1.23, 0.40, 2.06, 20, 0.006)
    assert repr(e) == str(e) == "+1.23 [0.40, 2.06] n=20 p=0.006"
    assert repr(Effect(-0.0123, -0.0200, -0.0046, 5, 1e-5)) == "-0.0123 [-0.0200, -0.0046] n=5 p<0.001"
    assert str(Effect(12.3, 4, 20.6, 5, 0.02)) == "+12.30 [4.00, 20.60] n=5 p=0.020" and str(paired_t([0.001] * 3)).startswith("+0.0010 [")
    assert e._repr_html_() == "<b>+1.23</b> [0.40, 2.06] n=20 p=0.006 &nbsp; <small>95 % </small>"
    assert "p&lt;0.001" in Effect(1, .5, 2, 5, 0.0)._repr_html_()
    frame = e.to_pandas()
    assert frame.shape == (1, 7) and frame.loc[0, "mean"] == 1.23 and list(frame)[:5] == ["mean", "low", "high", "n", "p"]
    assert json.loads(json.dumps(paired_t([1, 2, 4]).to_dict()))["n"] == 3          # plain python values
    assert json.loads(json.dumps(tost([1, 2, 4], margin=1).to_dict()))["equivalent"] is False
    assert pickle.loads(pickle.dumps(e)) == e
    with pytest.raises(AttributeError): e.mean = 2
    assert repr(tost([0.1, -0.1, 0.0, 0.1], margin=1)).startswith("equivalent within ±1: +0.03 [")
    assert "not shown" in repr(tost([1, 2, 3], margin=1))


# ---- bootstrap

def test_bootstrap_matches_scipy():
    x, y = np.random.default_rng(0).exponential(size=(2, 60))
    for method in ("percentile", "bca"):
        for stat in (np.mean, np.std):
            ref = scipy.stats.bootstrap((x,), stat, n_resamples=2000, method=method.replace("bca", "BCa"), rng=1).confidence_interval
            e = bootstrap(x, stat, n_boot=2000, method=method, seed=1)             # the same seed draws the same resamples
            assert np.allclose([e.low, e.high], ref) and e.mean == pytest.approx(stat(x))
        e = bootstrap(x, other=y, n_boot=2000, method=method, seed=1)
        ref = scipy.stats.bootstrap((x - y,), np.mean, n_resamples=2000, method=method.replace("bca", "BCa"), rng=1).confidence_interval
        assert np.allclose([e.low, e.high], ref)


def test_bootstrap_statistics_with_and_without_axis_agree():
    x = np.random.default_rng(1).normal(size=30)
    fast, slow = bootstrap(x, np.median, n_boot=300), bootstrap(x, lambda v: np.median(v), n_boot=300)
    assert fast == slow
    rows = bootstrap(np.c_[x, x], lambda r: np.median(r[:, 1]), n_boot=300)        # rows of several columns
    assert (rows.low, rows.high) == (fast.low, fast.high)
    texts = bootstrap(["a", "bb", "ccc", "dddd"] * 5, lambda t: np.mean([len(w) for w in t]), n_boot=100)
    assert texts.mean == 2.5 and texts.low < 2.5 < texts.high


def test_bootstrap_takes_texts_as_lists_of_tokens():
    texts = [["a"], ["a", "b"], ["c", "d", "e"], ["a"] * 5]
    e = bootstrap(texts, statistic=lambda rows: float(np.mean([len(r) for r in rows])), n_boot=200)
    assert e.mean == np.mean([1, 2, 3, 5]) and 1 <= e.low < e.high <= 5 and e.n == 4


def test_bootstrap_keeps_the_pairs():
    x = np.random.default_rng(2).normal(size=50)
    e = bootstrap(x + 1, other=x, n_boot=200)                                      # the same resample in both: no spread at all
    assert e.low == pytest.approx(1) and e.high == pytest.approx(1)
    y = np.random.default_rng(3).normal(size=50)
    paired, plain = bootstrap(x, other=y, n_boot=500), bootstrap(x - y, n_boot=500)
    assert np.allclose([paired.low, paired.high, paired.p], [plain.low, plain.high, plain.p])


def test_bootstrap_seed_blocks_and_p(monkeypatch):
    x = np.random.default_rng(4).exponential(size=40) - 1.0                        # lopsided: BCa differs from percentile
    assert bootstrap(x, seed=1) == bootstrap(x, seed=1) != bootstrap(x, seed=2)
    assert bootstrap(x, seed=np.random.default_rng(1)) == bootstrap(x, seed=1)
    for method in ("percentile", "bca"):
        e = bootstrap(x, n_boot=20_000, method=method)
        edge = bootstrap(x, n_boot=20_000, method=method, level=1 - e.p)           # p inverts the interval: one end falls on 0
        assert 0.001 < e.p < 0.5 and min(abs(edge.low), abs(edge.high)) < 0.002
        assert bootstrap([1, 1, 1], method=method).p == pytest.approx(2 / 2001) and bootstrap([0, 0, 0], method=method).p == 1
    big = bootstrap(np.random.default_rng(5).integers(0, 2, 30_000), n_boot=100)    # more than one block
    assert 0.49 < big.low < big.high < 0.51


@pytest.mark.parametrize("kwargs,match", [
    (dict(method="basic"), "method"), (dict(n_boot=10), "n_boot"), (dict(n_boot=100.0), "n_boot"),
    (dict(level=0.999, n_boot=1000), "n_boot"), (dict(statistic=lambda v: v), "one number"),
    (dict(statistic=lambda v: np.nan), "NaN")], ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_bootstrap_faults(kwargs, match):
    with pytest.raises(ValueError, match=match): bootstrap([1.0, 2.0, 4.0], **kwargs)


def test_percentile_bootstrap_undercovers_at_five_and_t_does_not():
    five = np.random.default_rng(6).normal(size=(1500, 5))
    hit = lambda e: e.low <= 0 <= e.high
    assert 0.80 < np.mean([hit(bootstrap(d, n_boot=400, seed=i)) for i, d in enumerate(five)]) < 0.87      # design: measured 0.84
    assert 0.93 < np.mean([hit(paired_t(d)) for d in five]) < 0.97


# ---- sign flip

@quick
@given(st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=8))
def test_sign_flip_counts_every_pattern(d):
    sums = [abs(np.dot(s, d)) for s in product((-1, 1), repeat=len(d))]
    assert sign_flip(d) == np.mean([s >= abs(sum(d)) for s in sums])
    assert sign_flip(d) == sign_flip([-v for v in d]) == sign_flip(d, [0] * len(d))


@quick
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=10))
def test_sign_flip_sees_ties_through_rounding(d):
    assert sign_flip([k / 10 for k in d]) == sign_flip(d)                          # tenths are not exact in binary


def test_sign_flip_golden():
    assert sign_flip([1, 2, 3]) == 0.25
    assert sign_flip([9, 8, 9, 7, 9]) == 0.0625                                    # five seeds can never reach 0.05
    assert sign_flip([0, 0, 0]) == 1.0
    assert sign_flip([0.1, 0.2, 0.3, -0.1 - 0.2 - 0.3]) == 1.0
    assert sign_flip([0.1, 0.2, -0.3]) == 1.0                                      # a sum of 0 up to rounding is met by every pattern
    assert sign_flip([0.1, 0.2, 0.3, 0.6], exact_up_to=0, n_perm=20_000) == pytest.approx(0.125, abs=0.01)


def test_sign_flip_monte_carlo():
    d = np.random.default_rng(7).normal(0.5, 1, 16)
    exact, random = sign_flip(d, exact_up_to=16), sign_flip(d, n_perm=50_000)
    assert exact != random and random == pytest.approx(exact, abs=5 * np.sqrt(exact / 50_000))
    assert sign_flip(d, seed=1) == sign_flip(d, seed=1) != sign_flip(d, seed=2)
    assert sign_flip(np.ones(40), n_perm=99) == 1 / 100                            # never 0
    for kwargs in (dict(n_perm=0), dict(n_perm=1.5), dict(exact_up_to=21), dict(exact_up_to=-1)):
        with pytest.raises(ValueError): sign_flip(np.ones(30), **kwargs)


def test_sign_flip_keeps_its_level():
    for n in (6, 10):
        draws = np.random.default_rng(n).standard_t(3, (1500, n))                   # heavy tails, symmetric
        assert np.mean([sign_flip(d) <= 0.05 for d in draws]) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 1500)


# ---- TOST

@quick
@given(numbers, st.floats(0.1, 100))
def test_tost_is_the_90_percent_interval_inside_the_margin(d, margin):
    e = tost(d, margin=margin)
    i = paired_t(d, level=0.9)
    assert (e.low, e.high, e.mean, e.n, e.margin) == (i.low, i.high, i.mean, len(d), margin)
    if np.ptp(d) > 0:
        assert e.p == pytest.approx(DescrStatsW(d).ttost_mean(-margin, margin)[0], abs=1e-9)
    if abs(e.p - 0.05) > 1e-9:
        assert e.equivalent == (-margin < e.low and e.high < margin) == (e.p < 0.05)
    assert float(e) == e.p


def test_tost_degenerate_and_faults():
    assert isinstance(tost([0, 0], margin=1), Equivalence)
    assert (tost([0.5, 0.5], margin=1).p, tost([0.5, 0.5], margin=1).equivalent) == (0.0, True)
    assert (tost([2, 2], margin=1).p, tost([1, 1], margin=1).p, tost([-2, -2], margin=1).equivalent) == (1.0, 1.0, False)
    assert tost([1, 2, 3], [1, 2, 4], 5).margin == 5
    for margin in (0, -1, np.nan, np.inf, True, "1"):
        with pytest.raises(ValueError, match="margin"): tost([1, 2], margin=margin)
    for alpha in (0, 0.5, 1, 5, True):
        with pytest.raises(ValueError, match="alpha"): tost([1, 2], margin=1, alpha=alpha)
    strict, mild = tost([0, 0.5, 1, 0.2], margin=0.9), tost([0, 0.5, 1, 0.2], margin=0.9, alpha=0.1)
    assert 0.05 < strict.p == mild.p < 0.1 and mild.equivalent and not strict.equivalent and mild.low > strict.low


def test_tost_calls_an_effect_at_the_margin_none_in_at_most_5_percent():
    for effect in (0.8, -0.8):
        d = np.random.default_rng(8).normal(effect, 1, (1500, 20))
        rate = np.mean([tost(x, margin=0.8).equivalent for x in d])
        assert 0.02 < rate <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 1500)


# ---- McNemar

@quick
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_mcnemar_is_statsmodels(pairs):
    a, b = np.array(pairs).T
    m = mcnemar(a, b)
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    assert (m.only_a, m.only_b, m.n) == (table[0][1], table[1][0], len(pairs))
    assert m.p == pytest.approx(sm_mcnemar(table, exact=True).pvalue) and float(m) == m.p
    assert m.difference == pytest.approx(a.mean() - b.mean())
    assert mcnemar(b, a).p == m.p
    if m.only_a != m.only_b:                                                       # a tie: statsmodels' correction overshoots 0
        assert mcnemar(a.astype(int), b.astype(float), exact=False).p == pytest.approx(sm_mcnemar(table, exact=False).pvalue)


def test_mcnemar_golden_and_faults():
    a, b = np.r_[np.ones(8), np.zeros(2), np.ones(5)], np.r_[np.zeros(8), np.ones(2), np.ones(5)]
    assert mcnemar(a, b).p == pytest.approx(2 * 56 / 1024)                         # 1 + 10 + 45 of 1024, twice
    assert mcnemar(a, b, exact=False).p == pytest.approx(scipy.stats.chi2.sf(25 / 10, 1))
    assert mcnemar([1, 0], [1, 0]).p == mcnemar([1, 0], [1, 0], exact=False).p == mcnemar([1, 0], [0, 1], exact=False).p == 1.0
    assert repr(mcnemar(a, b)) == "only a right: 8, only b right: 2, difference +40.00 % n=15 p=0.109"
    for bad in ([0, 2], [0.5, 1], [0, np.nan], [1], []):
        with pytest.raises(ValueError): mcnemar(bad, bad)
    for a, b in (([0, 1], [0, 2]), ([0, 2], [0, 1])):
        with pytest.raises(ValueError, match="only True/False"): mcnemar(a, b)
    with pytest.raises(ValueError, match="same examples"): mcnemar([1, 0], [1, 0, 1])


# ---- Holm

@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=15), st.integers(0, 99))
def test_holm_rejects_step_by_step_and_keeps_the_order(p, seed):
    adjusted = holm(p)
    for alpha in (0.01, 0.05, 0.3):
        rejected = 0
        for k, value in enumerate(sorted(p)):                                      # the procedure as Holm wrote it
            if value * (len(p) - k) > alpha: break
            rejected += 1
        assert isinstance(adjusted, np.ndarray) and np.sum(adjusted <= alpha) == rejected
    assert (adjusted >= np.array(p) - 1e-15).all() and (adjusted <= np.minimum(1, np.array(p) * len(p)) + 1e-15).all()
    shuffle = np.random.default_rng(seed).permutation(len(p))
    assert np.allclose(holm(np.array(p)[shuffle]), adjusted[shuffle])


def test_holm_golden_and_faults():
    assert np.allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    many = np.random.default_rng(11).uniform(size=30) ** 3
    assert np.allclose(holm(many), multipletests(many, method="holm")[1])
    assert holm([0.2]) == [0.2] and np.allclose(holm([0, 1]), [0, 1])
    for bad in ([], [-0.1, 0.5], [0.2, 1.1], [np.nan], [[0.1, 0.2]]):
        with pytest.raises(ValueError): holm(bad)


def test_holm_family_wise_error():
    p = np.random.default_rng(9).uniform(size=(4000, 5))
    rate = np.mean([holm(q).min() <= 0.05 for q in p])
    assert 0.03 < rate <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 4000)


# ---- power

def test_seeds_needed_is_the_planning_table():
    assert {r: seeds_needed(r, 1) for r in (2.0, 1.5, 1.0, 0.8, 0.5, 0.25)} == {2.0: 5, 1.5: 6, 1.0: 10, 0.8: 15, 0.5: 34, 0.25: 128}
    assert seeds_needed(-1, 2) == seeds_needed(0.5) == 34 and seeds_needed(3, 0) == 2 and seeds_needed(1000, 1) == 2


@quick
@given(st.floats(0.05, 3), st.integers(3, 200), st.sampled_from([0.01, 0.05, 0.1]))
def test_power_is_statsmodels(ratio, n, alpha):
    ref = TTestPower().power(ratio, n, alpha)
    assert power(ratio, n, alpha) == power(-ratio, n, alpha)
    assert np.isnan(ref) or power(ratio, n, alpha) == pytest.approx(ref, abs=1e-6)  # statsmodels gives NaN for some strong effects
    assert alpha <= power(ratio, n, alpha) + 1e-9 <= power(ratio, n + 1, alpha) + 2e-9


@quick
@given(st.floats(0.03, 5), st.floats(0.3, 0.99))
def test_seeds_needed_is_the_smallest(ratio, want):
    n = seeds_needed(ratio, 1.0, power=want)
    assert power(ratio, n) >= want and (n == 2 or power(ratio, n - 1) < want)
    assert seeds_needed(3 * ratio, 3.0, power=want) == n


def test_power_values_shapes_and_faults():
    assert power(0, 10) == 0.05 and isinstance(power(1, 10), float)
    assert power([0.5, 1.0], 10).shape == (2,) and power([[0.5], [1.0]], [5, 10, 20]).shape == (2, 3)
    assert power(50, 100) == pytest.approx(1) and power(1e4, 5) == pytest.approx(1) and power(1e-9, 5) == pytest.approx(0.05)
    assert detectable(20, sd=2.0) == pytest.approx(2 * detectable(20)) and power(detectable(5, power=0.9), 5) == pytest.approx(0.9)
    d = np.random.default_rng(10).normal(1, 1, (20_000, 10))
    assert np.mean(scipy.stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05) == pytest.approx(power(1, 10), abs=0.015)
    for args in ((np.nan, 5), (1, 1), (1, 2.5), (1, np.nan), (1, 5, 0), (1, 5, 5)):
        with pytest.raises(ValueError): power(*args)
    for args in ((0, 1), (np.nan, 1), (1, -1), (1, 1, 0), (1, 1, 0.04), (1, 1, 1), (1, 1, 80), (1e-9, 1)):
        with pytest.raises(ValueError): seeds_needed(*args)
    with pytest.raises(ValueError): detectable(1)
    with pytest.raises(ValueError): detectable(10, power=0.01)


# ---- the module and its chapter

def test_module_imports_only_numpy_and_scipy():
    code = ("import sys, diversity_kit.measure.stats; "
            "print([m for m in ('pandas', 'torch', 'matplotlib', 'statsmodels', 'sklearn', 'datasets') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.fixture(scope="module")
def chapter():
    "The chapter's cells by kind, and a namespace with `judge` and the two checks."
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    source = lambda c: "".join(c["source"])
    code = [source(c) for c in cells if c["cell_type"] == "code"]
    space = {"np": np, "scipy": scipy, "paired_t": paired_t, "holm": holm}
    for name in ("judge", "check_my_interval", "check_my_holm"):
        exec(next(c for c in code if c.startswith(f"def {name}(")), space)
    solutions = "\n".join(re.findall(r"```python\n(.*?)```", "\n".join(source(c) for c in cells if "<details>" in source(c)), re.S))
    return code, solutions, space


def around(d, quantile, ddof=1):
    return np.mean(d) + np.array([0, -1, 1]) * quantile * np.std(d, ddof=ddof) / np.sqrt(len(d))


WRONG = {
    "my_interval": {"Student's t": lambda d, l: around(d, scipy.stats.norm.ppf(0.5 + l / 2)),
                    "ddof=1": lambda d, l: around(d, scipy.stats.t.ppf(0.5 + l / 2, len(d) - 1), ddof=0),
                    "each side": lambda d, l: around(d, scipy.stats.t.ppf(l, len(d) - 1)),
                    "wrong shape": lambda d, l: np.mean(d), "KeyError": lambda d, l: {}["x"]},
    "my_holm": {"Bonferroni": lambda p: np.minimum(1, p * len(p)), "running maximum": lambda p: p * (len(p) - np.argsort(np.argsort(p))),
                "order given": lambda p: np.sort(holm(p)), "wrong shape": lambda p: holm(p).max()},
}


@pytest.mark.parametrize("name", list(WRONG))
def test_exercise(chapter, name, capsys):
    code, solutions, space = chapter
    check = space[f"check_{name}"]
    stub = next(c for c in code if c.startswith(f"def {name}("))
    exec(stub.split(f"\n\n\ncheck_{name}(")[0], space)
    assert check(space[name]) is False and "not written yet" in capsys.readouterr().out
    for message, wrong in WRONG[name].items():
        assert check(wrong) is False
        assert message in capsys.readouterr().out, message
    exec(solutions, space)
    assert check(space[name]) is True


def test_public_names():
    for name in "Effect Equivalence McNemar paired_t bootstrap sign_flip tost mcnemar holm power seeds_needed detectable".split():
        assert name in stats.__all__ and getattr(stats, name).__doc__


# ---- two_way

def test_two_way_is_the_formula_and_adds_the_rows():
    d, w = [1., 2, 3, 6], [2.5, 3, 3.5]
    e, alone = two_way(d, w), paired_t(d)
    rows = 2 / 3 * (.5 ** 2 + .5 ** 2)
    half = scipy.stats.t.ppf(.975, 2) * np.sqrt(np.var(d, ddof=1) / 4 + rows)
    assert (e.mean, e.n) == (3, 4) and e.low == pytest.approx(3 - half) and e.high == pytest.approx(3 + half) and e.high > alone.high
    assert e.p == pytest.approx(2 * scipy.stats.t.sf(3 / (half / scipy.stats.t.ppf(.975, 2)), 2))
    equal = two_way(d, [3., 3, 3, 3])                                  # rows that all say the same add nothing
    assert (equal.low, equal.high, equal.p) == pytest.approx((alone.low, alone.high, alone.p))
    assert two_way([0, 0], [0, 0]).p == 1 and two_way([1, 1], [1, 1]).p == 0


def test_two_way_covers_the_truth_where_seeds_alone_do_not():
    rng, block, hit = np.random.default_rng(3), np.arange(200) % 20, np.zeros(2)
    for _ in range(300):
        d = rng.normal(0, 1, 200) + rng.normal(0, .05, (10, 1)) + rng.normal(0, 1, (10, 200))
        hit += [not paired_t(d.mean(1)).excludes_zero, not two_way(d.mean(1), [d[:, block != k].mean() for k in range(20)]).excludes_zero]
    assert hit[0] / 300 < .85 and .92 < hit[1] / 300


# ---- blocks of test rows

def test_row_blocks_keep_groups_whole_and_even():
    groups = ["a"] * 5 + ["b"] * 3 + ["c"] * 3 + list("defgh")
    block = row_blocks(groups, 3)
    assert sorted(np.bincount(block)) == [5, 5, 6]
    assert all(len({int(b) for b, h in zip(block, groups) if h == g}) == 1 for g in set(groups))
    assert (np.bincount(row_blocks(400)) == 20).all() and len(np.bincount(row_blocks(np.int64(400)))) == stats.ROW_BLOCKS
    assert sorted(row_blocks(list("xyyx"))) == [0, 0, 1, 1]                     # fewer groups than blocks
    for bad in ((["a"] * 9,), (9, 1), ([],)):
        with pytest.raises(ValueError, match="needs two of each"):
            row_blocks(*bad)


def test_over_rows_is_two_way_of_what_without_blocks_wrote():
    rng, block = np.random.default_rng(0), row_blocks(90, 4)
    hits = rng.random((6, 90)) < .7
    trials = [without_blocks("accuracy", lambda rows, h=h: h[rows].mean(), block) for h in hits]
    assert list(trials[0]) == ["accuracy", *(f"accuracy without {k}" for k in range(4))]
    table = {m: np.array([t[m] for t in trials]) for m in trials[0]}
    want = two_way(hits.mean(1), [hits[:, block != k].mean() for k in range(4)])
    got = over_rows(table, "accuracy")
    assert (got.mean, got.low, got.high, got.p) == pytest.approx((want.mean, want.low, want.high, want.p)) and got.high > got.mean
    import pandas as pd
    assert over_rows(pd.DataFrame(table), "accuracy") == got and over_rows(table, "accuracy", .5).high < got.high
    for metric, some in (("accuracy", {"accuracy": [1, 2]}), ("f1", table), ("accuracy", {"accuracy": [1, 2], "accuracy without 0": [1, 2]})):
        with pytest.raises(KeyError, match="with blocks of test rows"):
            over_rows(some, metric)
