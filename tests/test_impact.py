"study.impact: the interval, the arms against the libraries, what it must say of planted faults, and what it must survive."
import json
import math
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from diversity_kit import cli
from diversity_kit.measure.stats import paired_t
from diversity_kit.study import impact as im
from diversity_kit.study.audit import Unreadable
from diversity_kit.study.impact import corrected_t, impact

TOPICS = {"sport": "match team goal coach league player win season", "money": "bank market shares profit growth euro trade price",
          "film": "actor scene director script screen award drama star"}


def rows(n=150, seed=0, easy=True):
    "Short texts of three topics that a linear model tells apart, with words that say nothing."
    rng = np.random.default_rng(seed)
    names, filler = list(TOPICS), [f"w{i}" for i in range(200)]
    said = lambda c: " ".join(rng.permutation([*rng.choice(TOPICS[c].split() if easy else filler, 4), *rng.choice(filler, 6)]))
    return pd.DataFrame([{"text": said(names[i % 3]), "label": names[i % 3]} for i in range(n)])


# ------------------------------------------------------------------------------------------------------------ the interval

def test_corrected_t_by_hand_and_its_limit():
    from scipy.stats import t
    d = np.random.default_rng(1).normal(1, 2, 15)
    e, half = corrected_t(d, .25), t.ppf(.975, 14) * d.std(ddof=1) * math.sqrt(1 / 15 + .25)
    assert np.allclose([e.mean, e.low, e.high], [d.mean(), d.mean() - half, d.mean() + half])
    assert np.isclose(e.p, 2 * t.sf(abs(d.mean()) / d.std(ddof=1) / math.sqrt(1 / 15 + .25), 14))
    a, b = corrected_t(d, 0), paired_t(d)
    assert np.allclose([a.low, a.high, a.p], [b.low, b.high, b.p])
    assert corrected_t(np.zeros(10), .3).p == 1 and corrected_t(np.ones(10), .3).p == 0
    with pytest.raises(ValueError, match="ratio"):
        corrected_t(d, -.1)


def test_more_splits_do_not_make_evidence():
    d = np.tile([1., -1., 2., 0.], 100)
    width = lambda e: e.high - e.low
    assert width(corrected_t(d, 1 / 3)) > .8 * width(corrected_t(d[:40], 1 / 3)) and width(paired_t(d)) < .4 * width(paired_t(d[:40]))


# ------------------------------------------------------------------------------------------------------------ the arms

def prepared(frame, steps=("augmented",), **roles):
    from diversity_kit.augment.base import Delete
    return im._prepare(frame, {"text": "text", "label": "label", **roles}, 4000, Delete(.1), steps, 0)


def test_scores_equal_scikit_learns_own_pipeline():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    d = rows(150, easy=True)
    d.loc[::7, "label"] = "film"
    w = prepared(d, ())
    train, test = im._split(w, 3)
    v = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **im.looks._kind(list(d.text)))
    x = v.fit_transform(d.text[train])
    mine = im._tfidf(w.counts[train], w.counts[test])
    assert np.allclose(mine[0].toarray(), x.toarray()) and np.allclose(mine[1].toarray(), v.transform(d.text[test]).toarray())
    guess = im._model(3).fit(x, w.y[train]).predict(v.transform(d.text[test]))
    f1, accuracy, n = im._score(w, w.counts[train], w.y[train], test)
    assert np.isclose(f1, 100 * f1_score(w.y[test], guess, average="macro")) and np.isclose(accuracy, 100 * accuracy_score(w.y[test], guess)) and n == len(train)


def test_what_is_learned_does_not_hang_on_the_test_rows():
    "n-grams counted over the whole table (min_df=2 before the split) let test rows choose which training n-grams stay."
    d = rows(150)
    w = prepared(d, ())
    train, test = im._split(w, 0)
    other = d.assign(text=[f"elsewhere q{i}" if i in set(test.tolist()) else t for i, t in enumerate(d.text)])
    a, b = (im._tfidf(v.counts[train], v.counts[train])[0].toarray() for v in (w, prepared(other, ())))
    assert a.shape == b.shape and np.allclose(a, b)


def test_the_score_as_is_does_not_hang_on_the_steps_that_are_asked():
    one, two = (impact(rows(150, easy=False), resamples=10, steps=s).score for s in (("placebo",), ("augmented", "placebo")))
    assert one == two


