"""learn.distributed: pooled gradients over real gloo processes, faults that must not hang, the cuts of a model, costs, and the exercises."""
import contextlib
import io
import math
import multiprocessing
import os
import re
import signal
import socket
import time
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from diversity_kit.foundations.risk import accumulate
from diversity_kit.learn.distributed import (
    ByteModel, Cluster, all_reduce_gradients, average_parameters, broadcast, bubble, byte_loss, check_loss_scale, check_micro_batches_needed,
    check_parallel_mlp, column_parallel, connect, encode, fit, pipeline_step, projection, ring_all_reduce, ring_seconds, row_parallel, schedule,
    shard, torchrun)

ROOT = Path(__file__).parents[1]
NAN, INF = float("nan"), float("inf")
TEXTS = ["the soup was hot", "bad", "we waited an hour and left", "这家店的服务真好", "a quiet place", "never again, not even for free", "good food"]
IDS = encode(TEXTS, 32)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def attempt(call):
    "What call returned, or the kind and text of its error."
    try:
        return call()
    except Exception as e:
        return f"{type(e).__name__}: {e}"


def group(job, world=2, timeout=30.0, wait=60):
    "Run job(rank, world) in forked gloo processes; returns what each rank returned (None for a process that died)."
    ctx, port = multiprocessing.get_context("fork"), free_port()
    queue = ctx.SimpleQueue()

    def child(rank):
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(world))

        def inside():
            with connect(expect=world, timeout=timeout) as (r, w):
                assert (r, w) == (rank, world)
                return job(r, w)
        queue.put((rank, attempt(inside)))
        os._exit(0)

    processes = [ctx.Process(target=child, args=(r,)) for r in range(world)]
    for p in processes: p.start()
    end, found = time.monotonic() + wait, {}
    while True:                                                          # read while they run: a full pipe would block them
        alive = any(p.is_alive() for p in processes)
        while not queue.empty():
            rank, value = queue.get()
            found[rank] = value
        if not alive or time.monotonic() > end:
            break
        time.sleep(0.02)
    for p in processes: p.kill()
    assert not alive, f"only ranks {sorted(found)} of {world} came to an end"
    return [found.get(r) for r in range(world)]


# ---- shards and data

@given(st.integers(0, 300), st.integers(1, 20))
@settings(max_examples=80, deadline=None)
def test_shards_are_a_balanced_partition(n, world):
    parts = [shard(n, r, world) for r in range(world)]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("n, rank, world", [(-1, 0, 1), (3, 0, 0), (3, 2, 2), (3, -1, 2)])
def test_bad_shards(n, rank, world):
    with pytest.raises(ValueError, match="rank"):
        shard(n, rank, world)


def test_encode_and_byte_loss_golden():
    ids = encode(["ab", "好x"], 5)
    assert ids.tolist() == [[97, 98, 0, 0, 0], [229, 165, 189, 120, 0]]
    total, count = byte_loss(lambda x: torch.zeros(*x.shape, 256, dtype=torch.float64), ids)
    assert count == 1 + 3 and total.item() == pytest.approx(4 * math.log(256), abs=1e-12)              # padding is no target
    assert encode(["abcdef"], 3).tolist() == [[97, 98, 99]]
    for bad in ([], ["a"], ["ab", ""]):
        with pytest.raises(ValueError, match="two bytes"):
            encode(bad)


def test_byte_model_sees_two_bytes_and_no_future():
    torch.manual_seed(0)
    model, ids = ByteModel(8), IDS[:1]
    base = model(ids)
    for changed, seen in ((5, {5, 6}), (0, {0, 1})):
        other = ids.clone(); other[0, changed] = 7
        rows = (model(other) - base)[0].abs().amax(-1) > 0
        assert set(rows.nonzero().flatten().tolist()) == seen


# ---- equation (61.1) on real processes

def local_model(dtype=torch.float64):
    torch.manual_seed(3)
    return torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(3, 2), "never": torch.nn.Linear(1, 1)}).to(dtype)


