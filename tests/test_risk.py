"""foundations.risk: augmented risk, pooled gradients, accumulation, decay, the variance law, and the chapter's exercises."""
import contextlib
import io
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from diversity_kit.foundations.risk import (
    accumulate, adam_direction, augmented_risk, average_gradients, batch_variance, check_draws_needed, check_merge, check_mixed_risk,
    check_sentence_loss, decay_step, empirical_risk, variance_components)

f64 = lambda *a: torch.tensor(*a, dtype=torch.float64)
NAN, INF = float("nan"), float("inf")


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- empirical and augmented risk

def test_risk_golden():
    losses = f64([[1.0, 3.0, 5.0], [2.0, 2.0, 8.0]])
    assert empirical_risk(losses[:, 0]).item() == 1.5
    assert augmented_risk(losses).item() == pytest.approx(21 / 6, abs=1e-15)
    assert augmented_risk(losses, [2, 1, 1]).item() == pytest.approx((10 / 4 + 14 / 4) / 2, abs=1e-15)
    assert augmented_risk(losses, f64([[1, 0, 0], [0, 0, 3]])).item() == pytest.approx(4.5, abs=1e-15)
    assert augmented_risk(losses).shape == ()


@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 99), st.floats(1e-6, 1e6))
@settings(max_examples=60, deadline=None)
def test_risk_properties(m, k, seed, scale):
    losses, w = rand(m, k + 1, seed=seed), rand(m, k + 1, seed=seed + 100) + 0.01
    by_hand = sum(float((w[i] * losses[i]).sum() / w[i].sum()) for i in range(m)) / m
    assert augmented_risk(losses, w).item() == pytest.approx(by_hand, abs=1e-12)
    assert augmented_risk(losses, w * scale).item() == pytest.approx(by_hand, abs=1e-12)                # only relative weights matter
    assert augmented_risk(losses, w[0]).item() == pytest.approx(augmented_risk(losses, w[0].expand(m, -1)).item(), abs=1e-12)
    assert augmented_risk(losses, torch.ones(k + 1)).item() == pytest.approx(augmented_risk(losses).item(), abs=1e-12)
    assert augmented_risk(losses.flip(0)).item() == pytest.approx(augmented_risk(losses).item(), abs=1e-12)
    assert augmented_risk(losses[:, :1].expand(-1, k + 1)).item() == pytest.approx(empirical_risk(losses[:, 0]).item(), abs=1e-12)


def test_risk_gradient_reaches_losses_and_weights():
    losses, w = rand(3, 4).requires_grad_(), rand(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: augmented_risk(a, b), (losses, w))
    grad, = torch.autograd.grad(augmented_risk(losses), losses)
    assert torch.equal(grad, torch.full((3, 4), 1 / 12, dtype=torch.float64))


@pytest.mark.parametrize("weights", [[1e308, 1e308, 1e308], [5e-324, 5e-324, 5e-324]])
def test_extreme_weights_neither_overflow_nor_vanish(weights):
    losses = rand(2, 3)
    assert augmented_risk(losses, f64(weights)).item() == pytest.approx(losses.mean().item(), rel=1e-12)


def test_risk_keeps_the_dtype_of_the_losses():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        losses = torch.ones(2, 3, dtype=dtype)
        assert augmented_risk(losses, [1, 2, 3]).dtype == dtype == augmented_risk(losses).dtype


@pytest.mark.parametrize("losses", [torch.ones(3), torch.ones(2, 2, 2), torch.ones(0, 3), torch.ones(3, 0),
                                    torch.tensor([[1.0, NAN]]), torch.tensor([[1.0, INF]])])
def test_bad_losses(losses):
    with pytest.raises(ValueError, match="losses"):
        augmented_risk(losses)


@pytest.mark.parametrize("weights", [[1, -1, 1], [1, NAN, 1], [1, INF, 1], [0, 0, 0], [1, 1], 1.0, [[1, 1, 1]],
                                     [[1, 1, 1], [0, 0, 0]], torch.ones(3, 2)])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match="weights"):
        augmented_risk(torch.ones(2, 3), weights)


@pytest.mark.parametrize("losses", [[[1.0, 2.0]], None, torch.ones(2, 2, dtype=torch.long)])
def test_losses_must_be_floating_tensors(losses):
    with pytest.raises(TypeError, match="floating-point"):
        augmented_risk(losses)


