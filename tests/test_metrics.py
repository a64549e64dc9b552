"""measure.metrics: equal to sklearn, sacreBLEU and rouge_score; bad input refused; the auditor accuses the wrong tables only."""
import json
import math
import re
from pathlib import Path

import evaluate
import numpy as np
import pandas as pd
import pytest
import sacrebleu
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, classification_report, precision_recall_fscore_support

from diversity_kit.measure import metrics as m

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "measure" / "12_metrics.ipynb"
quick = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
words = st.lists(st.sampled_from("the cat sat on mat red a dog ran".split()), min_size=1, max_size=9).map(" ".join)
pairs = st.lists(st.tuples(words, words), min_size=1, max_size=5)


def labelled(k=5, least=1, most=40):
    label = st.integers(0, k - 1)
    return st.lists(st.tuples(label, label), min_size=least, max_size=most).map(lambda x: tuple(np.array(x).T))


# ---- labels
@quick
@given(labelled(), st.sampled_from(["micro", "macro", "weighted"]), st.sampled_from([0.0, 1.0]), st.booleans())
def test_precision_recall_f1_is_sklearns(data, average, zero, as_text):
    truth, guess = ([f"c{v}" for v in x] if as_text else x for x in data)
    ours = m.PrecisionRecallF1(average, zero_division=zero).compute(predictions=guess, references=truth)
    theirs = precision_recall_fscore_support(truth, guess, average=average, zero_division=zero)[:3]
    np.testing.assert_allclose(list(ours.values()), theirs, rtol=1e-12)
    assert m.Accuracy().compute(predictions=guess, references=truth)["accuracy"] == pytest.approx(accuracy_score(truth, guess))


@quick
@given(labelled(k=2), labelled(k=4))
def test_binary_subset_and_per_class_are_sklearns(two, four):
    truth, guess = two
    ours = m.PrecisionRecallF1("binary").compute(predictions=guess, references=truth)
    theirs = precision_recall_fscore_support(truth, guess, average="binary", zero_division=0)[:3]
    np.testing.assert_allclose(list(ours.values()), theirs, rtol=1e-12)
    truth, guess = four
    for average in ("micro", "macro", "weighted"):
        ours = m.PrecisionRecallF1(average, labels=[1, 3, 9], per_class=True).compute(predictions=guess, references=truth)
        theirs = precision_recall_fscore_support(truth, guess, labels=[1, 3, 9], average=average, zero_division=0)[:3]
        np.testing.assert_allclose([ours[k] for k in ("precision", "recall", "f1")], theirs, rtol=1e-12)
    each = precision_recall_fscore_support(truth, guess, labels=[1, 3, 9], zero_division=0)
    np.testing.assert_allclose([list(v.values()) for v in ours["per_class"].values()], np.array(each).T, rtol=1e-12)


@quick
@given(labelled(), st.booleans())
def test_classification_table_is_sklearns_report(data, subset):
    truth, guess = data
    names = [0, 1] if subset else None
    theirs = classification_report(truth, guess, labels=names, output_dict=True, zero_division=0)
    ours = m.classification_table(guess, truth, labels=names)
    assert [str(i) for i in ours.index] == list(theirs)
    for name, row in theirs.items():
        mine = ours.loc[name if name in ours.index else int(name)]
        if name == "accuracy":
            assert mine["f1-score"] == pytest.approx(row)
        else:
            np.testing.assert_allclose([mine[c] for c in row], list(row.values()), rtol=1e-12)


def test_add_batch_combine_add_and_other_carriers():
    import torch
    truth, guess = [0, 1, 1, 0, 2], [0, 1, 0, 0, 1]
    metric = m.Accuracy()
    metric.add_batch(predictions=guess[:2], references=truth[:2])
    metric.add_batch(predictions=[], references=[])
    metric.add(prediction=guess[2], reference=truth[2])
    assert metric.compute(predictions=guess[3:], references=truth[3:]) == {"accuracy": 0.6}
    assert metric.compute(predictions=[1], references=[1]) == {"accuracy": 1.0}              # nothing is left from before
    for carrier in (np.array, torch.tensor, pd.Series, lambda x: [np.int32(v) for v in x], lambda x: [torch.tensor(v) for v in x]):
        assert m.Accuracy().compute(predictions=carrier(guess), references=carrier(truth)) == {"accuracy": 0.6}
    both = evaluate.combine({"macro": m.PrecisionRecallF1("macro"), "micro": m.PrecisionRecallF1("micro"), "acc": m.Accuracy()})
    both.add_batch(predictions=guess, references=truth)
    out = both.compute()
    assert out["accuracy"] == out["micro_f1"] == pytest.approx(0.6) and out["macro_f1"] != out["micro_f1"]


