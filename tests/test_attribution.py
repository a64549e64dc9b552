"""Attribution: laws recovered, intervals against theory, Shapley by all subsets, influence against retraining, planted errors, faults."""
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from diversity_kit.measure.stats import paired_t
from diversity_kit.study.attribution import (PowerLaw, cartography, fit_power_law, flip_labels, gradient_dot, jackknife, knn_shapley, label_errors, labels_worth,
                                             length_band, out_of_sample, prune, sharing_effects, strata, training_history, without_each)

RNG = np.random.default_rng(0)


# ------------------------------------------------------------------------------------------------ curves
@given(st.floats(1, 200), st.floats(.1, 1.2), st.floats(0, 20))
@settings(max_examples=30, deadline=None)
def test_power_law_is_recovered(a, b, c):
    n = np.array([50, 100, 200, 400, 800, 1600])
    law = fit_power_law(n, a * n**-b + c)
    assert np.allclose(law(n), a * n**-b + c, rtol=1e-3, atol=1e-3)
    assert abs(float(law(3200)) - (a * 3200**-b + c)) < .05


def test_power_law_inverts_and_knows_its_floor():
    law = PowerLaw(90, .4, 7, (1,))
    assert math.isclose(law.rows_for(float(law(300))), 300) and law.rows_for(7) == math.inf and "n^-0.400" in repr(law)


def test_jackknife_of_a_mean_is_the_paired_t_interval():
    t = RNG.normal(1, 2, (12, 3))
    one, two = jackknife(t, lambda v: (v[:, 0] - v[:, 2]).mean()), paired_t(t[:, 0], t[:, 2])
    assert np.allclose([one.mean, one.low, one.high, one.p], [two.mean, two.low, two.high, two.p]) and one.n == 12


def test_jackknife_covers_a_crooked_statistic():
    "Ratio of means, truth 2: about 95 of 100 intervals hold it."
    hits = 0
    for s in range(300):
        x = np.random.default_rng(s).normal([4, 2], 1, (20, 2))
        e = jackknife(x, lambda v: v[:, 0].mean() / v[:, 1].mean())
        hits += e.low <= 2 <= e.high
    assert 275 <= hits <= 297, hits


def test_labels_worth_reads_the_curve():
    n, e = [100, 200, 400, 800], [30., 20., 15., 12.]
    for size, error in zip(n, e):
        assert math.isclose(labels_worth(n, e, error), size)
    assert math.isclose(labels_worth(n, e, 25), math.sqrt(100 * 200)) and math.isclose(labels_worth(n, e, 1), 800) and math.isclose(labels_worth(n, e, 99), 100)
    assert math.isclose(labels_worth(n, [e, e], 20), 200)
    assert math.isclose(labels_worth(n, [30, 19, 21, 12], 20), 200)                   # a curve that is not monotone is smoothed first


# ------------------------------------------------------------------------------------------------ noise
@given(st.lists(st.integers(0, 3), min_size=5, max_size=60), st.floats(0, 1), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_flips_are_exact_and_change_the_label(labels, rate, seed):
    y = np.array(labels)
    out, mask = flip_labels(y, rate, seed=seed, classes=4)
    assert mask.sum() == round(rate * len(y)) and ((out != y) == mask).all() and out.min() >= 0 and out.max() < 4
    assert (flip_labels(y, rate, seed=seed, classes=4)[0] == out).all()


def test_kinds_of_flips():
    y, g, m = np.tile([0, 1], 50), np.arange(100) < 30, np.arange(100)[::-1]
    assert (y[flip_labels(y, .3, "one-sided")[1]] == 0).all() and g[flip_labels(y, .2, "group", group=g)[1]].all()
    assert flip_labels(y, .1, "boundary", margin=m)[1].nonzero()[0].tolist() == list(range(90, 100))


# ------------------------------------------------------------------------------------------------ construction
def test_sharing_effects_are_recovered_whatever_cells_are_easy_or_teach_well():
    cells = list(itertools.product("abc", "sl", [0, 1]))
    teach, easy = RNG.normal(size=12), RNG.normal(size=12)
    A = [[70 + teach[i] + easy[j] + 5 * (p[0] == q[0]) - 2 * (p[1] == q[1]) for j, q in enumerate(cells)] for i, p in enumerate(cells)]
    assert np.allclose(list(sharing_effects(A, cells, ("source", "length", "topic")).values()), [5, -2, 0])


def test_strata_and_bands():
    cell, cells = strata(["a", "b", "a"], [1, 1, 2])
    assert [cells[c] for c in cell] == [("a", 1), ("b", 1), ("a", 2)] and len(cells) == 3
    assert length_band([1, 2, 10, 20], ["x", "x", "y", "y"]).tolist() == ["short", "long", "short", "long"]


# ------------------------------------------------------------------------------------------------ rows
def by_subsets(x, y, tx, ty, k):
    N, value = len(y), np.zeros(len(y))
    utility = lambda s: sum(y[i] == ty for i in sorted(s, key=lambda i: -(x[i] @ tx))[:k]) / k
    for i in range(N):
        for r in range(N):
            for s in itertools.combinations([j for j in range(N) if j != i], r):
                value[i] += (utility([*s, i]) - utility(s)) / (N * math.comb(N - 1, r))
    return value


@pytest.mark.parametrize("k", [1, 2, 5])
def test_knn_shapley_equals_its_definition(k):
    unit = lambda m: m / np.linalg.norm(m, axis=1, keepdims=True)
    x, t = unit(RNG.normal(size=(6, 3))), unit(RNG.normal(size=(5, 3)))
    y, ty = RNG.integers(0, 3, 6), RNG.integers(0, 3, 5)
    want = np.mean([by_subsets(x, y, a, b, k) for a, b in zip(t, ty)], 0)
    assert np.allclose(knn_shapley(x, y, t, ty, k), want) and np.allclose(knn_shapley(sparse.csr_matrix(x), y, sparse.csr_matrix(t), ty, k, block=2), want)


def test_knn_shapley_sums_to_the_share_of_right_neighbours_which_is_no_accuracy():
    unit = lambda m: m / np.linalg.norm(m, axis=1, keepdims=True)
    x, t, y, ty = unit(RNG.normal(size=(60, 4))), unit(RNG.normal(size=(40, 4))), RNG.integers(0, 2, 60), RNG.integers(0, 2, 40)
    near = y[np.argsort(-(t @ x.T), 1, kind="stable")] == ty[:, None]
    assert np.isclose(knn_shapley(x, y, t, ty, 5).sum(), near[:, :5].mean()) and np.isclose(knn_shapley(x, y, t, ty, 1).sum(), near[:, 0].mean())
    assert abs(near[:, :5].mean() - (near[:, :5].mean(1) > .5).mean()) > .01 and "accuracy of the vote for k = 1 only" in knn_shapley.__doc__


def planted(n=400, d=6, share=.1):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n + 300, d))
    y = (x @ np.arange(1, d + 1) + .5 * rng.normal(size=n + 300) > 0).astype(int)
    noisy, bad = flip_labels(y[:n], share, seed=3)
    return x[:n], noisy, bad, x[n:], y[n:]


