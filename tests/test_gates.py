"""Gates: properties of every gate, golden values, faults, odd text, the report, the grouped discriminator."""
import math
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.augment import gates as G
from diversity_kit.augment.base import Delete, Keep, Swap
from diversity_kit.augment.gates import (Agreement, All, Distinct, EditDistance, Fluency, Gate, LengthRatio, Similarity, TextCut, discriminator_auc,
                                         screen)

TEXTS = ["The film is not good at all", "A quiet, moving story about two brothers", "这部电影不好看，但是音乐很美。", "Never boring", "x", ""]
ODD = ["", " ", "🙂🙃", "e\u0301\u200d", "\ud800", "\x00", "字" * 1_000_000, "word " * 200_000]


def spectrum(texts):
    "A cheap embedding: counts of characters by residue; the empty text is the zero vector."
    return np.array([np.bincount([ord(c) % 7 for c in t] or [0], minlength=7) * bool(t) for t in texts], float)


def loss(texts):
    return np.array([1 + len(set(t)) / 10 for t in texts])


def two(texts):
    p = np.array([(1 + t.count("o")) / (2 + t.count("o") + t.count("e")) for t in texts])
    return np.stack([p, 1 - p], 1)


EVERY = [Similarity(spectrum, low=.9), Fluency(loss, ratio=1.1), Agreement(two), LengthRatio(.8, 1.2), EditDistance(0, .3), Distinct(within=False),
         All([LengthRatio(.8, 1.2), Similarity(spectrum, low=.9)])]
LINES = st.lists(st.text(max_size=12), max_size=8)


@pytest.fixture(scope="module")
def models():
    "Untrained two-layer models: an encoder, a language model."
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as kinds
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2} | {chr(c): c for c in range(33, 127)}
    tok = Tokenizer(kinds.WordPiece(vocab | {"##" + w: 100 + i for w, i in vocab.items() if i > 32}, unk_token="[UNK]"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok = transformers.PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="[PAD]", unk_token="[UNK]", bos_token="[CLS]")
    torch.manual_seed(0)
    size = dict(vocab_size=256, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=600)
    encoder = G.SentenceEncoder(transformers.BertModel(transformers.BertConfig(**size)).eval(), tok, max_tokens=32, batch_tokens=100)
    lm = G.TokenLoss(transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=2, **size)).eval(), tok, max_tokens=32, batch_tokens=100)
    return encoder, lm


# ------------------------------------------------------------------------------------------------ every gate
@pytest.mark.parametrize("gate", EVERY, ids=lambda g: type(g).__name__)
@given(befores=LINES, data=st.data())
@settings(max_examples=25, deadline=None)
def test_accept_is_the_range_of_the_score_and_rows_do_not_meet(gate, befores, data):
    afters = data.draw(st.lists(st.text(max_size=12), min_size=len(befores), max_size=len(befores)))
    ok, score = gate.accept(befores, afters), gate.score(befores, afters)
    assert ok.dtype == bool and score.dtype == float and ok.shape == score.shape == (len(befores),) and np.isfinite(score).all()
    assert (ok == (score >= gate.low) & (score <= gate.high)).all()
    assert ok.tolist() == [gate(a, b) for a, b in zip(befores, afters)]
    assert (gate.score(befores[::-1], afters[::-1]) == score[::-1]).all()


@pytest.mark.parametrize("gate", [g for g in EVERY if not isinstance(g, Distinct)], ids=lambda g: type(g).__name__)
def test_an_unchanged_copy_passes(gate):
    assert gate.accept(TEXTS, TEXTS).all()


@pytest.mark.parametrize("gate", EVERY, ids=lambda g: type(g).__name__)
def test_faults_name_the_row(gate):
    with pytest.raises(TypeError, match=r"afters\[1\] is a float"):
        gate.score(["a", "b"], ["c", float("nan")])
    with pytest.raises(TypeError, match="one str"):
        gate.accept("ab", ["a", "b"])
    with pytest.raises(ValueError, match="2 befores and 1 afters"):
        gate.score(["a", "b"], ["a"])
    assert gate.accept([], []).shape == (0,)
    assert pickle.loads(pickle.dumps(gate)) == gate and hash(gate) == hash(pickle.loads(pickle.dumps(gate)))