@pytest.mark.parametrize("losses", [torch.ones(0), torch.ones(2, 2), torch.tensor([NAN])])
def test_bad_empirical_risk(losses):
    with pytest.raises(ValueError):
        empirical_risk(losses)


# ---- pooled gradients

@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_average_gradients_is_the_gradient_of_the_pooled_mean(sizes, seed):
    X, w = rand(sum(sizes), 3, seed=seed), rand(3, seed=seed + 1).requires_grad_()
    loss = lambda x: F.softplus(x @ w).mean()
    whole, = torch.autograd.grad(loss(X), w)
    parts = [torch.autograd.grad(loss(x), w)[0] for x in X.split(sizes)]
    assert (average_gradients(parts, sizes) - whole).abs().max() < 1e-12
    named = average_gradients(({"w": g, "b": 2 * g} for g in parts), torch.tensor(sizes))
    assert list(named) == ["w", "b"] and (named["b"] - 2 * whole).abs().max() < 1e-12
    back = average_gradients(parts[::-1], sizes[::-1])
    assert (back - whole).abs().max() < 1e-12


def test_average_gradients_is_not_the_mean_of_means_and_leaves_its_inputs():
    grads = [f64([1.0]), f64([5.0])]
    assert average_gradients(grads, [3, 1]).item() == 2.0 != 3.0
    assert [g.item() for g in grads] == [1.0, 5.0]
    assert average_gradients(grads, [1e308, 1e308]).item() == 3.0
    assert average_gradients([torch.ones(1, dtype=torch.bfloat16)] * 3, [1, 1, 1]).dtype == torch.bfloat16


