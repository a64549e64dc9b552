"""Imbalance: exact counts, weights = oversampling, SMOTE on segments, priors, thresholds, intervals, refusals."""
import math

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.data.imbalance import (balanced_bags, best_threshold, class_weights, imbalance, macro_f1, oversample, pr_auc, prior_shift, rebalance,
                                          row_weights, smote, undersample, with_interval)

LABELS = st.lists(st.sampled_from("abc"), min_size=1, max_size=40)


@given(LABELS, st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_counts_are_exact_and_no_row_is_lost(labels, seed):
    y = np.array(labels)
    over, under = oversample(y, seed=seed), undersample(y, seed=seed)
    names, count = np.unique(y, return_counts=True)
    assert np.unique(y[over], return_counts=True)[1].tolist() == [count.max()] * len(names)
    assert np.unique(y[under], return_counts=True)[1].tolist() == [count.min()] * len(names) and len(set(under.tolist())) == len(under)
    uses = np.bincount(over, minlength=len(y))
    for name in names:
        assert uses[y == name].min() >= 1 and np.ptp(uses[y == name]) <= 1
    assert (oversample(y, seed=seed) == over).all()


@given(LABELS, st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_bags_hold_the_minority_whole_and_use_the_majority_up(labels, bags):
    y = np.array(labels)
    names, count = np.unique(y, return_counts=True)
    small = names[count.argmin()]
    made = balanced_bags(y, bags)
    for bag in made:
        assert np.unique(y[bag], return_counts=True)[1].tolist() == [count.min()] * len(names)
        assert set(bag[y[bag] == small]) == set(np.flatnonzero(y == small))
        assert len(set(bag.tolist())) == len(bag)
    for name, n in zip(names, count):
        used = np.concatenate(made)[y[np.concatenate(made)] == name]
        assert len(set(used.tolist())) >= min(n, count.min() * bags)


def test_weights_equal_scikit_learn_and_have_mean_one():
    from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
    y = np.array(["x"] * 7 + ["y"] * 2 + ["z"])
    assert np.allclose([class_weights(y)[k] for k in "xyz"], compute_class_weight("balanced", classes=np.array(["x", "y", "z"]), y=y))
    assert np.allclose(row_weights(y), compute_sample_weight("balanced", y)) and math.isclose(row_weights(y).mean(), 1)


def test_weighted_loss_equals_oversampled_loss_with_its_gradients_and_its_minimum():
    torch = pytest.importorskip("torch")
    from sklearn.linear_model import LogisticRegression
    rng = np.random.default_rng(0)
    y, x = np.repeat([0, 1, 2], [24, 8, 3]), rng.normal(size=(35, 4))
    index, w = oversample(y), row_weights(y)
    theta = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    loss = lambda i, v: (torch.tensor(v) * torch.nn.functional.cross_entropy(torch.tensor(x[i]) @ theta, torch.tensor(y[i]), reduction="none")).mean()
    a, b = loss(np.arange(35), w), loss(index, np.ones(len(index)))
    assert abs(a - b) < 1e-12 and torch.allclose(*(torch.autograd.grad(v, theta)[0] for v in (a, b)), atol=1e-12)
    fit = lambda i, v: LogisticRegression(C=1 / len(i), tol=1e-10, max_iter=5000).fit(x[i], y[i], sample_weight=v).coef_
    assert np.allclose(fit(np.arange(35), w), fit(index, None), atol=1e-5)
    assert not np.allclose(fit(np.arange(35), None), fit(index, None), atol=1e-2)


@given(st.integers(2, 12), st.integers(0, 30), st.integers(1, 8), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_smote_lies_between_a_row_and_a_near_one(m, n, k, seed):
    x = np.random.default_rng(seed).normal(size=(m, 3))
    new = smote(x, n, k, seed)
    assert new.shape == (n, 3)
    d = np.linalg.norm(x[:, None] - x[None], axis=2)
    for v in new:
        i, j = np.unravel_index(np.argmin(np.linalg.norm(x[:, None] - v, axis=2) + np.linalg.norm(x[None] - v, axis=2) - d + 1e9 * np.eye(m)), (m, m))
        assert np.isclose(np.linalg.norm(x[i] - v) + np.linalg.norm(x[j] - v), d[i, j])
        assert min((d[i] < d[i, j]).sum(), (d[j] < d[i, j]).sum()) <= k              # itself and k - 1 nearer ones


def test_prior_shift_is_bayes_rule():
    "Against a mixture with known densities: the model of a balanced world, corrected, equals the posterior of the skewed one."
    from scipy.stats import norm
    x = np.linspace(-3, 3, 31)
    a, b = norm.pdf(x, -1), norm.pdf(x, 1)
    post = lambda pi: np.stack([a * (1 - pi), b * pi], 1) / (a * (1 - pi) + b * pi)[:, None]
    assert np.allclose(prior_shift(post(.5), [.5, .5], [.95, .05]), post(.05))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(1, 3)), min_size=2, max_size=30).filter(lambda r: len({v[0] for v in r}) == 2))