@pytest.mark.parametrize("p, r, error, says", [
    ([], [], ValueError, "empty"), ([1], [1, 0], ValueError, "1 predictions for 2"), ([0.7], [1], TypeError, "argmax"),
    ([math.nan], [1], TypeError, "NaN"), ([None], [1], TypeError, "NoneType"), ("10", "10", TypeError, "not str"),
    ([1], ["1"], TypeError, "mix"), ([1, "a"], [1, 1], TypeError, "mixed"), (np.eye(2), [0, 1], ValueError, "argmax"), (None, [1], ValueError, "both needed"),
    (3, 3, TypeError, "not int")])
def test_bad_labels_are_refused(p, r, error, says):
    for metric in (m.Accuracy(), m.PrecisionRecallF1()):
        with pytest.raises(error, match=says):
            metric.compute(predictions=p, references=r)
        assert metric.compute(predictions=[1], references=[1])                                # still usable


def test_more_label_faults():
    for kwargs, p, r, says in (({"average": "binary"}, [0, 1, 2], [0, 1, 2], "3 classes"), ({"labels": [1, 1]}, [0, 1], [0, 1], "distinct"),
                               ({"average": "binary", "pos_label": 7}, [0, 1], [0, 1], "pos_label")):
        with pytest.raises(ValueError, match=says):
            m.PrecisionRecallF1(**kwargs).compute(predictions=p, references=r)
    with pytest.raises(ValueError, match="pos_label=1 does not occur"):                       # one class of another type is a mistake, not a score of 0
        m.PrecisionRecallF1("binary").compute(predictions=["pos", "pos"], references=["pos", "pos"])
    assert m.PrecisionRecallF1("binary", zero_division=1.0).compute(predictions=[0, 0], references=[0, 0])["f1"] == 1.0
    with pytest.raises(ValueError, match="choose macro"):
        m.PrecisionRecallF1("samples")
    batches = m.Accuracy()
    batches.add_batch(predictions=[1], references=[1])
    with pytest.raises(TypeError, match="mix"):
        batches.add_batch(predictions=["a"], references=["b"])
    with pytest.raises(ValueError, match="counts"):
        m.precision_recall_f1([3], [2], [5])
    with pytest.raises(ValueError, match="not in labels"):
        m.confusion([0, 5], [0, 1], labels=[0, 1])


def test_arithmetic_golden():
    _, c = m.confusion(list("aab"), list("abb"))
    assert c.tolist() == [[1, 0], [1, 1]]
    P, R, F = m.precision_recall_f1(c.diagonal(), c.sum(0), c.sum(1))
    assert P.tolist() == [0.5, 1.0] and R.tolist() == [1.0, 0.5] and F.tolist() == [2 / 3, 2 / 3]


# ---- texts
HYP, REF = "the cat sat on the red mat", "the cat sat on the mat"