def test_splits_keep_copies_and_groups_together():
    d = pd.concat([rows(120), rows(120).head(60).assign(text=lambda x: x.text.str.upper())], ignore_index=True)
    w = prepared(d.assign(user=[f"u{i % 30}" for i in range(180)]), group="user")
    for s in range(5):
        train, test = im._split(w, s)
        assert not set(w.groups[train]) & set(w.groups[test]) and len(train) + len(test) == 180
        assert not {i % 30 for i in train} & {i % 30 for i in test} and not {i % 120 for i in train} & {i % 120 for i in test}
    assert any(set(w.groups[a]) & set(w.groups[b]) for a, b in [im._split(w, 0, grouped=False)])
    assert w.copy.sum() == 60 and not w.copy[:120].any()


def test_arms_differ_in_what_they_say():
    d = pd.concat([rows(150), rows(150).head(50)], ignore_index=True)
    w = prepared(d)
    got = im._resample(w, ["as is", "no copies", "half", "twice", "augmented", "lot a", "random split"], 0)
    n = got["as is"][2]
    copies = w.copy[im._split(w, 0)[0]].sum()
    assert got["no copies"][2] == n - copies and got["half"][2] == n // 2 and got["twice"][2] == got["augmented"][2] == 2 * n and n - 40 <= got["lot a"][2] < n
    assert w.more.shape == w.counts.shape and (w.more != w.counts).nnz > 0 and not set(w.lots[0]) & set(w.lots[1])


def test_suspects_are_the_planted_ones():
    d = rows(240)
    wrong = np.random.default_rng(0).choice(240, 24, replace=False)
    names = list(TOPICS)
    d.loc[wrong, "label"] = [names[(names.index(v) + 1) % 3] for v in d.label[wrong]]
    w = prepared(d)
    found = set(np.flatnonzero(im._suspected(w, np.arange(240))).tolist())
    assert len(found & set(wrong.tolist())) >= 20 and len(found - set(wrong.tolist())) <= 12


# ------------------------------------------------------------------------------------------------------------ what it says

def test_a_leaky_table_reads_too_high():
    d = rows(120, easy=False)                                                # the texts say nothing about the label: only copies can
    d = pd.concat([d] * 3, ignore_index=True)
    r = impact(d, resamples=10, steps=("random split", "copies removed"))
    assert r["random split"].verdict == "supported" and r["random split"].effect.mean > 30 and r.score.mean < 50
    assert "too high" in r["random split"].reading and r.shape["copies"] == 240


def test_nothing_is_claimed_of_labels_drawn_by_lot():
    claimed = [s.name for seed in range(4) for s in impact(rows(120, seed, easy=False), resamples=10, steps=("suspects removed", "augmented", "twice the rows", "placebo"), seed=seed).steps
               if s.name != "placebo" and s.verdict in ("supported", "refuted")]
    assert not claimed


def test_more_rows_help_where_they_do():
    rng = np.random.default_rng(0)                                           # one of 60 words tells the topic: half of the rows have not shown them all
    said = lambda c: " ".join([f"{c}{rng.integers(60)}", *(f"w{k}" for k in rng.integers(0, 50, 4))])
    d = pd.DataFrame([{"text": said("abc"[i % 3]), "label": "abc"[i % 3]} for i in range(600)])
    r = impact(d, resamples=10, steps=("twice the rows", "placebo"))
    assert r["twice the rows"].verdict == "supported" and r.floor > 0 and r["twice the rows"].rows[0] >= 2 * r["twice the rows"].rows[1]


def test_an_edit_that_does_nothing_is_equivalent():
    from diversity_kit.augment.base import Delete
    s = impact(rows(120), resamples=10, steps=("augmented",), transform=Delete(0.))["augmented"]
    assert s.verdict == "equivalent" and s.effect.mean == 0 and "not worth it" in s.reading


def test_refuted_needs_holm_as_supported_does():
    d = np.array([-1., -3, .5, -2, -4, 1, -3, -2, -1, -2.5])
    one = im._verdicts([("balanced", "", d, d, (1, 1))], "macro_f1", 0., 1.)[0]
    many = im._verdicts([("balanced", "", d, d, (1, 1))] + [(f"s{i}", "", d * 0 + np.arange(10) % 2 - .5, d, (1, 1)) for i in range(30)], "macro_f1", 0., 1.)[0]
    assert one.verdict == "refuted" and one.p_holm < .02 and many.p_holm > .05 and many.verdict == "inconclusive" and "hint" in many.reading and "hint" not in one.reading


@pytest.mark.parametrize("mean, margin, verdict, below, says", [(.3, 1., "supported", True, "not worth it: the sign is sure, but the +0.3 points"), (-.3, 1., "refuted", True, "not worth it: the sign is sure, but the -0.3 points"),
                                                                (.3, .1, "supported", False, "do it: +0.3 points"), (3., 1., "supported", False, "do it: +3.0"), (1., 1., "supported", False, "do it: +1.0")])