def test_every_judge_finds_planted_flips():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    x, y, bad, tx, ty = planted()
    p = out_of_sample(x, y)
    model = LogisticRegression().fit(x, y)
    judges = {"own": 1 - p[np.arange(len(y)), y], "shapley": -knn_shapley(x, y, tx, ty, 5),
              "dot": -gradient_dot(x, y, tx, ty, model.predict_proba(x), model.predict_proba(tx)), "cartography": -cartography(training_history(x, y)).confidence}
    auc = {k: roc_auc_score(bad, v) for k, v in judges.items()}
    assert min(auc.values()) > .85, auc


def test_label_errors_are_mostly_the_planted_ones():
    pytest.importorskip("cleanlab")
    x, y, bad, *_ = planted()
    found = label_errors(y, out_of_sample(x, y))
    assert bad[found.row].mean() > .8 and bad[found.row].sum() > 20 and (found.suggested != found.label).all() and found.quality.is_monotonic_increasing


def test_probabilities_are_out_of_sample_and_groups_stay_together():
    x, y = np.eye(40), np.tile([0, 1], 20)
    assert np.abs(out_of_sample(x, y) - .5).max() < .1                                # nothing can be learnt about a row from the others
    twice, group = np.repeat(x, 2, 0), np.repeat(np.arange(40), 2)
    labels = np.repeat(y, 2)
    assert np.abs(out_of_sample(twice, labels, groups=group) - .5).max() < .1 < np.abs(out_of_sample(twice, labels) - .5).max()


def test_influence_predicts_retraining():
    x, y, _, tx, ty = planted(300, 3)
    x, tx, lam = np.c_[x, np.ones(300)], np.c_[tx, np.ones(300)], .05
    soft = lambda z: np.exp(z - z.max(1, keepdims=True)) / np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)

    def newton(weight):
        w = np.zeros((4, 2))
        for _ in range(15):
            p = soft(x @ w)
            S = weight[:, None, None] * p[:, :, None] * (np.eye(2)[None] - p[:, None, :])
            H = np.einsum("ni,nj,nab->iajb", x, x, S).reshape(8, 8) / 300 + lam * np.eye(8)
            w = w - np.linalg.solve(H, (x.T @ ((p - np.eye(2)[y]) * weight[:, None]) / 300 + lam * w).ravel()).reshape(4, 2)
        return w
    loss = lambda w: -np.log(soft(tx @ w)[np.arange(300), ty]).mean()
    w = newton(np.ones(300))
    left = np.array([loss(newton(np.arange(300) != i)) - loss(w) for i in range(0, 300, 6)]) * 300
    mine = gradient_dot(x, y, tx, ty, soft(x @ w), soft(tx @ w), damping=lam)[::6]
    assert np.corrcoef(mine, left)[0, 1] > .99 and abs(np.polyfit(mine, left, 1)[0] - 1) < .1