@pytest.mark.parametrize("gate", EVERY, ids=lambda g: type(g).__name__)
def test_odd_text_never_raises_and_a_cut_is_said(gate):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        score = gate.score(ODD, ODD[1:] + ODD[:1])
    assert np.isfinite(score).all()
    reads = max(g.reads or 0 for g in getattr(gate, "gates", [gate]))
    assert bool(reads) == any(issubclass(w.category, TextCut) for w in caught)
    if reads:
        assert "3 of 8 pairs" in str(caught[0].message) and "pair 5" in str(caught[0].message) or "1 of 3 pairs" in str(caught[0].message) and "pair 6" in str(caught[0].message)


@pytest.mark.parametrize("make, error", [
    (lambda: LengthRatio(2, 1), "low=2 is above"), (lambda: EditDistance(0, float("nan")), "high=nan"), (lambda: Similarity(low="x"), "low='x'"),
    (lambda: Agreement(3), "not callable"), (lambda: All([]), "at least one"), (lambda: All([LengthRatio]), "add parentheses"),
    (lambda: Distinct("abc"), "one string"), (lambda: LengthRatio(True), "low=True")])
def test_wrong_parameters(make, error):
    with pytest.raises((TypeError, ValueError), match=error):
        make()


# ------------------------------------------------------------------------------------------------ one by one
def test_golden_values():
    assert LengthRatio().score(["abcd", "图书馆", "", ""], ["ab", "图书馆图书馆", "", "abc"]).tolist() == [.5, 2, 1, 3]
    assert EditDistance().score(["kitten", "", "", "不好"], ["sitting", "", "a", "好"]).round(6).tolist() == [round(3 / 7, 6), 0, 1, .5]
    assert Similarity(lambda t: np.array([[1, 0], [0, 2.], [3, 3.], [-1, -1.]])).score(["a", "b"], ["c", "d"]).round(6).tolist() == \
        [round(math.sqrt(.5), 6), round(-math.sqrt(.5), 6)]
    assert Fluency(lambda t: np.array([2., 4., 3., 3.])).score(["a", "b"], ["c", "d"]).tolist() == [1.5, .75]
    p = [[.6, .3, .1], [.2, .5, .3], [.1, .2, .7], [.3, .3, .4]]
    gate = Agreement(lambda t: np.array(p))
    assert gate.score(["a", "b"], ["c", "d"]).round(6).tolist() == [-.6, -.1] and not gate.accept(["a", "b"], ["c", "d"]).any()


def test_agreement_is_the_same_answer():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 200)
    got = Agreement(lambda t: p).accept(["x"] * 100, ["y"] * 100)
    assert (got == (p[:100].argmax(1) == p[100:].argmax(1))).all() and 10 < got.sum() < 90
    assert Agreement(lambda t: p, low=.5).accept(["x"] * 100, ["y"] * 100).sum() < got.sum()


@pytest.mark.parametrize("gate, error", [
    (Similarity(lambda t: np.zeros(len(t))), r"shape \(4,\)"), (Similarity(lambda t: np.zeros((1, 3))), r"shape \(1, 3\)"),
    (Similarity(lambda t: np.array([[1.], [1], [1], [np.nan]])), "pair 1 .*has score nan; .*embeddings"), (Similarity(lambda t: np.full((4, 2), np.nan)), "pair 0 .*nan"),
    (Fluency(lambda t: np.zeros(3)), r"shape \(3,\)"), (Fluency(lambda t: np.array([1, 1, 1, np.inf])), "pair 1 .*score inf"),
    (Fluency(lambda t: np.array([1, 0, 1, 1])), "pair 1 .*losses above 0"), (Agreement(lambda t: np.ones(4)), r"shape \(4,\)"),
    (Agreement(lambda t: np.ones((4, 1))), r"shape \(4, 1\)"), (Agreement(lambda t: np.array([[.5, .5]] * 2 + [[.7, .7], [.5, .5]])), "pair 0 .*sum 1"),
    (Agreement(lambda t: np.array([[.5, .5], [np.nan, 1]] + [[.5, .5]] * 2)), "pair 1 "),
    (Agreement(lambda t: np.array([[1.5, -.5]] * 4)), "pair 0 .*not negative")])