def test_bleu_golden_by_hand():
    hand = (6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25
    assert m.ngram_bleu([HYP.split()], [[REF.split()]]) == pytest.approx(hand, rel=1e-12)
    out = m.BLEU().compute(predictions=[HYP], references=[REF])
    assert out["bleu"] == pytest.approx(100 * hand) and round(out["bleu"], 4) == 64.3459 and "tok:13a" in out["bleu_signature"]
    short = m.ngram_bleu([REF.split()[:5]], [[REF.split()]])
    assert short == pytest.approx(math.exp(1 - 6 / 5))                                       # only the brevity penalty
    assert m.ngram_bleu([["a", "a", "b"]], [[["a"], ["a", "b", "c"]]], order=1) == pytest.approx(2 / 3)       # clipped
    assert m.ngram_bleu([["a", "b"]], [[["a"], ["a", "b", "c"]]], order=1) == 1.0             # lengths 1 and 3 tie: the shorter counts
    assert m.ngram_bleu([["a", "b"]], [[["a", "b", "c"], ["a"] * 9]], order=1) == pytest.approx(math.exp(-1 / 2))


@quick
@given(st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_ngram_bleu_and_bleu_are_sacrebleus(data):
    hyps, refs = [h for h, _ in data], [r for _, r in data]
    streams = [[r[i] if i < len(r) else None for r in refs] for i in range(max(map(len, refs)))]
    tokens = [h.split() for h in hyps], [[x.split() for x in r] for r in refs]
    for order in (1, 2, 4):
        plain = sacrebleu.metrics.BLEU(smooth_method="none", tokenize="none", max_ngram_order=order).corpus_score(hyps, streams).score
        assert m.ngram_bleu(*tokens, order=order) == pytest.approx(plain / 100, abs=1e-12)
    assert m.BLEU().compute(predictions=hyps, references=refs)["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hyps, streams).score)
    chrf = m.ChrF(word_order=2).compute(predictions=hyps, references=refs)["chrf"]
    assert chrf == pytest.approx(sacrebleu.corpus_chrf(hyps, streams, word_order=2).score)


@quick
@given(pairs, st.booleans())
def test_rouge_is_rouge_scores_on_ascii(data, stem):
    ours = m.ROUGE(stem=stem).compute(predictions=[p for p, _ in data], references=[r for _, r in data])
    scorer = RougeScorer(list(ours), use_stemmer=stem)
    theirs = [scorer.score(r, p) for p, r in data]
    for kind, value in ours.items():
        assert value == pytest.approx(np.mean([t[kind].fmeasure for t in theirs]), abs=1e-12)


@given(st.text(st.characters(max_codepoint=127)), st.booleans())
@settings(deadline=None, max_examples=150)
def test_tokenizer_is_rouge_scores_on_ascii(text, stem):
    from rouge_score.tokenizers import DefaultTokenizer
    assert m.CJKTokenizer(stem).tokenize(text) == DefaultTokenizer(stem).tokenize(text)


def test_chinese():
    hyp, ref = "这部电影的故事很感人。", "这部电影的故事真感人。"
    assert m.CJKTokenizer().tokenize("用GPT-2翻译café，ＡＢＣ") == ["用", "gpt", "2", "翻", "译", "café", "abc"]
    assert m.CJKTokenizer().tokenize("สวัสดี") == list("ส") + ["วั", "ส", "ดี"]                 # marks stay with their letter
    assert m.ROUGE().compute(predictions=[hyp], references=[ref])["rouge1"] == pytest.approx(9 / 10)
    out = m.BLEU(tokenize="zh").compute(predictions=[hyp], references=[ref])
    assert out["bleu"] == pytest.approx(sacrebleu.corpus_bleu([hyp], [[ref]], tokenize="zh").score) and "tok:zh" in out["bleu_signature"]
    for refusing in (m.BLEU(), m.BLEU(tokenize="intl"), m.ChrF(word_order=2)):
        with pytest.raises(ValueError, match="without spaces"):
            refusing.compute(predictions=[hyp], references=[ref])
    plain = m.ChrF().compute(predictions=[hyp], references=[ref])
    split = m.ChrF(tokenize="zh").compute(predictions=[hyp], references=[ref])
    assert plain["chrf"] == pytest.approx(split["chrf"]) == pytest.approx(sacrebleu.corpus_chrf([hyp], [[ref]]).score)
    assert split["chrf_signature"].endswith("|tok:zh")
    assert m.ChrF(2, tokenize="zh").compute(predictions=[hyp], references=[ref])["chrf"] > 50
    assert m.unsegmented_share(["abc", "中文字"]) == 0.5 and m.unsegmented_share(["123"]) == 0


@pytest.mark.parametrize("p, r, error, says", [
    ([], [], ValueError, "empty"), (["a"], ["a", "b"], ValueError, "1 predictions for 2"), ([None], ["a"], TypeError, "predictions\\[0\\]"),
    (["a"], [" "], ValueError, "blank"), (["a"], [[]], ValueError, "blank"), (["a"], [["a", 3]], TypeError, "references\\[0\\]"),
    ("a", "a", TypeError, "list of texts"), ([1], ["a"], TypeError, "int")])
def test_bad_texts_are_refused(p, r, error, says):
    for metric in (m.BLEU(), m.ChrF(), m.ROUGE()):
        with pytest.raises(error, match=says):
            metric.compute(predictions=p, references=r)


def test_text_metrics_combine_and_multiple_references():
    both = evaluate.combine([m.BLEU(), m.ChrF(), m.ROUGE()])
    both.add_batch(predictions=[HYP, REF], references=[[REF], [HYP, REF]])
    both.add(prediction="", reference=REF)                                                    # an empty output is bad, not an error
    out = both.compute()
    assert {"bleu", "chrf", "rouge1", "rouge2", "rougeL"} <= out.keys() and out["rouge1"] == pytest.approx((12 / 13 + 1 + 0) / 3)
    for function, kwargs in ((m.BLEU, {"tokenize": "jieba"}), (m.ChrF, {"tokenize": "13a"}),
                             (m.ngram_bleu, {"hypotheses": [], "references": []}), (m.ngram_bleu, {"hypotheses": [["a"]], "references": [[]]})):
        with pytest.raises(ValueError):
            function(**kwargs)


# ---- perplexity
@quick
@given(st.lists(st.lists(st.floats(0, 12), min_size=1, max_size=20), min_size=1, max_size=8))
def test_perplexity_pools_tokens_however_it_is_cut(texts):
    flat = np.concatenate([np.array(t) for t in texts])
    want = math.exp(flat.mean())
    assert m.Perplexity().compute(nll=texts)["perplexity"] == pytest.approx(want)
    assert m.Perplexity().compute(nll=[np.mean(t) for t in texts], tokens=[len(t) for t in texts])["perplexity"] == pytest.approx(want)
    metric = m.Perplexity()
    for t in texts:
        metric.add(nll=t)
    out = metric.compute()
    assert out["tokens"] == len(flat) and out["mean_nll"] == pytest.approx(flat.mean())


def test_perplexity_golden_and_faults():
    assert m.Perplexity().compute(nll=[[math.log(50)] * 7])["perplexity"] == pytest.approx(50)   # uniform over 50 words
    assert m.Perplexity().compute(nll=[1e4], tokens=[3])["perplexity"] == math.inf
    for kwargs, says in (({"nll": [1.0, 2.0]}, "tokens="), ({"nll": [[math.nan]]}, "NaN"), ({"nll": [-1.0], "tokens": [2]}, "log-prob"),
                         ({"nll": []}, "empty"), ({}, "empty"), ({"nll": np.ones((4, 10))}, "may hold padding"), ({"nll": torch.ones(4, 10)}, "may hold padding"),
                         ({"nll": [[]]}, "no token"), ({"nll": [1.0], "tokens": [1, 2]}, "1 means for 2"),
                         ({"nll": [1.0], "tokens": [0.5]}, "whole"), ({"nll": [[1.0]], "tokens": [1]}, "flat"), ({"tokens": [1]}, "nll=")):
        with pytest.raises(ValueError, match=says):
            m.Perplexity().compute(**kwargs)


# ---- the auditor
SEED4 = {"B": (.92, .87, .89, 28348), "I": (.86, .85, .85, 28348), "micro avg": (.89, .87, .88, 28348),
         "macro avg": (.88, .87, .87, 28348), "weighted avg": (.89, .87, .88, 28348)}


def test_the_seeds_table_has_all_nine_findings():
    audit = m.audit_table(SEED4, single_label=True, labels=("neg", "pos"), sizes={"IMDB test": 25_000, "a fifth": 5_000})
    by = {(f.row, f.rule): f for f in audit.findings}
    status = lambda row, rule: by[row, rule].status
    assert not audit.ok
    assert status("classes", "labels") == "mismatch" and "BIO" in by["classes", "labels"].reason                               # 1
    assert status("classes", "size") == "mismatch" and by["classes", "size"].printed == "56696"                                # 2
    assert {status(r, "support") for r in ("micro avg", "macro avg", "weighted avg")} == {"impossible"}                       # 3
    assert status("micro avg", "row name") == "mismatch" and status("micro avg", "P = R = F1") == "impossible"                # 4
    assert status("B", "harmonic mean: f1-score") == status("I", "harmonic mean: f1-score") == "ok"                            # 5
    assert [status("weighted avg", f"equal supports: {c}") for c in m._CELLS] == ["tie", "ok", "tie"]                          # 6
    assert status("macro avg", "mean: precision") == "tie" and by["macro avg", "mean: precision"].possible == "0.8850 to 0.8950"
    assert status("macro avg", "mean: recall") == "impossible"                                                                 # 7
    assert status("micro avg", "pooled counts: recall") == "impossible"                                                        # 8
    found = audit.details["search"]                                                                                            # 9
    assert status("all", "confusion matrix") == "impossible" and found["class_rows"] == 0 and found["searched"] > 80_000
    low, high = found["forced"]["B precision"]
    assert low < .87 / (.87 + .15) < high < .915
    low, high = found["forced"]["I precision"]
    assert low < .85 / (.85 + .13) < high
    assert found["forced"]["accuracy"][0] < .86 < found["forced"]["accuracy"][1]
    frame = audit.to_pandas(problems=True)
    assert len(frame) == len(audit.problems) >= 9 and "impossible" in audit._repr_html_()


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 4), st.sampled_from([0, 1]),
       st.sampled_from(["plain", "subset", "extra", "multilabel"]))
def test_no_true_report_is_accused(seed, k, digits, zero, kind):
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 5, 8, 20, 40, 200]))
    if kind == "multilabel":
        truth, guess, names = rng.random((n, k)) < .4, rng.random((n, k)) < .5, None
    else:
        truth = rng.choice(k, n, p=rng.dirichlet(np.full(k, rng.choice([.2, 1, 100]))))
        guess = np.where(rng.random(n) < rng.random(), truth, rng.choice(k, n, p=rng.dirichlet(np.full(k, .5))))
        names = {"plain": None, "subset": sorted({*truth.tolist()})[:2], "extra": [*range(k + 1)]}[kind]
    text = classification_report(truth, guess, labels=names, digits=digits, zero_division=zero)
    audit = m.audit_table(text)
    assert audit.ok, (text, [f for f in audit.problems if f.status != "tie"])
    if audit.details:
        assert audit.details["search"]["whole_table"] > 0
    bounded = m.audit_table(text, max_search=0)                                               # the bounds used for big tables
    assert bounded.ok, text


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.integers(0, 11))
def test_planted_errors_in_two_class_reports_are_found(seed, cell):
    rng = np.random.default_rng(seed)
    truth = rng.random(int(rng.integers(300, 3000))) < rng.uniform(.4, .6)
    guess = np.where(rng.random(len(truth)) < rng.uniform(.2, .7), truth, rng.random(len(truth)) < .5)
    table = m.parse_report(classification_report(truth, guess))
    assert m.audit_table(table).ok
    row, column = ["False", "True", "macro avg", "weighted avg"][cell // 3], ["precision", "recall", "f1-score"][cell % 3]
    table.loc[row, column] = round(table.loc[row, column] + (.04 if table.loc[row, column] < .5 else -.04), 2)
    assert not m.audit_table(table).ok


def test_planted_errors_of_other_kinds():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 900); guess = np.where(rng.random(900) < .7, truth, rng.integers(0, 3, 900))
    good = m.parse_report(classification_report(truth, guess))
    assert m.audit_table(good, sizes={"test": 900}, labels=[0, 1, 2]).ok
    def rule_for(change):
        bad = good.copy(); bad.attrs = good.attrs; change(bad)
        return {f.rule.split(":")[0] for f in m.audit_table(bad, sizes={"test": 900}).findings if f.status in ("impossible", "mismatch")}
    def put(row, column, value): return lambda t: t.__setitem__(column, t[column].where(t.index != row, value))
    assert "support" in rule_for(put("macro avg", "support", 901))
    assert "size" in rule_for(put("1", "support", 1000))
    assert "hits" in rule_for(put("accuracy", "f1-score", .99))
    assert "harmonic mean" in rule_for(put("1", "f1-score", .99))
    high = rule_for(lambda t: [put(r, "precision", .97)(t) for r in ("0", "1", "2")])
    assert "confusion matrix" in high                                                        # too few predictions for the examples
    low = rule_for(lambda t: [put(r, "precision", .60)(t) for r in ("0", "1", "2")])
    assert "confusion matrix" in low                                                         # too many
    exact = [(t, t) for t in (5, 10, 10)]                       # 5 errors in all; class 1 misses 5 and claims 5 that nobody missed
    assert "32 to 32 predictions for 20" in m._can_balance([(8, 8)] * 2, [(.5, .5)] * 2, [10, 10])
    assert "class 1" in m._can_balance(exact, [(.5, .5), (1., 1.), (1., 1.)], [10, 10, 10])
    assert m._can_balance(exact, [(1., 1.), (2 / 3, 2 / 3), (1., 1.)], [10, 10, 10]) == ""
    thirds = m.audit_table({"a": (.5, .5, .5, 3), "b": (.5, .5, .5, 4)})                      # 1/3 or 2/3, never 1/2
    assert [f.rule for f in thirds.problems] == ["recall lattice"]
    micro = {"a": (.9, .9, .9, 50), "b": (.7, .7, .7, 50), "micro avg": (.95, .8, .87, 100)}
    assert [f.rule for f in m.audit_table(micro).problems] == ["pooled counts: precision"]    # above both classes