@pytest.mark.parametrize("grads, sizes", [
    ([], []), ([torch.ones(2)], []), ([torch.ones(2)], [1, 2]), ([torch.ones(2)] * 2, [1, 0]), ([torch.ones(2)] * 2, [1, -1]),
    ([torch.ones(2)] * 2, [1, NAN]), ([torch.ones(2)] * 2, [1, INF]), ([torch.ones(2), torch.ones(3)], [1, 1]),
    ([torch.ones(2), torch.ones(1, 2)], [1, 1]),
    ([{"a": torch.ones(2)}, {"b": torch.ones(2)}], [1, 1]), ([{"a": torch.ones(2)}, {"a": torch.ones(3)}], [1, 1]),
    ([{"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.ones(2)}], [1, 1]), ([{"a": torch.ones(2)}, torch.ones(2)], [1, 1])])
def test_average_gradients_faults(grads, sizes):
    with pytest.raises(ValueError):
        average_gradients(grads, sizes)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_average_gradients_names_the_group_that_is_not_finite(bad):
    with pytest.raises(ValueError, match="group 1 holds NaN"):
        average_gradients([torch.ones(2), torch.tensor([0.0, bad])], [1, 1])
    with pytest.raises(ValueError, match="group 0 holds NaN"):
        average_gradients([{"a": torch.tensor([bad])}, {"a": torch.ones(1)}], [1, 1])


@pytest.mark.parametrize("sizes", [3, 2.0, torch.tensor(3)])
def test_average_gradients_wants_a_size_per_group(sizes):
    with pytest.raises(TypeError, match="one number per group"):
        average_gradients([torch.ones(2)], sizes)


@pytest.mark.parametrize("grads", [[torch.ones(2), None], [1.0, 2.0], [torch.ones(2), {"a": torch.ones(2)}],
                                   [{"a": torch.ones(2)}, {"a": None}]])
def test_average_gradients_wants_tensors(grads):
    with pytest.raises(TypeError, match="tensors"):
        average_gradients(grads, [1, 1])


# ---- accumulation

def linear(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 2).double()


def squares(model, batch):
    out = model(batch)
    return out.square().sum(), out.numel()


def grads(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any))
@settings(max_examples=40, deadline=None)
def test_accumulate_equals_one_big_batch(sizes):
    model, X = linear(), rand(sum(sizes), 3)
    whole = squares(model, X)[0] / (2 * len(X))
    want = torch.autograd.grad(whole, list(model.parameters()))
    for _ in range(2):                                              # a forgotten zero_grad must not double anything
        loss = accumulate(model, squares, iter(X.split(sizes)))
        assert abs(loss - whole) < 1e-12 and not loss.requires_grad and loss.shape == ()
        assert all((p.grad - g).abs().max() < 1e-12 for p, g in zip(model.parameters(), want))


def test_accumulate_on_padded_gpt2_with_unequal_token_counts():
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2)).double().eval()
    lengths = [2, 12, 3, 16]
    ids = torch.randint(0, 20, (4, 16))
    labels = ids.masked_fill(torch.arange(16) >= f64(lengths)[:, None], -100)

    def token_loss(model, rows):
        logits, targets = model(ids[rows]).logits[:, :-1], labels[rows][:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"), (targets != -100).sum()

    total, count = token_loss(model, [0, 1, 2, 3])
    want = torch.autograd.grad(total / count, list(model.parameters()))
    accumulate(model, token_loss, [[0], [1, 2], [3]])
    assert count == sum(lengths) - 4
    assert max((p.grad - g).abs().max() for p, g in zip(model.parameters(), want)) < 1e-12
    naive = [torch.autograd.grad(s / n, list(model.parameters())) for s, n in (token_loss(model, r) for r in ([0], [1, 2], [3]))]
    assert max((sum(g) / 3 - w).abs().max() for g, w in zip(zip(*naive), want)) > 1e-3


def test_accumulate_frees_each_graph_before_the_next_batch():
    alive, seen = [], []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            alive.append(1)
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            alive.pop()
            return g

    def loss_fn(model, batch):
        seen.append(len(alive))
        return Probe.apply(model(batch).sum()), 1

    accumulate(linear(), loss_fn, [rand(1, 3)] * 4)
    assert seen == [0, 0, 0, 0]


def test_accumulate_leaves_frozen_and_unused_parameters_alone():
    model = linear()
    model.bias.requires_grad_(False)
    accumulate(model, squares, [rand(2, 3)])
    assert model.bias.grad is None and model.weight.grad is not None
    model = torch.nn.ModuleList([linear(), linear(1)])
    model[1].weight.grad = torch.ones(2, 3, dtype=torch.float64)
    accumulate(model, lambda m, b: squares(m[0], b), [rand(2, 3)])
    assert model[1].weight.grad is None                             # the pooled mean does not depend on it; the stale gradient is gone


def bad(kind):
    def loss_fn(model, batch):
        total, n = squares(model, batch)
        if len(batch) == 1:                                         # the first micro-batch is fine, so .grad has been touched
            return total, n
        return {"nan sum": (total * NAN, n), "inf sum": (total * INF, n), "negative": (total, -1), "nan count": (total, NAN),
                "vector": (model(batch).flatten(), n), "detached": (total.detach(), n), "float": (1.0, n)}[kind]
    return loss_fn


@pytest.mark.parametrize("kind", ["nan sum", "inf sum", "negative", "nan count", "vector", "detached", "float"])
def test_accumulate_faults_name_the_batch_and_restore_the_gradient(kind):
    model = linear()
    model.weight.grad = rand(2, 3)
    before = grads(model)
    with pytest.raises(ValueError, match="micro-batch 1"):
        accumulate(model, bad(kind), [rand(1, 3), rand(2, 3)])
    assert torch.equal(model.weight.grad, before[0]) and model.bias.grad is None


@pytest.mark.parametrize("batches", [[], [rand(0, 3)], [rand(0, 3)] * 2])
def test_accumulate_over_nothing(batches):
    model = linear()
    model.weight.grad = rand(2, 3)
    before = grads(model)
    with pytest.raises(ValueError, match="no loss terms"):
        accumulate(model, squares, batches)
    assert torch.equal(model.weight.grad, before[0]) and model.bias.grad is None


def test_accumulate_skips_a_micro_batch_without_terms():
    model, X = linear(), rand(2, 3)
    want = accumulate(model, squares, [X]), grads(model)
    nothing = lambda model, batch: squares(model, batch) if len(batch) else (torch.zeros(()), 0)         # no graph, and none needed
    assert accumulate(model, nothing, [rand(0, 3), X, rand(0, 3)]) == want[0]
    assert all(torch.equal(a, b) for a, b in zip(grads(model), want[1]))


def test_accumulate_restores_after_an_error_in_the_users_code():
    model = linear()
    model.weight.grad = rand(2, 3)
    before = grads(model)

    def stream():
        yield rand(1, 3)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        accumulate(model, squares, stream())
    assert torch.equal(model.weight.grad, before[0])


@pytest.mark.parametrize("padding", [0, 3])
def test_accumulate_refuses_the_librarys_mean_and_takes_every_sum(padding):
    model = torch.nn.Linear(3, 4).double()
    x, y = rand(5 + padding, 3), torch.tensor([0, 1, 2, 3, 0] + [-100] * padding)
    ce = lambda m, b, **kw: F.cross_entropy(m(b[0]), b[1], **kw)
    model.weight.grad = old = torch.ones(4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="mean over its 5 targets"):
        accumulate(model, lambda m, b: (ce(m, b), 5), [(x, y)])
    assert model.weight.grad is old
    share = torch.full((4,), 0.2, dtype=torch.float64)
    sums = {"sum": lambda m, b: (ce(m, b, reduction="sum"), 5), "by hand": lambda m, b: (ce(m, b, reduction="none").sum(), 5),
            "mean times n": lambda m, b: (ce(m, b) * 5, 5), "one target": lambda m, b: (F.cross_entropy(m(b[0][:1]), b[1][:1]) * 1, 1),
            "a term is a batch": lambda m, b: (ce(m, b), 1), "weighted": lambda m, b: (ce(m, b, weight=share), 5),
            "one of two sums": lambda m, b: (torch.stack([ce(m, b, reduction="sum")] * 2).mean(), 5)}
    got = {name: accumulate(model, f, [(x, y)]).item() for name, f in sums.items()}
    assert got["sum"] == pytest.approx(got["by hand"]) == pytest.approx(got["mean times n"]) == pytest.approx(got["one of two sums"]) == pytest.approx(got["a term is a batch"])


# ---- decay

@pytest.mark.parametrize("name, use_adam", [("SGD", False), ("AdamW", True)])
def test_decay_step_is_the_library_optimiser(name, use_adam):
    w, ref, state = rand(4), rand(4).requires_grad_(), {}
    opt = getattr(torch.optim, name)([ref], lr=0.03, weight_decay=0.2)
    for _ in range(30):
        ref.grad = (5 * ref.detach()).cos()
        opt.step()
        g = (5 * w).cos()
        w = decay_step(w, adam_direction(g, state) if use_adam else g, 0.03, 0.2)
    assert (w - ref.detach()).abs().max() < 1e-12 and (w - rand(4)).abs().max() > 0.01


def test_decay_fixed_point_is_not_the_minimum_of_the_loss():
    a, b, lam, theta = 2.0, 3.0, 0.5, f64(0.0)
    for _ in range(2000): theta = decay_step(theta, a * (theta - b), 0.05, lam)
    assert abs(theta - a * b / (a + lam)) < 1e-9 < abs(theta - b)


@pytest.mark.parametrize("shape", [(2,), (1, 2), ()])
def test_decay_step_refuses_a_direction_that_would_be_broadcast(shape):
    with pytest.raises(ValueError, match="shape"):
        decay_step(torch.ones(2, 1), torch.ones(shape), 0.1)


# ---- the variance law

def test_batch_variance_golden_and_limits():
    assert batch_variance(2.0, 3.0, 4, 6) == 2 / 4 + 3 / 24
    assert batch_variance(2.0, 3.0, 4) == 5 / 4
    rho, sigma2 = 0.8, 1.0
    assert batch_variance(rho * sigma2, (1 - rho) * sigma2, 1, 2) == pytest.approx(sigma2 / 2 * (1 + rho))           # the correlated pair
    assert batch_variance(2.0, 3.0, 4, 10**9) == pytest.approx(0.5)


@pytest.mark.parametrize("args", [(-1, 1, 1, 1), (1, -1, 1, 1), (NAN, 1, 1, 1), (1, NAN, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0), (1, 1, NAN, 1),
                                  (INF, 1, 1, 1), (1, INF, 1, 1), (1, 1, 1.5, 1), (1, 1, 1, 2.5), (1, 1, INF, 1), (1, 1, 1, INF)])
def test_batch_variance_faults(args):
    with pytest.raises(ValueError):
        batch_variance(*args)


def test_variance_components_recovers_known_variances_and_predicts_the_batch():
    g = torch.Generator().manual_seed(0)
    mean = 2 * torch.randn(3000, 1, 3, generator=g, dtype=torch.float64)
    draws = mean + torch.randn(3000, 8, 3, generator=g, dtype=torch.float64)
    between, within = variance_components(draws)
    assert between == pytest.approx(12, rel=0.06) and within == pytest.approx(3, rel=0.03)
    batches = draws[torch.randint(3000, (4000, 16), generator=g)].mean((1, 2))
    assert batches.var(0).sum().item() == pytest.approx(batch_variance(between, within, 16, 8), rel=0.08)


def test_variance_components_by_hand():
    between, within = variance_components(f64([[[0.0], [2.0]], [[4.0], [6.0]]]))
    assert within == 2.0 and between == 8.0 - 2.0 / 2                  # means 1 and 5: variance 8, minus within / K
    assert variance_components(f64([[[0.0], [2.0]], [[0.0], [2.0]]]))[0] == 0.0


@pytest.mark.parametrize("shape", [(3, 4), (1, 4, 2), (3, 1, 2), (3, 0, 2)])
def test_variance_components_faults(shape):
    with pytest.raises(ValueError):
        variance_components(torch.ones(shape))


# ---- the exercises: stub and two plausible wrong answers fail, the folded solution of the notebook passes

NOTEBOOK = Path(__file__).parents[1] / "nbs/foundations/21_risk.ipynb"


def folded_solution(name):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    blocks = re.findall(r"<details><summary>Solution</summary>\s*```python\n(.*?)```", prose, re.S)
    space = {}
    exec(next(b for b in blocks if f"def {name}(" in b), space)
    return space[name]


def token_sum(model, batch):
    logits, targets = model(input_ids=batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"), (targets != -100).sum()


def padded_mean(model, batch):
    logits, targets = model(input_ids=batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
    return F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="none").mean(1).sum(), len(targets)


WRONG = {                                                           # the message each wrong answer must get
    "mixed_risk": (check_mixed_risk, {
        "NoneType": lambda losses, alpha: None,
        "wrong shape": lambda losses, alpha: (1 - alpha) * losses[:, 0] + alpha * losses[:, 1:].mean(1),
        "wrong value": lambda losses, alpha: alpha * losses[:, 0].mean() + (1 - alpha) * losses[:, 1:].mean(),
        "K=3.*wrong value": lambda losses, alpha: (1 - alpha) * losses[:, 0].mean() + alpha * losses[:, 1:].sum(1).mean()}),
    "merge": (check_merge, {
        "NoneType": lambda *a: None,
        "wrong value": lambda a, n, b, m: ((a + b) / 2, n + m),
        "n is": lambda a, n, b, m: ((n * a + m * b) / (n + m), m),
        "wrong shape": lambda a, n, b, m: ((n * a + m * b).sum() / (n + m), n + m)}),
    "draws_needed": (check_draws_needed, {
        "NoneType": lambda *a: None,
        "float": lambda b, w, s: w / (s * b),
        "wrong one": lambda b, w, s: max(1, int(w / (s * b))),
        "wrong one: 0": lambda b, w, s: math.ceil(w / (s * b))}),
    "sentence_loss": (check_sentence_loss, {"NoneType": lambda *a: None, "count": token_sum, "wrong value": padded_mean}),
}


@pytest.mark.parametrize("name", WRONG)
def test_exercise(name):
    check, wrong = WRONG[name]
    for message, answer in wrong.items():
        with pytest.raises(AssertionError, match=message):
            check(answer)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        check(folded_solution(name))
    assert "all checks pass" in out.getvalue()


def test_check_sentence_loss_uses_the_learners_function_on_any_model():
    fn = folded_solution("sentence_loss")
    model = lambda input_ids, attention_mask: SimpleNamespace(logits=torch.zeros(*input_ids.shape, 4))
    labels = torch.tensor([[1, 1, 1], [1, 1, -100]])
    total, count = fn(model, {"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3), "labels": labels})
    assert total.item() == pytest.approx(2 * torch.log(torch.tensor(4.0)).item(), rel=1e-6) and count == 2


def test_a_sentence_of_one_token_spoils_no_batch():
    "It has no target: 0/0 in one row made the loss of all NaN."
    fn = folded_solution("sentence_loss")
    model = lambda input_ids, attention_mask: SimpleNamespace(logits=torch.zeros(*input_ids.shape, 4))
    labels = torch.tensor([[1, 1, 1], [1, -100, -100]])
    total, count = fn(model, {"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": (labels > 0).long(), "labels": labels})
    assert total.item() == pytest.approx(torch.log(torch.tensor(4.0)).item(), rel=1e-6) and count == 1
