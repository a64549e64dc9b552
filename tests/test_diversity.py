"""Diversity: closed forms at both ends, equality with NLTK, scipy and scikit-learn, properties, the interval's coverage, faults."""
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from diversity_kit.data import diversity as D
from diversity_kit.data.diversity import (Grams, between, compression_ratio, dispersion, distinct_n, domain_auc, frontier, growth, jensen_shannon, jsd,
                                          mauve_like, ngram_entropy, ngram_features, panel, self_bleu, tokens, vendi, vendi_kernel)
from diversity_kit.data.sources import toy_world

WORDS = st.lists(st.lists(st.sampled_from("abcd"), max_size=7), min_size=2, max_size=12)
TOY = [r["text"] for r in toy_world().sample(400)]
SAME, APART = ["a b c d e"] * 6, [" ".join(f"w{i}{j}" for j in range(5)) for i in range(6)]


# ------------------------------------------------------------------------------------------------ tokens and n-grams
def test_tokens_of_spaced_and_unspaced_scripts():
    assert tokens("It's FINE, 3x") == ["it", "s", "fine", "3x"]
    assert tokens("我爱NLP，好。") == ["我", "爱", "nlp", "好"]
    assert tokens("a|b", lambda t: t.split("|")) == ["a", "b"]
    assert D._CJK.tokenize("Plain, ascii text 12") == tokens("Plain, ascii text 12")
    with pytest.raises(ValueError, match="jieba"):
        tokens("x", "words")


def test_jieba_words_and_characters_give_different_counts():
    pytest.importorskip("jieba")
    zh = ["今天天气很好，我们去公园。", "今天天气很好，我们去上海。"]
    assert len(Grams(zh, "jieba").order(1)[1]) < len(Grams(zh).order(1)[1])