def test_a_broken_model_is_named(gate, error):
    with pytest.raises(ValueError, match=error):
        gate.score(["same", "b"], ["same", "d"])


def test_numbers_in_messages_are_those_of_the_whole_batch():
    gate = All([LengthRatio(.5, 2), Similarity(lambda t: np.full((len(t), 2), np.nan))])
    with pytest.raises(ValueError, match=r"pair 2 \('same' -> 'sane'\)"):
        gate.accept(["a", "b", "same"], ["aaaa", "bbbb", "sane"])


def test_distinct():
    befores, afters = ["one", "two", "three", "four"], ["ONE!", "new", "New.", "two"]
    assert Distinct().accept(befores, afters).tolist() == [False, True, False, False]
    assert Distinct(within=False).accept(befores, afters).tolist() == [False, True, True, True]
    assert Distinct(["NEW"], within=False).accept(befores, afters).tolist() == [False, False, False, True]
    assert Distinct(key=str.strip).accept(befores, afters).tolist() == [True, True, True, False]
    assert "1 texts" in repr(Distinct(["a", "A"]))


def test_zero_vectors_and_one_of_low_and_high():
    assert Similarity(spectrum).score(["", "", "a"], ["", "a", ""]).tolist() == [1, 0, 0]
    gate = EditDistance(.1, .5)
    assert gate.accept(["abcdefghij"] * 3, ["abcdefghij", "abcdefghix", "klmnopqrst"]).tolist() == [False, True, False]