def test_weighted_all_reduce_is_the_gradient_of_all():
    "Three ranks with 5, 0 and 2 rows; `b` is used on rank 2 only, `never` nowhere; a frozen parameter is left alone."
    X, rows = randn(7, 3), [5, 0, 2]

    def loss(model, x):
        out = model["a"](x).square().sum()
        return (out + model["b"](x).exp().sum() if len(x) == 2 else out), len(x)

    def job(rank, world):
        model = local_model()
        model["never"].bias.requires_grad_(False)
        if rows[rank]:
            accumulate(model, loss, [X.split(rows)[rank]])
        n = all_reduce_gradients(model, rows[rank])
        return n, {k: None if p.grad is None else p.grad.tolist() for k, p in model.named_parameters()}

    model = local_model()
    accumulate(model, loss, [X.split(rows)[0], X.split(rows)[2]])
    results = group(job, world=3)
    assert results[0] == results[1] == results[2]                                                       # the same bits on every rank
    n, grads = results[0]
    assert n == 7 and grads["never.weight"] is None and grads["never.bias"] is None
    for name in ("a.weight", "a.bias", "b.weight", "b.bias"):
        assert torch.allclose(torch.tensor(grads[name], dtype=torch.float64), dict(model.named_parameters())[name].grad, rtol=1e-13, atol=1e-14)


def test_low_precision_is_summed_in_float32():
    "256 and 1 and 1: bfloat16 would lose both ones; dtypes are kept and mixed dtypes go their own way."
    def job(rank, world):
        model = torch.nn.ParameterDict({"h": torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16)), "d": torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))})
        model["h"].grad = torch.tensor([[256.0, 1.0, 1.0][rank] * 3], dtype=torch.bfloat16)
        model["d"].grad = torch.full((1,), 1 / 3, dtype=torch.float64)
        all_reduce_gradients(model, 1)
        return model["h"].grad.item(), str(model["h"].grad.dtype), model["d"].grad.item()
    for value, dtype, double in group(job, world=3):
        assert value == 258 and dtype == "torch.bfloat16" and double == pytest.approx(1 / 3, abs=1e-15)


def test_errors_reach_every_rank_and_leave_the_group_usable():
    def job(rank, world):
        def case(count, mutate=lambda m: None, model=None):
            model = model or torch.nn.Linear(2, 2)
            for p in model.parameters(): p.grad = torch.ones_like(p)
            if rank == 1: mutate(model)
            return attempt(lambda: all_reduce_gradients(model, count[rank]))

        def drop(model):
            for p in model.parameters(): p.grad = None

        def sparse(model): model.weight.grad = torch.ones(2, 2).to_sparse()
        shapes = torch.nn.Linear(2, 2 + rank)
        return {"sparse": case([1, 1], sparse), "nan": case([1, NAN]), "negative": case([1, -1]), "missing": case([1, 1], drop),
                "loose": case([1, 0]), "nothing": case([0, 0], model=torch.nn.Linear(2, 2)) if rank < 0 else empty(), "shapes": case([1, 1], model=shapes),
                "frozen": case([1, 1], lambda m: m.bias.requires_grad_(False)), "average": attempt(lambda: average_parameters(shapes, 1)),
                "average nothing": attempt(lambda: average_parameters(torch.nn.Linear(1, 1), 0)), "broadcast": attempt(lambda: broadcast(shapes)),
                "then": case([1, 3])}

    def empty():
        return attempt(lambda: all_reduce_gradients(torch.nn.Linear(2, 2), 0))

    one, two = group(job)
    assert one == two
    said = {"sparse": "rank 1 has a sparse", "nan": "rank 1 has a count", "negative": "rank 1 has a count", "missing": "rank 1 has no gradient",
            "loose": "rank 1 has a count of 0", "nothing": "no loss terms", "shapes": "rank 1 has other parameters", "frozen": "rank 1 has other parameters",
            "average": "rank 1 has other parameters", "average nothing": "no loss terms", "broadcast": "rank 1 has other parameters"}
    for name, text in said.items():
        assert one[name].startswith("ValueError") and text in one[name], (name, one[name])
    assert one["then"] == 4.0