@given(WORDS, st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_grams_equal_a_plain_loop_and_survive_take(texts, n):
    def loop(some):
        return [(i, tuple(t[j:j + n])) for i, t in enumerate(some) for j in range(len(t) - n + 1)]
    g = Grams(texts)
    for grams, some in ((g, texts), (g.take([1, 0]), [texts[1], texts[0]])):
        doc, code = grams.order(n)
        want = loop(some)
        assert len(code) == len(want) and sorted(doc) == sorted(i for i, _ in want)
        mine = {}
        for d, c in zip(doc.tolist(), code.tolist()):
            mine.setdefault(d, []).append(c)
        for d, codes in mine.items():                                   # the same text has the same pattern of repeats
            plain = [w for i, w in want if i == d]
            assert [codes.index(c) for c in codes] == [plain.index(w) for w in plain]
        assert len(set(code.tolist())) == len({w for _, w in want})


def test_take_refuses_a_text_drawn_twice():
    with pytest.raises(ValueError, match="once"):
        Grams(TOY[:5]).take([1, 1])


# ------------------------------------------------------------------------------------------------ closed forms
@pytest.mark.parametrize("n", [1, 2, 3])
def test_both_ends_of_distinct_and_entropy(n):
    grams = 5 - n + 1
    assert distinct_n(APART, n) == 1 and distinct_n(SAME, n) == 1 / 6
    assert math.isclose(ngram_entropy(APART, n), math.log2(6 * grams)) and math.isclose(ngram_entropy(SAME, n), math.log2(grams))
    assert ngram_entropy(["x x x"], 1) == 0


def test_both_ends_of_the_others():
    assert self_bleu(SAME) == 1 and self_bleu(APART) == 0
    assert math.isclose(jensen_shannon(SAME, SAME), 0, abs_tol=1e-12) and math.isclose(jensen_shannon(SAME, APART), 1)
    assert math.isclose(dispersion(np.eye(5)), 1) and math.isclose(dispersion(np.ones((5, 3))), 0, abs_tol=1e-12)
    assert math.isclose(dispersion([[1, 0], [-1, 0]]), 2)
    assert compression_ratio(SAME * 50) > 5 * compression_ratio(APART)
    for q in (0, .5, 1, 2, math.inf):
        assert math.isclose(vendi(np.eye(7), q), 7, rel_tol=1e-9) and math.isclose(vendi(np.ones((7, 3)), q), 1, rel_tol=1e-9)


def test_known_values_of_vendi():
    "K29: the two values of the package's README, its n-gram value of five sentences, and hand-made eigenvalues."
    assert round(vendi_kernel([[1, .9, 0], [.9, 1, 0], [0, 0, 1]]), 4) == 2.1573
    x = np.array([0, 0, 10, 10, 20, 20])
    assert round(vendi_kernel(np.exp(-abs(np.subtract.outer(x, x)))), 4) == 3.
    nltk = pytest.importorskip("nltk")
    five = ["Look, Jane.", "See Spot.", "See Spot run.", "Run, Spot, run.", "Jane sees Spot run."]
    assert round(vendi(ngram_features(five, (1, 2), nltk.wordpunct_tokenize)), 2) == 3.91
    w = np.array([.5, .3, .2])
    assert math.isclose(D._effective(w, 2), 1 / (w**2).sum()) and math.isclose(D._effective(w, math.inf), 2) and D._effective(w, 0) == 3


# ------------------------------------------------------------------------------------------------ against the libraries
@pytest.mark.parametrize("smoothing", [.1, None])
@given(texts=WORDS, max_n=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_self_bleu_equals_nltk(smoothing, texts, max_n):
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    method = bleu.SmoothingFunction().method0 if smoothing is None else bleu.SmoothingFunction(epsilon=smoothing).method1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = [bleu.sentence_bleu(texts[:i] + texts[i + 1:], t, weights=(1 / max_n,) * max_n, smoothing_function=method) for i, t in enumerate(texts)]
    assert math.isclose(self_bleu(texts, max_n, smoothing=smoothing), np.mean(want), abs_tol=1e-12)


@given(st.integers(2, 30), st.integers(1, 30), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_vendi_dual_and_direct_and_sparse_agree(n, d, seed):
    x = np.random.default_rng(seed).normal(size=(n, d))
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    for q in (.5, 1, 2):
        direct = vendi_kernel(u @ u.T, q)
        assert math.isclose(vendi(x, q), direct, rel_tol=1e-6) and math.isclose(vendi(sparse.csr_matrix(x), q), direct, rel_tol=1e-6)
    assert math.isclose(vendi(np.repeat(x, 3, 0)), vendi(x), rel_tol=1e-9)           # duplicates leave it as it is
    assert 1 - 1e-9 <= vendi(x) <= min(n, d) + 1e-9


def test_jsd_and_dispersion_equal_scipy():
    from scipy.spatial.distance import jensenshannon, pdist
    rng = np.random.default_rng(0)
    p, q, x = rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(9)), rng.normal(size=(40, 6))
    p[0] = 0
    p /= p.sum()
    assert math.isclose(jsd(p, q), jensenshannon(p, q, 2)**2) and math.isclose(jsd(p, q), jsd(q, p))
    assert math.isclose(dispersion(x), pdist(x, "cosine").mean()) and math.isclose(dispersion(sparse.csr_matrix(x)), dispersion(x))


def test_ngram_features_are_the_mean_of_cosines():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.metrics.pairwise import cosine_similarity
    some = TOY[:30]
    want = np.mean([cosine_similarity(CountVectorizer(ngram_range=(n, n), token_pattern=r"\w+").fit_transform(some)) for n in (1, 2)], 0)
    x = ngram_features(some)
    assert np.allclose((x @ x.T).toarray(), want)


def test_frontier_has_its_closed_form_at_both_ends():
    "Disjoint: the area of ((1-w)^c, w^c) is c B(c+1, c); equal: 1."
    from scipy.special import beta
    for c in (1., 5.):
        assert math.isclose(D._area(frontier([1, 0], [0, 1], c, 4001)), c * beta(c + 1, c), rel_tol=1e-4)
    assert math.isclose(D._area(frontier([.3, .7], [.3, .7])), 1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)) + 2
    assert mauve_like(x[:150], x[150:]) > .9 > .3 > mauve_like(x[:150], x[150:] - 6)


# ------------------------------------------------------------------------------------------------ domain classifier
def test_a_set_and_its_own_copy_are_at_chance_and_domains_apart():
    assert domain_auc(TOY[:100], TOY[:100]) == pytest.approx(.5, abs=1e-9)
    assert domain_auc(TOY[:100], [r["text"] for r in toy_world().sample(100, domain="toy_b")]) > .9
    with pytest.raises(ValueError, match="too few"):
        domain_auc(["same text"] * 50, TOY[:50])


def test_between_gives_its_null():
    real, null = between(TOY[:200], [r["text"] for r in toy_world().sample(200, domain="toy_b")], n=80, resamples=6)
    assert real["jensen_shannon"].low > null["jensen_shannon"].high and real["domain_auc"].low > null["domain_auc"].high
    assert null["mauve_like"].value > real["mauve_like"].value and real.n == null.n == 80


# ------------------------------------------------------------------------------------------------ panel
def test_panel_is_reproducible_and_says_its_n():
    p = panel(TOY + ["", "!?"], n=100, resamples=6)
    assert p == panel(TOY + ["", "!?"], n=100, resamples=6) and p != panel(TOY + ["", "!?"], n=100, resamples=6, seed=1)
    assert (p.n, p.pool, p.texts, p.blank) == (100, 400, 402, 2) and "n = 100" in repr(p) and "n = 100" in p._repr_html_()
    assert list(p.to_pandas().index) == [m.name for m in p.measures] and (p.to_pandas().n == 100).all()
    assert all(m.low <= m.value <= m.high for m in p.measures)
    with pytest.raises(KeyError, match="there are"):
        p["novelty"]


def test_panel_value_is_the_mean_over_draws_without_replacement():
    p = panel(TOY, n=50, resamples=5, measures=["distinct_2", "self_bleu", "vendi"])
    rng, want = np.random.default_rng([0, 36]), []
    for _ in range(5):
        want.append([TOY[i] for i in rng.choice(400, 50, replace=False)])
    assert math.isclose(p["distinct_2"].value, np.mean([distinct_n(t, 2) for t in want]))
    assert math.isclose(p["self_bleu"].value, np.mean([self_bleu(t) for t in want]))
    assert math.isclose(p["vendi"].value, np.mean([vendi(ngram_features(t)) for t in want]), rel_tol=1e-9)


def test_the_interval_covers_the_expected_value():
    "Equation (36.10) against the truth of the toy world: at least 90 of 100 intervals hold E[score at n]; a naive one without the correction would not."
    world, n = toy_world(), 40
    draw = lambda seed, size: [r["text"] for r in world.sample(size, seed=seed)]
    truth = np.mean([distinct_n(draw(10_000 + s, n), 1) for s in range(400)])
    hits = naive = 0
    for s in range(100):
        texts = draw(s, 120)
        m = panel(texts, n=n, resamples=20, seed=s, measures=["distinct_1"])["distinct_1"]
        hits += m.low <= truth <= m.high
        half = 2.09 * m.spread * math.sqrt(1 - n / 120) / math.sqrt(20)           # the standard error of the mean of resamples, taken for the whole error
        naive += abs(m.value - truth) <= half
    assert hits >= 90 and naive < 80, (hits, naive)


def test_growth_shows_what_depends_on_n():
    g = growth(TOY, [40, 160], resamples=5).pivot(index="n", columns="name", values="value")
    assert g["distinct_1"].is_monotonic_decreasing and g["self_bleu"].is_monotonic_increasing and g["vendi"].is_monotonic_increasing
    assert abs(g["dispersion"].diff().iloc[1]) < .01


def test_panel_takes_an_encoder_and_chinese():
    zh = [f"今天{a}很好，我们去{b}。" for a in "天气空气景色" for b in "公园学校山上"]
    p = panel(zh, n=10, resamples=5, encoder=lambda t: np.random.default_rng(0).normal(size=(len(t), 8)))
    assert p["tokens"].value > 8 and p["vendi"].value <= 8


def test_a_frame_is_read_by_its_column():
    import pandas as pd
    frame = pd.DataFrame({"a": 0, "b": 0, "c": 0, "d": 0, "text": TOY})
    assert panel(frame, n=10, resamples=5).to_dict() == panel(TOY, n=10, resamples=5).to_dict()


@pytest.mark.parametrize("call, error, words", [
    (lambda: distinct_n("one text", 1), TypeError, "a list of texts"), (lambda: distinct_n(["a", None], 1), TypeError, r"texts\[1\]"),
    (lambda: distinct_n(["a"], 2), ValueError, "no text has 2 tokens"), (lambda: distinct_n([], 1), ValueError, "at least 1"),
    (lambda: distinct_n(["a"], 0), ValueError, "n=0"), (lambda: self_bleu(["a"]), ValueError, "others"), (lambda: self_bleu(["a", "b"], 0), ValueError, "max_n"),
    (lambda: compression_ratio([" "]), ValueError, "blank"), (lambda: compression_ratio(["a"], "zip"), ValueError, "lzma"),
    (lambda: jensen_shannon(["a"], ["!"]), ValueError, "no text of b"), (lambda: jsd([.5, .4], [.5, .5]), ValueError, "distributions"),
    (lambda: vendi(np.zeros((2, 2))), ValueError, "all zeros"), (lambda: vendi([[1, np.nan]]), ValueError, "NaN"), (lambda: vendi(np.eye(2), -1), ValueError, "q=-1"),
    (lambda: vendi_kernel([[1, .5], [.4, 1]]), ValueError, "symmetric"), (lambda: vendi_kernel([[1, 2], [2, 1]]), ValueError, "no kernel"),
    (lambda: dispersion(np.ones((1, 2))), ValueError, "at least 2"), (lambda: panel(TOY[:3]), ValueError, "too few"), (lambda: panel(TOY, n=201), ValueError, "200 are possible"),
    (lambda: panel(TOY, n=10, resamples=3), ValueError, "at least 5"), (lambda: panel(TOY, measures=["x"]), ValueError, "unknown"),
    (lambda: mauve_like(np.ones((3, 2)), np.ones((3, 4))), ValueError, "one encoder"), (lambda: between(TOY[:5], TOY), ValueError, "at least 10")])
def test_bad_input_says_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