def test_pooled_precision_range_holds_all_samples_and_is_tight():
    rng = np.random.default_rng(0)
    tp, p = [(10., 40.), (30., 35.), (5., 60.)], [(.5, .6), (.8, .9), (.2, .4)]
    low, high = m._pooled_precision(tp, p)
    t = np.array([[rng.choice([a, b, rng.uniform(a, b)]) for a, b in tp] for _ in range(5000)])
    q = np.array([[rng.choice([a, b, rng.uniform(a, b)]) for a, b in p] for _ in range(5000)])
    values = t.sum(1) / (t / q).sum(1)
    assert low <= values.min() < low + .005 and high - .005 < values.max() <= high


def test_reading_tables():
    text = "     precision recall f1-score support\n0 0.99 0.50 0.66 1,200\nvery good 0.00 0.25 0.01 8\naccuracy 0.50 1208.0\n"
    frame = m.parse_report(text)
    assert list(frame.index) == ["0", "very good", "accuracy"] and frame.loc["0", "support"] == 1200 and frame.attrs["decimals"] == 2
    assert math.isnan(frame.loc["accuracy", "recall"]) and m.audit_table(text).ok
    for bad, says in (({"a": (.925, .9, .91)}, "more than 2 decimals"), ({"a": (math.nan, .9, .91)}, "NaN"), ({"a": (92, 90, 91)}, "not in \\[0, 1\\]"),
                      ({"a": (.9, .9, .9, 2.5)}, "not a count"), ({"macro avg": (.9, .9, .9)}, "no class row"), ("nothing here", "no row"),
                      ("a 0.50 0.50 0.50 3\na 0.50 0.50 0.50 3", "twice"), ("a 0.5 0.50 0.50 3", "decimals differ"), ("a 0.50 0.50 3", "two numbers")):
        with pytest.raises(ValueError, match=says):
            m.audit_table(bad)
    with pytest.raises(TypeError, match="DataFrame"):
        m.audit_table([1, 2])
    assert m.audit_table({"a": (.925, .9, .912)}, decimals=3).ok
    assert m.audit_table(m.classification_table([0, 1, 1], [0, 1, 0]).round(2)).ok