def test_average_and_broadcast():
    def job(rank, world):
        model = torch.nn.Linear(2, 1, bias=False).double()
        model.register_buffer("steps", torch.tensor(rank + 5))
        torch.nn.init.constant_(model.weight, [1.0, 5.0][rank])
        n = average_parameters(model, [3, 1][rank])
        mean, steps = model.weight.tolist(), model.steps.item()
        torch.nn.init.constant_(model.weight, float(rank + 7))
        broadcast(model)
        return n, mean, steps, model.weight.tolist(), model.steps.item()
    assert group(job) == [(4.0, [[2.0, 2.0]], 5 + r, [[7.0, 7.0]], 5) for r in range(2)]


def test_five_ways_of_training():
    args = dict(steps=5, batch_size=5, seed=1, width=8)
    ways = ("weighted", "ddp", "ddp scaled", 1, 5)
    single = fit(IDS, **args)
    results = group(lambda rank, world: [(r["parameters"].tolist(), r["tokens"], r["loss"]) for r in (fit(IDS, sync=s, rank=rank, world=world, **args) for s in ways)])
    assert isinstance(results[0], list), results[0]
    assert results[0] == results[1]                                                                     # ranks agree in every way
    gaps = {way: (torch.tensor(p, dtype=torch.float64) - single["parameters"]).abs().max().item() for way, (p, _, _) in zip(ways, results[0])}
    assert max(gaps[w] for w in ("weighted", "ddp scaled", 1)) < 1e-13 < 1e-5 < min(gaps["ddp"], gaps[5]), gaps
    assert {tokens for _, tokens, _ in results[0]} == {single["tokens"]}
    assert results[0][0][2] == pytest.approx(single["loss"], abs=1e-12)


def test_fit_learns_and_depends_on_its_seed():
    long, other = fit(IDS, 60, 7, seed=0, width=8), fit(IDS, 60, 7, seed=1, width=8)
    assert long["loss"] < 4.5 < fit(IDS, 1, 7, seed=0, width=8)["loss"] and not torch.equal(long["parameters"], other["parameters"])
    assert long["tokens"] == 60 * int((IDS[:, 1:] != 0).sum())


@pytest.mark.parametrize("change", [{"sync": "mean"}, {"sync": 0}, {"sync": 4}, {"sync": True}, {"batch_size": 8}, {"batch_size": 1, "world": 2}])
def test_bad_fit(change):
    with pytest.raises(ValueError, match="sync|batch_size"):
        fit(IDS, **({"steps": 6, "batch_size": 4} | change))


# ---- faults: an error, a sentence, and a bounded time

@pytest.mark.parametrize("fault, limit", [("dies", 8), ("hangs", 10)])
def test_a_lost_rank_ends_the_run_in_bounded_time(fault, limit):
    def job(rank, world):
        model = torch.nn.Linear(2, 2)
        for step in range(3):
            for p in model.parameters(): p.grad = torch.ones_like(p)
            if rank == 1 and step == 1:
                if fault == "dies": os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(4)
                return "woke up"
            try:
                all_reduce_gradients(model, 1)
            except RuntimeError as e:
                return step, str(e)
    start = time.monotonic()
    survivor, lost = group(job, timeout=2.0)
    assert time.monotonic() - start < limit
    assert lost in (None, "woke up") and survivor[0] == 1, survivor
    assert re.search(r"rank 0 of 2: all_gather failed after \d+\.\d s\. Another process died", survivor[1])


