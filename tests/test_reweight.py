"""Reweighting: the byte model against a slow count, selection, importance weights, GroupDRO, faults."""
import math
from collections import Counter

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.fusion.reweight import ByteTrigrams, GroupDRO, effective_size, importance_weights, moore_lewis, worst_group

TEXTS = ["a quiet film", "这部电影不好看", "", "aaaa", "🙂\ud800", "a quiet, moving film"]


def slow_bits(train, text, m):
    "Equation (53.1) with dictionaries, letter by letter; also which trigrams occur."
    grams = lambda t: (lambda b: [tuple(b[i:i + 3]) for i in range(len(b) - 2)])(b"\n\n" + t.encode("utf-8", "surrogatepass") + b"\n")
    n3 = Counter(g for t in train for g in grams(t))
    n2, n1, n12 = Counter(), Counter(), Counter()
    ctx2 = Counter()
    for (a, b, c), k in n3.items():
        n2[b, c] += k; n1[c] += k; n12[a, b] += k; ctx2[b] += k
    total = sum(n1.values())
    p1 = lambda c: (n1[c] + 1) / (total + 256)
    p2 = lambda b, c: (n2[b, c] + m * p1(c)) / (ctx2[b] + m)
    p3 = lambda a, b, c: (n3[a, b, c] + m * p2(b, c)) / (n12[a, b] + m)
    g = grams(text)
    return -sum(math.log2(p3(*x)) for x in g) / len(g)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6), st.floats(.1, 50))
@settings(max_examples=40, deadline=None)
def test_byte_trigrams_equal_a_slow_count(texts, prior):
    lm = ByteTrigrams([*texts, *TEXTS], prior)
    rows = np.arange(len(texts))
    got = lm.loss(lm.total(rows))
    assert np.allclose(got, [slow_bits(texts, t, prior) for t in [*texts, *TEXTS]])


def test_a_model_is_a_sum_of_rows_and_unknown_texts_are_uniform():
    lm = ByteTrigrams(TEXTS)
    assert np.allclose(lm.total([0, 1]) + lm.total([3]), lm.total([0, 1, 3])) and np.allclose(lm.total([0, 1], [2, .5]), 2 * lm.total([0]) + .5 * lm.total([1]))
    assert np.allclose(lm.loss(np.zeros(lm.counts.shape[1])), 8)     # nothing seen: 8 bits a byte
    assert lm.loss(lm.total([0]), [0])[0] < lm.loss(lm.total([1]), [0])[0]
    assert lm.symbols[2] == 1


@pytest.mark.parametrize("texts, prior, error", [("one", 5, ValueError), ([], 5, ValueError), (["a", None], 5, TypeError), (["a"], 0, ValueError), (["a"], math.inf, ValueError)])
def test_byte_trigrams_faults(texts, prior, error):
    with pytest.raises(error):
        ByteTrigrams(texts, prior)


def test_moore_lewis_finds_the_target_and_does_not_reward_short_texts():
    rng = np.random.default_rng(0)
    word = lambda letters: "".join(rng.choice(list(letters), 5))
    speak = lambda letters, n: [" ".join(word(letters) for _ in range(rng.integers(2, 12))) for _ in range(n)]
    alien, kin, target = speak("bcdfg", 60), speak("aeiou", 60), speak("aeiou", 60)
    score = moore_lewis(alien + kin, target)
    assert score.shape == (120,) and score[60:].max() < score[:60].min()
    assert np.array_equal(score, moore_lewis(alien + kin, target)) and not np.array_equal(score, moore_lewis(alien + kin, target, seed=1))
    for pool, tgt in ((["a"], ["b"]), (["a", "b"], [])):
        with pytest.raises(ValueError, match="at least 2"):
            moore_lewis(pool, tgt)


def test_moore_lewis_gives_no_bonus_for_having_been_seen():
    "Pool and target from one world: scores centre on 0; a pool model that had seen its rows would push them up."
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(list("abcdefgh "), 40)) for _ in range(300)]
    assert abs(moore_lewis(texts[:200], texts[200:]).mean()) < .02


def test_importance_weights_recover_a_known_ratio():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (3000, 2)), rng.normal([.8, 0], 1, (1500, 2))
    w = importance_weights(a, b, clip=1e9)
    assert w.mean() == pytest.approx(1) and np.polyfit(a[:, 0], np.log(w), 1)[0] == pytest.approx(.8, abs=.1)
    assert np.average(a[:, 0], weights=w) == pytest.approx(.8, abs=.15)
    same = importance_weights(rng.normal(size=(2000, 2)), rng.normal(size=(500, 2)))
    assert same.std() < .15 and effective_size(same) > 1900          # no shift: nearly equal, whatever the sizes
    clipped = importance_weights(a, b, clip=2)
    assert clipped.max() <= 2 * clipped.mean() * 1.3 and effective_size(clipped) > effective_size(w)
    assert np.allclose(importance_weights(scipy.sparse.csr_matrix(a), scipy.sparse.csr_matrix(b), clip=1e9), w, rtol=1e-3)


@pytest.mark.parametrize("pool, target, kw", [(np.zeros((9, 2)), np.zeros((9, 3)), {}), (np.zeros(9), np.zeros((9, 2)), {}), (np.zeros((3, 2)), np.zeros((9, 2)), {}), (np.zeros((9, 2)), np.zeros((9, 2)), {"clip": .5})])
def test_importance_weights_faults(pool, target, kw):
    with pytest.raises(ValueError):
        importance_weights(pool, target, **kw)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30))