def test_gradient_dot_is_the_derivative_of_a_step():
    x, y, _, tx, ty = planted(50, 3)
    w, lr = RNG.normal(size=(3, 2)), 1e-5
    soft = lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True)
    loss = lambda w: -np.log(soft(tx @ w)[np.arange(300), ty]).mean()
    v = gradient_dot(x, y, tx, ty, soft(x @ w), soft(tx @ w))
    steps = [(loss(w) - loss(w - lr * np.outer(x[i], soft(x[i:i + 1] @ w)[0] - np.eye(2)[y[i]]))) / lr for i in range(50)]
    assert np.allclose(v, steps, rtol=1e-3, atol=1e-4) and np.allclose(v, gradient_dot(sparse.csr_matrix(x), y, sparse.csr_matrix(tx), ty, soft(x @ w), soft(tx @ w)))


def test_gradient_dot_takes_bools():
    x, p = RNG.normal(size=(4, 2)), np.full((4, 2), .5)
    y = np.array([0, 1, 1, 0])
    assert np.array_equal(gradient_dot(x, y == 1, x, y == 1, p, p), gradient_dot(x, y, x, y, p, p))


def test_without_each_names_the_bad_source():
    source = np.repeat(list("abc"), 10)
    got = without_each(lambda i: 50 + (i.size - 20) - 30 * (source[i] == "b").any(), source)
    assert min(got, key=got.get) == "b" and got == {"a": 10, "b": -20, "c": 10}


def test_cartography_regions():
    p = np.stack([np.r_[np.full(30, .95), np.where(np.arange(30) % 2, t % 2 * .9, .1), ] for t in range(6)])
    c = cartography(p)
    assert (c.region[:20] == "easy").all() and (c.region[31::2] == "ambiguous").all() and c.correctness[0] == 1 and math.isclose(c.variability[30], 0, abs_tol=1e-9)


def test_prune_keeps_what_it_says():
    m = np.array([3., -1, .5, 2, -4])
    assert prune(m, .4, "easy").tolist() == [0, 3] and prune(m, .4, "hard").tolist() == [1, 4] and len(prune(m, .4, "random")) == 2


@pytest.mark.parametrize("call, words", [
    (lambda: jackknife(np.ones((2, 3)), np.mean), "at least 3"), (lambda: jackknife(np.ones((4, 1)), lambda t: math.nan), "not finite"),
    (lambda: fit_power_law([1, 2], [1, 2]), "at least 3"), (lambda: fit_power_law([1, 1, 2], [1, 2, 3]), "different"), (lambda: fit_power_law([1, 2, 3], [1, np.nan, 3]), "finite"),
    (lambda: labels_worth([2, 1], [3, 4], 3), "increasing"), (lambda: flip_labels([.5], .1), "int labels"), (lambda: flip_labels([0, 1], 1.5), "rate"),
    (lambda: flip_labels([1, 1], .5, "one-sided"), "only 0 rows"), (lambda: flip_labels([0, 1], .5, "odd"), "choose"), (lambda: flip_labels([0, 1], .5, "group"), "needs group="),
    (lambda: strata([1], [1, 2]), "equal lengths"), (lambda: sharing_effects([[1]], [("a",)], ("s", "l")), "levels"), (lambda: sharing_effects(np.ones((2, 2)), [("a",), ("a",)], ("s",)), "one level"),
    (lambda: cartography([[.5]]), "2 epochs"), (lambda: cartography([[2.], [1.]]), "probabilities"), (lambda: out_of_sample(np.eye(4), [0, 0, 0, 1]), "smallest"),
    (lambda: label_errors([0, 1], [[1, 0]]), "2 labels"), (lambda: knn_shapley(np.eye(2), [0, 1], np.eye(2), [0, 1], 3), "k=3"),
    (lambda: gradient_dot(np.eye(2), [0, 1], np.eye(2), [0, 1], np.ones((3, 2)), np.ones((2, 2))), "do not fit"), (lambda: without_each(len, ["a", "a"]), "one group"),
    (lambda: gradient_dot(np.eye(2), [-1, 1], np.eye(2), [0, 1], np.ones((2, 2)), np.ones((2, 2))), r"whole numbers 0\.\.1"),
    (lambda: gradient_dot(np.eye(2), [0, 1], np.eye(2), [0., 1.], np.ones((2, 2)), np.ones((2, 2))), "whole numbers"),
    (lambda: sharing_effects(np.eye(4), [("a", "x", 0), ("a", "x", 1), ("b", "y", 0), ("b", "y", 1)], ("source", "language", "half")), "never varies apart"),
    (lambda: sharing_effects([[1, np.nan], [1, 1]], [("a",), ("b",)], ("s",)), "finite"),
    (lambda: out_of_sample(np.eye(16), [0, 1] * 5 + [2] * 6, groups=[*range(10), *[99] * 6]), "class 2 fall into one fold"),
    (lambda: flip_labels([0, 1] * 5, .2, "group", group=[True] * 3), "3 values of group for 10"), (lambda: flip_labels([0, 1] * 5, .2, "boundary", margin=[1, 2]), "2 values of margin for 10"),
    (lambda: prune([1.], 0), "share"), (lambda: prune([1.], .5, "best"), "keep")])
def test_bad_input_says_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()