def test_connect_refuses(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="RANK, WORLD_SIZE.*torch.distributed.run"), connect():
        pass
    with pytest.raises(RuntimeError, match="no 'teleport' backend"), connect(backend="teleport"):
        pass
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda name: False)
    with pytest.raises(RuntimeError, match="no 'gloo' backend"), connect():
        pass
    monkeypatch.undo()
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="2 processes were asked for, but this group has 1"), connect(expect=2):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="not all 2 processes met within 1 s"), connect(timeout=1):
        pass
    assert time.monotonic() - start < 10
    model = torch.nn.Linear(1, 1)
    for p in model.parameters(): p.grad = torch.ones_like(p)
    for call in (lambda: all_reduce_gradients(model, 1), lambda: average_parameters(model, 1), lambda: broadcast(model)):
        with pytest.raises(RuntimeError, match="no process group"):
            call()
    with pytest.raises(ValueError, match="no trainable"):
        all_reduce_gradients(torch.nn.Identity(), 1)


def test_torchrun_names_the_rank_that_was_killed(tmp_path):
    "The other rank wants to sleep for a minute. (A run that ends well is the chapter itself.)"
    script = tmp_path / "job.py"
    script.write_text("import os, signal, sys, time\nif (os.environ['RANK'], os.environ['WORLD_SIZE'], sys.argv[1]) == ('1', '2', 'kill'):\n"
                      "    os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)\n")
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"failed on 2 processes:(?s:.*)exitcode +: -9"):
        torchrun(str(script), "kill", world=2, timeout=60)
    assert time.monotonic() - start < 40
    with pytest.raises(TimeoutError, match="within 0.5 s"):
        torchrun(str(script), "kill", world=2, timeout=0.5)
    with pytest.raises(ValueError, match="world"):
        torchrun(str(script), world=0)


# ---- cutting a model