def test_a_sure_effect_below_the_margin_is_not_worth_it(mean, margin, verdict, below, says):
    d = np.random.default_rng(0).normal(0, .05, 20)
    d += mean - d.mean()
    got = {s.name: s for s in im._verdicts([(n, "q", d, d, (1, 1)) for n in ("copies removed", "random split", "twice the rows", "placebo")], "macro_f1", 1 / 3, margin)}
    s = got["copies removed"]
    assert (s.verdict, s.below_margin) == (verdict, below) and s.reading.startswith(says) and s.told == verdict + ", below the margin" * below
    for name in ("random split", "twice the rows"):
        assert ("less than the margin" in got[name].reading) == below
    assert got["placebo"].reading == "this is what nothing looks like"


def test_tables_word_it_as_the_ledger_does():
    from dataclasses import replace
    r = impact(rows(120), resamples=10, steps=("placebo", "augmented"))
    d = np.random.default_rng(0).normal(.3, .05, 20)
    r = replace(r, steps=im._verdicts([("augmented", "q", d, d, (1, 1))], "macro_f1", 1 / 3, 1.))
    assert "supported, below the margin" in r.summary() and "supported, below the margin" in r.to_html() and r.to_pandas().verdict.tolist() == ["supported, below the margin"]
    assert json.loads(r.to_json())["steps"][0]["below_margin"] is True


def test_the_floor_is_what_four_of_five_runs_see_and_a_smaller_effect_is_seen_less_often():
    from diversity_kit.measure.stats import power
    d = np.random.default_rng(0).normal(0, 1, 20)
    s = im._verdicts([("balanced", "", d, d, (1, 1))], "macro_f1", 1 / 3, .1)[0]
    sd = d.std(ddof=1) * math.sqrt(1 + 20 / 3)
    assert abs(power(s.floor / sd, 20) - .8) < .01 and .7 < power(.95 * s.floor / sd, 20) < .8 and power(.5 * s.floor / sd, 20) < 1 / 3
    assert s.verdict == "inconclusive" and f"show an effect of {s.floor:.1f} in four of five such runs, a smaller one less often" in s.reading
    r = impact(rows(120), resamples=10, steps=("placebo",))
    said = [v for v in r.says() if "floor" in v]
    assert said == [f"Noise floor: an effect of {r.floor:.1f} points is seen in four of five such runs, a smaller one less often."]
    assert "effect seen in four of five runs" in r.to_html() and "smallest effect" not in r.to_html()


def test_no_score_is_said_to_be_above_100_or_below_0():
    from dataclasses import replace
    r = impact(rows(120), resamples=10, steps=("placebo",))
    said = lambda low, high: replace(r, score=replace(r.score, mean=(low + high) / 2, low=low, high=high)).says()[0]
    assert "99.8 [98.9, 100.0]" in said(98.9, 100.7) and "[0.0, 3.0]" in said(-1., 3.) and "[40.0, 60.0]" in said(40., 60.)


def test_chinese_texts():
    good, bad = "很好的电影演员也好", "太差了浪费时间无聊"
    rng = np.random.default_rng(0)
    d = pd.DataFrame([{"文本": "".join(rng.choice(list(good if i % 2 else bad), 6)) + "".join(rng.choice(list("的一是在不了有和人这中大为上个国我以要他"), 12)), "标签": "正" if i % 2 else "负"} for i in range(120)])
    r = impact(d, resamples=10, steps=("placebo",))
    assert r.score.mean > 70 and r["placebo"].verdict and "'文本' (guessed)" in r.summary()


def test_the_same_seed_gives_the_same_report():
    a, b = (impact(rows(120), resamples=10, steps=("balanced", "placebo", "augmented"), seed=3) for _ in range(2))
    assert a.to_pandas().equals(b.to_pandas()) and a.skipped == {"balanced": "the classes have equally many rows"}
    assert not a.to_pandas().equals(impact(rows(120), resamples=10, steps=("balanced", "placebo", "augmented"), seed=4).to_pandas())


def test_a_large_table_is_cut_by_whole_groups():
    d = pd.concat([rows(400)] * 2, ignore_index=True)
    r = impact(d, resamples=10, limit=300, steps=("placebo",))
    assert 290 <= r.shape["rows"] <= 300 and r.shape["copies"] == r.shape["rows"] / 2 and "cut to whole groups" in r.summary()


def test_rows_without_a_group_are_cut_one_by_one():
    d = rows(600)
    for seed in range(4):
        r = impact(d.assign(user=[None if i % 2 else f"u{i}" for i in range(600)]), group="user", resamples=10, limit=200, steps=("placebo",), seed=seed)
        assert r.shape["rows"] == 200
    r = impact(pd.concat([d] * 2, ignore_index=True).assign(user=[None] * 600 + [f"u{i // 3}" for i in range(600)]), group="user", resamples=10, limit=300, steps=("placebo",))
    assert 295 <= r.shape["rows"] <= 300