# ------------------------------------------------------------------------------------------------ models
def test_encoder_and_lm_against_the_library(models):
    import torch
    encoder, lm = models
    text = "Not one of them"
    ids = encoder.tokenizer(text, return_tensors="pt", add_special_tokens=True)
    with torch.inference_mode():
        hidden = encoder.model(input_ids=ids["input_ids"]).last_hidden_state[0].mean(0)
        seq = torch.tensor([[lm.tokenizer.bos_token_id, *lm.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        want = lm.model(input_ids=seq, labels=seq).loss.item()
    assert np.allclose(encoder([text])[0], (hidden / hidden.norm()).numpy(), atol=1e-6)
    assert abs(lm([text])[0] - want) < 1e-5
    assert abs(lm([""])[0] - math.log(256)) < 1e-6 and not encoder([""]).any()


def test_batches_do_not_change_a_score(models):
    encoder, lm = models
    texts = [" ".join(["to", "a", "me", "I"][i % 4] for i in range(n)) for n in range(1, 16)] + ["same"] * 3
    order = np.random.default_rng(0).permutation(len(texts))
    for model in models:
        whole = model(texts)
        assert (model([texts[i] for i in order]) == whole[order]).all()                  # bit for bit, whatever the order
        alone = np.concatenate([model([t]) for t in texts])
        assert abs(alone - whole).max() < 1e-4                                            # padding: the last digits
        assert len({whole[-1].tobytes(), whole[-2].tobytes(), whole[-3].tobytes()}) == 1
    assert not np.allclose(encoder(["word"]), encoder(["tree!"]))


def test_too_many_tokens_are_said(models):
    for model in models:
        with pytest.warns(TextCut, match="reads 32 tokens of at most 512 characters: 1 of 2 texts are longer .the first is text 1"):
            long = model(["a b", "a " * 200])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.isfinite(long).all() and np.isfinite(model(["a " * 32])).all()       # exactly 32: whole
        with pytest.warns(TextCut, match="2 of 3 texts"):                                # few tokens, but cut as a string
            model(["a b", *("the film is " + " " * 600 + w for w in ("terrible", "fine"))])
        with pytest.raises(ValueError, match="no texts"):
            model([])
        with pytest.raises(TypeError, match="texts is one str"):
            model("abc")
        with pytest.raises(TypeError, match=r"texts\[1\] is a NoneType"):
            model(["a", None])
    notes = screen(["a " * 200], ["b"], [Similarity(models[0], low=-1)]).notes
    assert len(notes) == 1 and "32 tokens" in notes[0]


# ------------------------------------------------------------------------------------------------ screen, Keep
@given(befores=LINES, data=st.data())
@settings(max_examples=30, deadline=None)
def test_screen_is_all(befores, data):
    afters = data.draw(st.lists(st.text(max_size=12), min_size=len(befores), max_size=len(befores)))
    gates = [Distinct(), LengthRatio(.5, 2), Similarity(spectrum, low=.5)]
    report = screen(befores, afters, gates)
    assert (report.kept == All(gates).accept(befores, afters)).all()
    table = report.to_pandas()
    assert table.dropped.sum() + report.kept.sum() == len(befores) and (table.seen.diff().fillna(0) == -table.dropped.shift().fillna(0)).all()
    assert [bool(r) for r in report.reasons] == (~report.kept).tolist()
    for i in np.flatnonzero(~report.kept):
        assert not gates[report.stage[i]].accept(befores, afters)[i] or isinstance(gates[report.stage[i]], Distinct)


def test_report_shows_reasons_safely():
    report = screen(["<b>bold</b> text here", "abc", "good"], ["<i>", "abc", "goods"], [Distinct(), All([LengthRatio(.5, 2)])])
    assert report.reasons == ["LengthRatio: 0.143 is below 0.5", "Distinct: seen before", ""] and report.kept.tolist() == [False, False, True]
    page = report._repr_html_()
    assert "&lt;b&gt;" in page and "<b>bold" not in page and "1 of 3 pairs kept" in page and "33.3 %" in page
    assert list(report.examples(1).pair) == [1, 0] and list(report.to_pandas().share) == [1 / 3, .5]
    with pytest.raises(TypeError, match="not a gate"):
        screen(["a"], ["b"], [len])
    assert "0 of 0" in repr(screen([], [], LengthRatio()))


def test_a_gate_never_asks_about_what_is_dropped():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return spectrum(texts)
    screen(["aa", "bb"], ["aa", "bbbbbbbb"], [LengthRatio(.5, 2), Similarity(encode)])
    assert set(asked) == {"aa"}


def test_other_warnings_pass_through():
    def noisy(texts):
        warnings.warn("careful", RuntimeWarning, stacklevel=2)
        return spectrum(texts)
    with pytest.warns(RuntimeWarning, match="careful"):
        assert screen(["a"], ["a"], Similarity(noisy)).notes == ()


def test_keep_uses_the_gate_for_the_batch():
    texts = [t * 3 for t in TEXTS[:4]]
    t = Delete(.5)
    gate = LengthRatio(.5, 1)
    made = t(texts, seed=1)
    want = [b if ok else a for a, b, ok in zip(texts, made, gate.accept(texts, made))]
    assert Keep(t, gate)(texts, seed=1) == want and 0 < sum(a != b for a, b in zip(texts, want)) < 4
    assert "LengthRatio(low=0.5, high=1)" in repr(Keep(t, gate))


# ------------------------------------------------------------------------------------------------ the discriminator
REAL = [f"{a} {b} {c}" for a in ("the film", "a story", "this play", "her song") for b in ("is", "was", "seems") for c in
        ("good", "bad", "long", "slow and dull", "warm", "odd", "fine", "grim")]


def test_copies_need_grouped_folds():
    twins = [*range(len(REAL))] * 2
    fair, trap = discriminator_auc(REAL, REAL, groups=twins), discriminator_auc(REAL, REAL)
    assert fair.mean == fair.low == fair.high == .5 and fair.p == 1 and not fair.distinguishable and fair.n == len(REAL)
    assert trap.high < .4 and not trap.distinguishable and trap.p < .01
    strong = discriminator_auc(REAL, [t.upper() for t in REAL], groups=twins)
    assert strong.mean == 1 and strong.distinguishable
    assert discriminator_auc(REAL, Swap(.5)(REAL), groups=twins) == discriminator_auc(REAL, Swap(.5)(REAL), groups=[f"id {g}" for g in twins])
    assert str(fair).startswith("AUC 0.500 [0.500, 0.500]")


def test_auc_and_its_variance_against_definitions():
    from sklearn.metrics import roc_auc_score
    rng = np.random.default_rng(1)
    for _ in range(20):
        s, y = rng.integers(0, 6, 40) / 2, rng.permutation(np.arange(40) % 3 == 0)
        auc, var = G._auc(s, y, np.arange(40))
        assert abs(auc - roc_auc_score(y, s)) < 1e-12
        psi = (s[y][:, None] > s[~y]) + (s[y][:, None] == s[~y]) / 2
        assert abs(var - 40 / 39 * (psi.mean(1).var() / y.sum() + psi.mean(0).var() / (~y).sum())) < 1e-12
    pairs, y = np.tile(rng.normal(size=20), 2), np.arange(40) >= 20              # twins with equal scores: no variance at all
    assert np.allclose(G._auc(pairs, y, np.tile(np.arange(20), 2)), (.5, 0)) and G._auc(pairs, y, np.arange(40))[1] > .001


def test_level_of_the_interval():
    "Real and made from one distribution, three dependent rows to an origin: 0.5 is outside the interval about 5 times in 100."
    rng, out = np.random.default_rng(0), 0
    texts = [str(i) for i in range(180)]
    groups = [*range(60), *np.repeat(np.arange(60), 2)]
    for s in range(120):
        common = rng.normal(size=(60, 3))
        x = common[groups] + rng.normal(size=(180, 3))
        d = discriminator_auc(texts[:60], texts[60:], features=lambda t: x, groups=groups, seed=s)
        out += not d.low <= .5 <= d.high
    assert out <= 15, out                                                        # P(X > 15) < 0.001 for Binomial(120, 0.05)


@pytest.mark.parametrize("kw, error", [
    (dict(real=[], made=["a"]), "non-empty"), (dict(real=["a"] * 6, made=["b"] * 6, groups=[1, 2]), "2 groups for 6 real and 6 made"),
    (dict(real=["a"] * 6, made=["b"] * 6, groups=[1] * 12), "folds=5 for 1 groups"), (dict(real=["a"], made=["b"] * 99), "1 groups with real texts: 5 folds need 25"), (dict(real=["a"] * 30, made=["b"] * 24), "24 groups with made"),
    (dict(real=["a"] * 6, made=["b"] * 6, folds=1), "folds=1"), (dict(real=["a"] * 26, made=["b"] * 26, features=lambda t: np.ones((3, 2))), "3 rows for 52"),
    (dict(real=["a"] * 60, made=["b"] * 60, groups=[*range(60), *([0, 1] * 30)]), "2 groups with made")])
def test_discriminator_faults(kw, error):
    with pytest.raises(ValueError, match=error):
        discriminator_auc(**kw)
    with pytest.raises(TypeError, match=r"befores\[1\] is a NoneType"):
        discriminator_auc(["a", None], ["b"])


def test_a_gate_is_easy_to_add():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Vowels(Gate):
        low: float = 0
        high: float = 1

        def _score(self, befores, afters):
            return [sum(c in "aeiou" for c in b) for b in afters]
    assert Vowels().accept(["x"] * 3, ["a", "aa", "b"]).tolist() == [True, False, True]


def test_a_tie_of_the_classifier_passes_and_says_so():
    gate = Agreement(lambda texts: np.array([[.4, .6], [.5, .5]]))
    assert gate.score(["a"], ["b"]).tolist() == [0] and gate("a", "b") and not Agreement(gate.classifier, low=.01)("a", "b") and "a tie passes" in Agreement.__doc__