@given(st.integers(1, 5), st.integers(5, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_column_and_row_cuts_equal_the_layer(parts, size, seed):
    x, weight, bias = randn(2, 3, size, seed=seed), randn(size + 2, size, seed=seed + 1), randn(size + 2, seed=seed + 2)
    whole = F.linear(x, weight, bias)
    columns = column_parallel(x, weight, bias, parts)
    rows = row_parallel(x.tensor_split(parts, -1), weight)
    assert len(columns) == len(rows) == parts
    assert torch.allclose(torch.cat(columns, -1), whole, rtol=1e-12, atol=1e-12) and torch.allclose(sum(rows) + bias, whole, rtol=1e-12, atol=1e-12)


def test_cuts_refuse_what_does_not_fit():
    for parts in (0, 3):
        with pytest.raises(ValueError, match="parts"):
            column_parallel(randn(1, 4), randn(2, 4), randn(2), parts)
    with pytest.raises(ValueError, match="3 inputs together, the weight has 4"):
        row_parallel([randn(1, 2), randn(1, 1)], randn(2, 4))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_pipeline_gradient_is_the_gradient_of_the_batch(sizes, cuts, seed):
    torch.manual_seed(seed)
    layers = [torch.nn.Embedding(5, 4), torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)]
    stages = [torch.nn.Sequential(*layers[i::1][: (1 if i < cuts else None)]) for i in range(cuts + 1)]
    assert sum(len(s) for s in stages) == 4
    net = torch.nn.Sequential(*layers).double()
    X, y = torch.randint(0, 5, (sum(sizes),)), torch.randint(0, 3, (sum(sizes),))
    whole = F.cross_entropy(net(X), y)
    want = torch.autograd.grad(whole, list(net.parameters()))
    for _ in range(2):                                                                                  # an old gradient is replaced
        got = pipeline_step(stages, lambda out, t: (F.cross_entropy(out, t, reduction="sum"), len(t)), zip(X.split(sizes), y.split(sizes)))
    assert got == pytest.approx(whole.item(), abs=1e-12)
    assert all(torch.allclose(p.grad, g, rtol=1e-11, atol=1e-13) for p, g in zip(net.parameters(), want))


def test_a_layer_that_two_stages_share_gets_its_gradient_once():
    torch.manual_seed(0)
    shared, head = torch.nn.Linear(4, 4).double(), torch.nn.Linear(4, 3).double()
    stages, X, y = [torch.nn.Sequential(shared, torch.nn.Tanh()), torch.nn.Sequential(shared, torch.nn.Tanh()), head], randn(10, 4), torch.randint(0, 3, (10,))
    want = torch.autograd.grad(F.cross_entropy(torch.nn.Sequential(*stages)(X), y), [*shared.parameters(), *head.parameters()])
    pipeline_step(stages, lambda out, t: (F.cross_entropy(out, t, reduction="sum"), len(t)), zip(X.split(5), y.split(5)))
    assert all(torch.allclose(p.grad, g, rtol=1e-11, atol=1e-13) for p, g in zip([*shared.parameters(), *head.parameters()], want))


def test_pipeline_faults():
    for stages, batches in (([], [(randn(1, 1), 0)]), ([torch.nn.Linear(1, 1).double()], [])):
        with pytest.raises(ValueError, match="stage|loss terms"):
            pipeline_step(stages, lambda out, t: (out.sum(), 1), batches)


@given(st.integers(1, 7), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_the_bubble_is_what_the_schedule_leaves_idle(p, m):
    plan = schedule(p, m)
    assert len(plan) == 2 * p * m and not plan.duplicated(["stage", "slot"]).any() and not plan.duplicated(["stage", "micro", "backward"]).any()
    at = {(r.stage, r.micro, r.backward): r.slot for r in plan.itertuples()}
    assert all(at[s, i, False] > at[s - 1, i, False] and at[s - 1, i, True] > at[s, i, True] > at[p - 1, i, False] for s in range(1, p) for i in range(m))
    assert 1 - m * 2 / (plan.slot.max() + 1) == pytest.approx(bubble(p, m), abs=1e-12)


def test_bubble_golden():
    assert bubble(1, 5) == 0 and bubble(4, 1) == 0.75 and bubble(2, 3) == 0.25
    for p, m in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            bubble(p, m)


# ---- costs

@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_ring_sums_everything_and_sends_what_the_formula_says(w, n, seed):
    vectors = list(randn(w, n, seed=seed))
    before = [v.clone() for v in vectors]
    results, sent = ring_all_reduce(vectors)
    assert all(torch.equal(r, results[0]) for r in results) and torch.allclose(results[0], sum(before), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(vectors, before))
    assert sum(sent) == 2 * (w - 1) * n
    if n % w == 0:
        assert {s * 8 for s in sent} == {round(ring_seconds(n * 8, w, 1.0))}


def test_ring_seconds_golden_and_faults():
    assert ring_seconds(1e9, 4, 1e9, 0.5) == pytest.approx(2 * 3 / 4 + 6 * 0.5, abs=1e-12)
    assert ring_seconds(1e9, 1, 1e9, 1.0) == 0 and ring_seconds(1e9, 10**6, 1e9) == pytest.approx(2, abs=1e-5)
    for bad in ((1, 0, 1, 0), (1, 2, 0, 0), (1, 2, 1, -1), (-1, 2, 1, 0)):
        with pytest.raises(ValueError, match="world"):
            ring_seconds(*bad)
    for bad in ([], [torch.ones(2), torch.ones(3)], [torch.ones(2, 2)]):
        with pytest.raises(ValueError, match="one length"):
            ring_all_reduce(bad)


CLUSTER = Cluster(peak=100.0, utilisation=0.5, per_node=2, inside=10.0, between=1.0, latency=0.25, memory=160.0)


def test_projection_golden():
    assert CLUSTER.compute_seconds(5, 10) == 6 * 5 * 10 / 50 and CLUSTER.fits(9) and not CLUSTER.fits(10)
    weak = projection(4.0, 20.0, CLUSTER, gpus=(1, 2, 4))
    assert weak.ring_s.tolist() == [0.0, 2 * (0.25 + 1.0), 6 * (0.25 + 5.0)]                            # within a machine, then at the slow link
    assert weak.step_s.tolist() == [4.0, 6.5, 35.5] and weak.speedup.tolist() == pytest.approx([1, 8 / 6.5, 16 / 35.5])
    strong = projection(4.0, 20.0, CLUSTER, gpus=(1, 2), fixed="global", overlap=0.5)
    assert strong.compute_s.tolist() == [4.0, 2.0] and strong.step_s.tolist() == [4.0, 3.5]
    assert strong.efficiency.tolist() == pytest.approx([1, 4 / 3.5 / 2])


@given(st.floats(0.01, 10), st.floats(1, 1000), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_projection_properties(compute, nbytes, overlap):
    weak, strong = (projection(compute, nbytes, CLUSTER, fixed=f, overlap=overlap) for f in ("per_gpu", "global"))
    assert (weak.efficiency <= 1 + 1e-12).all() and (strong.efficiency <= weak.efficiency + 1e-12).all()
    assert (projection(compute, nbytes, CLUSTER).step_s >= weak.step_s - 1e-12).all()                   # hiding never costs time


@pytest.mark.parametrize("change", [{"peak": 0}, {"latency": NAN}, {"between": -1}, {"utilisation": 1.5}, {"memory": INF}])
def test_bad_cluster(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Cluster(**(vars(CLUSTER) | change))


@pytest.mark.parametrize("change", [{"fixed": "batch"}, {"compute_s": 0}, {"overlap": 1.1}, {"gpus": (0,)}])
def test_bad_projection(change):
    with pytest.raises(ValueError, match="fixed|compute_s"):
        projection(**({"compute_s": 1.0, "nbytes": 1.0, "cluster": CLUSTER} | change))


# ---- exercises

def solutions() -> dict:
    text = "\n".join(c.source for c in nbformat.read(ROOT / "nbs/learn/61_distributed.ipynb", 4).cells if c.cell_type == "markdown")
    space = {}
    for block in re.findall(r"<summary>Solution</summary>\s*```python\n(.*?)```", text, re.S): exec(block, space)
    return space


WRONG = {
    check_loss_scale: [lambda c: [n / sum(c) for n in c], lambda c: [sum(c) / (len(c) * n) for n in c], lambda c: 1.0, lambda c: [1.0] * len(c)],
    check_parallel_mlp: [lambda x, u, d, k: [d(F.gelu(u(x))) / k] * k,
                         lambda x, u, d, k: [h + d.bias for h in row_parallel([F.gelu(h) for h in column_parallel(x, u.weight, u.bias, k)], d.weight)],
                         lambda x, u, d, k: [d(F.gelu(u(x)))]],
    check_micro_batches_needed: [lambda p, b: math.ceil((p - 1) / b), lambda p, b: max(1, math.floor((p - 1) * (1 - b) / b)), lambda p, b: (p - 1) * (1 - b) / b]}


@pytest.mark.parametrize("check", WRONG, ids=lambda c: c.__name__)
def test_exercise_checks(check):
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet):
        check(solutions()[check.__name__.removeprefix("check_")])
        for wrong in [lambda *a: None, *WRONG[check]]:
            with pytest.raises(AssertionError):
                check(wrong)
    assert quiet.getvalue().count("all checks pass") == 1


def test_checks_tell_shape_from_value():
    for check, shape, value in ((check_loss_scale, lambda c: 1.0, WRONG[check_loss_scale][3]), (check_parallel_mlp, WRONG[check_parallel_mlp][2], WRONG[check_parallel_mlp][1]),
                                (check_micro_batches_needed, WRONG[check_micro_batches_needed][2], WRONG[check_micro_batches_needed][0])):
        with pytest.raises(AssertionError, match="expected"):
            check(shape)
        with pytest.raises(AssertionError, match="wrong value|is off|smallest|too few"):
            check(value)