@settings(max_examples=80, deadline=None)
def test_best_threshold_finds_what_a_search_finds(rows):
    y, s, w = (np.array(v) for v in zip(*rows))
    cut = best_threshold(y, s, w)
    assert math.isclose(macro_f1(y, s >= cut, w), max(macro_f1(y, s >= c, w) for c in np.r_[s, np.inf]), rel_tol=1e-9)


def test_intervals_keep_every_class_and_contain_the_value():
    y, s = np.repeat([0, 1], [200, 3]), np.random.default_rng(0).normal(size=203)
    s[200:] += 1
    e = with_interval(y, s, pr_auc, n_boot=200)
    assert e.low <= e.mean <= e.high and e.mean == pr_auc(y, s) and e == with_interval(y, s, pr_auc, n_boot=200)
    assert with_interval(y, s > 1, macro_f1, n_boot=50).n == 203


def test_bags_that_run_through_the_majority_more_than_once_repeat_no_row_inside_a_bag():
    made = balanced_bags(np.repeat([0, 1], [60, 40]), 5)
    assert all(len(set(b.tolist())) == 80 for b in made)
    uses = np.bincount(np.concatenate(made), minlength=100)[:60]
    assert uses.sum() == 200 and uses.min() >= 3 and uses.max() <= 4


def test_best_threshold_may_call_no_row_positive():
    y, s = np.r_[np.zeros(99, int), 1], np.r_[np.arange(1., 100.), 0.]
    assert best_threshold(y, s) == math.inf and macro_f1(y, s >= best_threshold(y, s)) > max(macro_f1(y, s >= c) for c in s)
    assert best_threshold([0, 1], [.2, .8]) == .5


def test_pr_auc_below_the_share_of_the_positives():
    assert pr_auc([1, 1, 0, 0], [1, 2, 3, 4]) < .5 == pr_auc([1, 1, 0, 0], [1, 1, 1, 1])


def test_rebalance_takes_the_training_split_only():
    rows = {"text": list("abcdef"), "label": [0, 0, 0, 0, 1, 1]}
    train = datasets.Dataset.from_dict(rows, split="train")
    assert sorted(rebalance(train)["label"][:]) == [0] * 4 + [1] * 4 and len(rebalance(train, "under")) == 4
    for bad in (datasets.Dataset.from_dict(rows, split="test"), datasets.Dataset.from_dict(rows | {"split": ["train"] * 5 + ["test"]})):
        with pytest.raises(ValueError, match="marked test"):
            rebalance(bad)
    for name in ("dev", "validation", "train+test", "train[:50%]+val"):
        with pytest.raises(ValueError, match="marked"):
            rebalance(datasets.Dataset.from_dict(rows, split=name))
    assert len(rebalance(datasets.Dataset.from_dict(rows, split="train[:50%]"))) == 8


def test_imbalance_says_how_skewed():
    one = imbalance([3] * 90 + [1] * 10)
    assert one.counts == {3: 90, 1: 10} and one.ratio == 9 and one.majority_accuracy == .9 and 1 < one.effective_classes < 2
    assert math.isclose(imbalance(list("abc") * 4).effective_classes, 3) and "9" in repr(one) and "<table" in one._repr_html_()
    assert imbalance(["a"]).ratio == 1 and one.to_pandas().loc[1, "weight"] == 5


@pytest.mark.parametrize("call, words", [
    (lambda: imbalance([]), "non-empty"), (lambda: imbalance([[1, 0]]), "one-hot"), (lambda: imbalance([1., np.nan]), "missing"), (lambda: imbalance(["a", None]), "missing"), (lambda: imbalance(["a", float("nan"), "b"]), "missing"),
    (lambda: oversample([0, 0, 1], to=1), "use undersample"), (lambda: undersample([0, 1], to=0), "at least one"), (lambda: balanced_bags([0, 1], 0), "bags=0"),
    (lambda: smote(np.ones((1, 2)), 3), "at least 2"), (lambda: smote([[np.nan], [1.]], 3), "finite"), (lambda: prior_shift([[.5, .5]], [1, 0], [.5, .5]), "positive"),
    (lambda: best_threshold([1, 1], [.1, .2]), "both present"), (lambda: pr_auc([0, 0], [.1, .2]), "no row of class 1"), (lambda: with_interval([0, 0, 1], [1, 2, 3], pr_auc), "at least 2"),
    (lambda: rebalance(datasets.Dataset.from_dict({"y": [1]}), "up"), "'over' or 'under'"), (lambda: rebalance(datasets.Dataset.from_dict({"y": [1]})), "no column")])
def test_bad_input_says_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()