# ------------------------------------------------------------------------------------------------------------ what it must survive

@pytest.mark.parametrize("frame, more, says", [
    (rows(120).rename(columns={"label": "n"}).assign(n=np.arange(120.)), {}, "no column looks like labels.*text, n"), (rows(120), {"label": "lable"}, "no column 'lable'.*text, label"),
    (rows(120).assign(label="one"), {}, "1 class .*nothing to learn"), (rows(60), {}, "at least 100"), (rows(120).assign(label=None), {}, "0 class"),
    (rows(120).assign(label=[f"k{i}" for i in range(120)]), {}, "120 different values"), (rows(120), {"group": "user"}, "no column 'user' for --group"),
    (rows(120).assign(user=[i % 3 for i in range(120)]), {"group": "user"}, "too few for 4 folds"), (rows(120), {"label": "text", "text": "text"}, "text and label at once"),
    (rows(120), {"resamples": 5}, "resamples >= 10"), (rows(120), {"metric": "f2"}, "metric"), (rows(120), {"steps": ("blanced",)}, "unknown step"),
    (rows(120), {"steps": "placebo"}, r"one name: put it into a list, \['placebo'\]"), (rows(120), {"resamples": 10.5}, "whole numbers, got 10.5"), (rows(120), {"limit": 200.}, "whole numbers")])
def test_faults_are_named(frame, more, says):
    with pytest.raises(ValueError, match=says):
        impact(frame, **more)


def test_missing_labels_and_rare_classes_are_left_out_and_said():
    d = rows(150)
    d.loc[[1, 2], "label"] = [None, "nan"]
    d.loc[3, "text"] = "  "
    d.loc[4:8, "label"] = "rare"
    r = impact(d, resamples=10, steps=("placebo",))
    assert r.shape["rows"] == 142 and r.shape["classes"] == 3 and "3 of 150 rows have no text or no label" in r.summary() and "'" not in r.notes[-1] and "rare" in r.notes[-1]


def test_a_label_unseen_in_training_counts_as_wrong():
    w = prepared(rows(150), ())
    train, test = im._split(w, 0)
    train = train[w.y[train] != 2]
    f1, accuracy, _ = im._score(w, w.counts[train], w.y[train], test)
    share = (w.y[test] == 2).mean()
    assert 0 < share and accuracy <= 100 * (1 - share) + 1e-9 and f1 < accuracy + 1e-9
    with pytest.raises(ValueError, match="one class only"):
        im._score(w, w.counts[train[w.y[train] == 0]], w.y[train[w.y[train] == 0]], test)


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)


def test_command_reports_and_exit_codes(tmp_path, capsys):
    evil = "<script>alert(1)</script>\x1b[31m"
    path = tmp_path / "a.csv"
    rows(120).rename(columns={"label": f"y{evil}"}).to_csv(path, index=False)
    assert cli.main(["impact", str(path), "--label", f"y{evil}", "--resamples", "10", "--json", str(tmp_path / "out"), "--transform", "Swap"]) == 0
    page, out = (tmp_path / "a.csv.impact.html").read_text(encoding="utf-8"), capsys.readouterr().out
    parser = _Tags()
    parser.feed(page)
    assert not parser.seen & {"script", "img", "a"} and "\x1b" not in page + out and "http" not in page.replace("http-equiv", "")
    told = json.loads((tmp_path / "out").read_text(encoding="utf-8"))
    assert [s["name"] for s in told["steps"]] == ["suspects removed", "augmented", "twice the rows", "placebo"] and set(told["skipped"]) == {"random split", "copies removed", "balanced"}
    assert all(s["name"] in out and s["name"] in page for s in told["steps"]) and told["shape"]["rows"] == 120
    before = path.read_bytes()
    assert cli.main(["impact", str(path), "--html", str(path)]) == 2 and path.read_bytes() == before
    assert cli.main(["impact", str(tmp_path / "no.csv")]) == 2 and cli.main(["impact", str(path), "--transform", "Nope"]) == 2
    assert "--transform Nope: no such transform" in capsys.readouterr().err
    with pytest.raises(Unreadable):
        impact(tmp_path / "no.csv")


def test_a_step_that_was_not_asked():
    r = impact(rows(120), resamples=10, steps=("placebo",))
    with pytest.raises(KeyError, match="there are placebo"):
        r["balanced"]
    assert list(r.to_pandas().step) == ["placebo"] and set(r.placebo()) == {"mean", "p", "naive_p"}