# ---- the exercises
def cell(start):
    nb = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return next(s for s in ("".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "code") if s.startswith(start))


def solution(name):
    nb = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    markdown = "\n".join("".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "markdown")
    return next(b for b in re.findall(r"```python\n(.*?)```", markdown, re.S) if f"def {name}" in b)


@pytest.mark.parametrize("check, stub, wrong", [
    ("check_perplexity", "my_perplexity", [lambda n, t: np.exp(n).mean(), lambda n, t: np.exp(n.mean()), lambda n, t: np.exp(n)]),
    ("check_macro_f1", "my_macro_f1", [lambda c: 2 * c.diagonal() / (c.sum(0) + c.sum(1)), lambda c: c.trace() / c.sum(), lambda c: np.average(
        2 * c.diagonal() / (c.sum(0) + c.sum(1)), weights=c.sum(1))])])
def test_exercise_checks_tell_right_from_wrong(check, stub, wrong):
    space = {"np": np, "precision_recall_f1": m.precision_recall_f1}
    exec(cell(f"def {check}"), space)
    exec(cell(f"def {stub}").split(f"{check}(")[0], space)
    assert space[check](space[stub]).startswith("wrong shape")
    for fn in wrong:
        assert space[check](fn).startswith("wrong")
    assert {space[check](fn).split(":")[0] for fn in wrong} == {"wrong shape", "wrong value"}
    exec(solution(stub), space)
    assert space[check](space[stub]) == "correct"