def test_effective_size_bounds_and_scale(w):
    n = effective_size(w)
    assert 1 - 1e-9 <= n <= len(w) + 1e-9 and n == pytest.approx(effective_size(np.array(w) * 1e300 / max(w)))
    v = np.std(w) / np.mean(w)
    assert n == pytest.approx(len(w) / (1 + v * v))


@pytest.mark.parametrize("w", [[], [0, 0], [-1, 2], [float("nan")], [[1, 2]]])
def test_effective_size_faults(w):
    with pytest.raises(ValueError):
        effective_size(w)


def test_group_dro_gradient_is_the_weighted_one_and_evaluation_leaves_no_trace():
    losses = torch.tensor([1., 3., .5], dtype=torch.float64, requires_grad=True)
    group = torch.tensor([0, 0, 2])
    dro = GroupDRO(3, eta=.7)
    with torch.no_grad():
        dro(losses, group)
    assert torch.equal(dro.weights, torch.full((3,), 1 / 3, dtype=torch.float64))
    dro(losses, group).backward()
    q = np.exp(.7 * np.array([2, 0, .5])); q /= q.sum()
    assert np.allclose(dro.weights.numpy(), q) and np.allclose(losses.grad.numpy(), [q[0] / 2, q[0] / 2, q[2]])


def test_group_dro_solves_a_minimax_problem():
    "Two groups pull w to 0 and to 3 with curvatures 1 and 4: the largest loss is least where both are equal, at w = 2."
    w, dro = torch.zeros(1, dtype=torch.float64, requires_grad=True), GroupDRO(2, eta=.1)
    for i in range(1500):
        loss = dro(torch.cat([w ** 2, 4 * (w - 3) ** 2]), torch.tensor([0, 1]))
        w.grad = None
        loss.backward()
        w.data -= .02 / (1 + i / 200) * w.grad
    assert w.item() == pytest.approx(2, abs=.05)


@pytest.mark.parametrize("losses, group, match", [([1.], [0, 1], "one length"), ([], [], "one length"), ([1.], [2], "0 to 1"), ([float("nan")], [0], "not finite")])
def test_group_dro_faults(losses, group, match):
    with pytest.raises(ValueError, match=match):
        GroupDRO(2)(torch.tensor(losses), torch.tensor(group, dtype=torch.long))
    for bad in ((0, .1), (2, -1), (2, math.nan)):
        with pytest.raises(ValueError):
            GroupDRO(*bad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_group_numbers_must_be_whole(dtype):
    with pytest.raises(ValueError, match="group has dtype.*long"):
        GroupDRO(2)(torch.tensor([1., 2.]), torch.tensor([0, 1]).to(dtype))
    assert GroupDRO(2, eta=0.)(torch.tensor([1., 2.]), torch.tensor([0, 1], dtype=torch.int32)) == 1.5


def test_worst_group():
    assert worst_group([1, 1, 0, 1], [0, 0, 1, 1]) == 50 and worst_group([1, 1], ["a", "b"]) == 100
    for bad in (([], []), ([1], [1, 2])):
        with pytest.raises(ValueError):
            worst_group(*bad)
    for bad, match in (([math.nan, 1, 1], r"correct\[0\] is nan"), ([1, 1, math.nan], r"correct\[2\] is nan"), ([5, 7, 1], r"correct\[0\] is 5"), ([1, .5, 0], r"correct\[1\] is 0.5")):
        with pytest.raises(ValueError, match=match):
            worst_group(bad, [0, 0, 1])


@pytest.mark.parametrize("pool, target", [("abc", ["x"]), (["a", "b"], "xyz"), (b"abc", ["x"]), (["a", "b"], b"xyz")])
def test_moore_lewis_refuses_one_string(pool, target):
    with pytest.raises(TypeError, match="letter by letter"):
        moore_lewis(pool, target)


@pytest.mark.parametrize("folds", [0, 1])
def test_importance_weights_need_two_folds(folds):
    with pytest.raises(ValueError, match="at least two folds"):
        importance_weights(np.eye(9), np.eye(9), folds=folds)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_losses_are_counted_right(dtype):
    "3,990 rows of one group: bfloat16 stops counting at 256, float16 at 2,048."
    losses, group = torch.tensor([.125, .625] * 2000), torch.tensor([0] * 3990 + [1] * 10)
    means, rows = GroupDRO(2).group_losses(losses.to(dtype), group)
    assert rows.tolist() == [3990, 10] and torch.allclose(means, torch.tensor([.375, .375])) and means.dtype == torch.float32
    low, full = (GroupDRO(2, eta=5.) for _ in range(2))
    shifted = losses + group
    assert torch.allclose(low(shifted.to(dtype), group), full(shifted, group)) and torch.allclose(low.weights, full.weights)
    x = losses.to(dtype).requires_grad_()
    GroupDRO(2)(x, group).backward()
    assert x.grad.dtype == dtype and torch.isfinite(x.grad).all() and (x.grad > 0).all()


def test_group_dro_asks_for_tensors():
    with pytest.raises(TypeError, match="torch tensors, got Tensor and ndarray"):
        GroupDRO(2)(torch.tensor([1., 2.]), np.array([0, 1]))
