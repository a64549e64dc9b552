"""data.shards: the same bytes for any cut, order, worker and engine; whole files only; books that balance; faults named by file and line."""
import gzip
import importlib.util
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit import cli
from diversity_kit.augment.base import Compose, Delete, Swap, expand
from diversity_kit.data import shards
from diversity_kit.data.shards import Augment, Drop, Each, Plan, Receipt, do_shard, draw_seed, join, later_copies, read_records, run, split, total
from diversity_kit.data.sources import normalise

ROOT = Path(__file__).parents[1]
TEXTS = ["The quick fox sleeps under a bridge.", "我喜欢编程，我的猫喜欢键盘。", "Not one of the actors believes in it!", "ok", "the quick fox SLEEPS under a bridge", ""]


def rows(n=60):
    return [{"id": f"r{i}", "text": f"{TEXTS[i % len(TEXTS)]} {i // 12}".strip(), "label": i % 3} for i in range(n)]


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def read(path):
    return [r for _, r in read_records(path)]


def words_only(record, seed):
    "A step in the tests: random, makes records, drops records."
    words = record["text"].split()
    if len(words) < 2:
        return Drop("short")
    random.Random(seed).shuffle(words)
    return [record, {**record, "id": record["id"] + "~mixed", "text": " ".join(words)}]


def whole(tmp_path, name, plan, size=7, **how):
    source = write(tmp_path / "all.jsonl", rows())
    split(source, tmp_path / name / "in", size)
    receipts = run(plan, tmp_path / name / "in", tmp_path / name / "out", **how)
    return join(receipts, tmp_path / name / "out", tmp_path / name / "all.jsonl"), receipts


PLAN = Plan([Augment(Swap(.5), copies=2, unchanged="drop"), Augment(Delete(.3))], seed=5, unique="normalised")


# ------------------------------------------------------------------------------------------------------------ equal bytes

def test_bytes_do_not_depend_on_the_cut(tmp_path):
    books = [whole(tmp_path, str(n), PLAN, n, backend="serial")[0] for n in (1, 7, 59, 1000)]
    assert len({b.sha256 for b in books}) == 1 and len({str(b) for b in books}) == 1


def test_bytes_do_not_depend_on_the_batch_inside_a_shard(tmp_path, monkeypatch):
    one = whole(tmp_path, "a", Plan([words_only, Swap(.5)]), 60, backend="serial")[0]
    monkeypatch.setattr(shards, "_BATCH", 5)
    assert whole(tmp_path, "b", Plan([words_only, Swap(.5)]), 60, backend="serial")[0].sha256 == one.sha256


@pytest.mark.parametrize("backend", ["loky", "dask", "ray"])
def test_bytes_are_those_of_the_plain_loop(tmp_path, backend):
    for module in {"dask": ["dask", "distributed"], "ray": ["ray"]}.get(backend, []):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'diversity_kit[scale]'")
    assert whole(tmp_path, backend, PLAN, jobs=2, backend=backend)[0].sha256 == whole(tmp_path, "serial", PLAN, backend="serial")[0].sha256


def test_the_callers_own_parallel_config_is_used(tmp_path):
    import joblib
    with joblib.parallel_config(backend="threading", n_jobs=2):
        got = whole(tmp_path, "threads", PLAN, backend=None)[0]
    assert got.sha256 == whole(tmp_path, "serial", PLAN, backend="serial")[0].sha256


def test_golden_bytes_on_every_machine(tmp_path):
    assert draw_seed(0, "step", "r1") == 14582165044130666250 and draw_seed(0, "step", 1) != draw_seed(0, "step", "1")
    books, _ = whole(tmp_path, "golden", PLAN, backend="serial")
    assert books.sha256.startswith("6d9c494ae9f64a30")
    assert str(books) == "60 read + 112 made - 35 duplicate, 13 unchanged dropped = 124 written"


def test_augmented_rows_are_those_of_expand(tmp_path):
    import datasets
    t = Swap(.4)
    whole(tmp_path, "a", Plan(t, seed=3), backend="serial")
    want = expand(datasets.Dataset.from_list(rows()), t, 1, seed=3).to_list()
    got = read(tmp_path / "a" / "all.jsonl")
    assert [{k: g[k] for k in ("text", "label", "origin", "copy", "op")} for g in got] == [{k: w[k] for k in ("text", "label", "origin", "copy", "op")} for w in want]
    assert [g["id"] for g in got[:2]] == ["r0", "r0~Swap.1"]


def test_fields_pass_through_and_origin_is_the_root(tmp_path):
    src = write(tmp_path / "in" / "a.jsonl", rows(3))
    first = run(Plan(Swap(1.)), tmp_path / "in", tmp_path / "out")
    join(first, tmp_path / "out", tmp_path / "in2" / "a.jsonl")
    second = run(Plan(Delete(.5)), tmp_path / "in2", tmp_path / "out2")
    got = {r["id"]: r for r in read(tmp_path / "out2" / second[0].shard)}
    assert got["r0"]["op"] == "original" and got["r0~Swap.1~Delete.1"]["op"] == "Swap+Delete"
    assert {r["origin"] for r in got.values()} == {"r0", "r1", "r2"} and got["r1~Swap.1"]["label"] == 1 and src.exists()


def test_a_step_of_ones_own_cannot_forge_where_a_record_comes_from(tmp_path):
    write(tmp_path / "in" / "a.jsonl", rows(2))
    def liar(record, seed): return {**record, "text": "new", "origin": "elsewhere", "op": "original"}
    run(plan := Plan(liar), tmp_path / "in", tmp_path / "out", backend="serial")
    assert [(r["origin"], r["op"]) for r in read(plan.target("a.jsonl", tmp_path / "out"))] == [("r0", "liar"), ("r1", "liar")]


def test_a_field_that_a_step_takes_out_stays_out(tmp_path):
    write(tmp_path / "in" / "a.jsonl", [{"id": i, "text": f"by bob {i}", "phone": "555", "label": i} for i in range(3)])
    def redact(record, seed):
        del record["phone"]
        return [record | {"text": record["text"].replace("bob", "NAME")}, record | {"id": f"{record['id']}~b"}]
    run(plan := Plan(redact), tmp_path / "in", tmp_path / "out", backend="serial")
    got = read(plan.target("a.jsonl", tmp_path / "out"))
    assert [set(r) for r in got] == [{"id", "text", "label", "origin", "copy", "op"}] * 6
    assert [(r["text"], r["label"], r["op"]) for r in got[:2]] == [("by NAME 0", 0, "redact"), ("by bob 0", 0, "redact")]


# ------------------------------------------------------------------------------------------------------------ copies

@given(st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=5))
def test_later_copies_is_the_naive_loop(parts):
    seen, want = set(), []
    for part in parts:
        want.append([i for i, v in enumerate(part) if v in seen or seen.add(v)])
    assert [x.tolist() for x in later_copies([np.array([[v % 2, v // 2] for v in p], np.uint64).reshape(-1, 2) for p in parts])] == want


@pytest.mark.parametrize("by, key", [("exact", str), ("normalised", normalise)])
def test_dedup_keeps_the_first_of_each_text_over_all_shards(tmp_path, by, key):
    books, receipts = whole(tmp_path, by, Plan(unique=by), 7, backend="serial")
    first = {}
    for r in rows():
        first.setdefault(key(r["text"]), r["id"])
    assert [r["id"] for r in read(tmp_path / by / "all.jsonl")] == list(first.values())
    assert books.dropped == ({"duplicate": 60 - len(first)} if len(first) < 60 else {})
    assert sum(r.dropped.get("duplicate", 0) > 0 for r in receipts) > 1 or by == "exact"


def test_a_changed_neighbour_shard_changes_what_is_a_copy(tmp_path):
    "The receipt of a shard must not fit any more when another shard's texts decide differently."
    write(tmp_path / "in" / "a.jsonl", [{"id": 1, "text": "x"}])
    write(tmp_path / "in" / "b.jsonl", [{"id": 2, "text": "x"}])
    assert [r.rows_out for r in run(Plan(unique="exact"), tmp_path / "in", tmp_path / "out")] == [1, 0]
    write(tmp_path / "in" / "a.jsonl", [{"id": 1, "text": "y"}])
    again = run(Plan(unique="exact"), tmp_path / "in", tmp_path / "out")
    assert [(r.rows_out, r.skipped) for r in again] == [(1, False), (1, False)]


# ------------------------------------------------------------------------------------------------------------ books

class Moody(shards.Step):
    "Gives, for record i, the answer number i."
    name = "moody"

    def __init__(self, answers):
        self.answers = answers

    def describe(self):
        return {"answers": repr(self.answers)}

    def __call__(self, records, seed):
        make = {"keep": lambda r: [r], "drop": lambda r: [], "why": lambda r: [Drop("why")], "two": lambda r: [r, {**r, "id": r["id"] + "b"}],
                "half": lambda r: [Drop("why"), {**r, "id": r["id"] + "c"}]}
        return [make[a](r) for a, r in zip(self.answers, records)]


@given(st.lists(st.sampled_from(["keep", "drop", "why", "two", "half"]), max_size=12))
@settings(deadline=None, max_examples=40)
def test_the_books_balance(tmp_path_factory, answers):
    at = tmp_path_factory.mktemp("b")
    src = write(at / "a.jsonl", [{"id": f"r{i}", "text": "t"} for i in range(len(answers))])
    got = do_shard(src, at / "out.jsonl", Plan(Moody(answers)))
    kept = [{"keep": 1, "two": 2, "half": 1}.get(a, 0) for a in answers]
    assert got.rows_in == len(answers) and got.rows_out == sum(kept) == len(read(at / "out.jsonl"))
    assert got.made == sum(a in ("two", "half") for a in answers)
    assert got.dropped == {k: n for k, n in (("moody", answers.count("drop")), ("why", answers.count("why") + answers.count("half"))) if n}
    assert got.size == (at / "out.jsonl").stat().st_size


def test_books_that_do_not_balance_are_refused():
    with pytest.raises(ValueError, match="do not add up"):
        Receipt("a", 3, 1, 3, {"short": 2})
    assert total([Receipt("a", 3, 1, 2, {"x": 2}), Receipt("b", 1, 0, 0, {"x": 1})]) == Receipt("all", 4, 1, 2, {"x": 3})


def test_a_step_that_loses_records_is_refused(tmp_path):
    src = write(tmp_path / "a.jsonl", rows(3))
    with pytest.raises(ValueError, match="moody answered for 2 of 3"):
        do_shard(src, tmp_path / "out.jsonl", Plan(Moody(["keep", "keep"])))
    assert not list(tmp_path.glob("*out*"))


def test_join_audits_the_shards(tmp_path):
    books, receipts = whole(tmp_path, "a", Plan(Swap(.5)), 20, backend="serial")
    shard = tmp_path / "a" / "out" / receipts[1].shard
    good = shard.read_bytes()
    for bad in (good.replace(b"quick", b"quack", 1), good + b'{"id": "x"}\n', good[: good[:-1].rfind(b"\n") + 1]):
        shard.write_bytes(bad)
        with pytest.raises(ValueError, match=f"{shard.name} is not what its receipt says"):
            join(receipts, shard.parent, tmp_path / "new.jsonl")
        assert not (tmp_path / "new.jsonl").exists()
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        join(receipts, shard.parent, tmp_path / "new.jsonl")


def test_join_compressed_has_no_date_and_the_same_content(tmp_path, monkeypatch):
    books, receipts = whole(tmp_path, "a", Plan(Swap(.5)), 20, backend="serial")
    first = join(receipts, tmp_path / "a" / "out", tmp_path / "x.jsonl.gz")
    monkeypatch.setattr("time.time", lambda: 1.)
    assert join(receipts, tmp_path / "a" / "out", tmp_path / "y.jsonl.gz").sha256 == first.sha256
    assert gzip.decompress((tmp_path / "x.jsonl.gz").read_bytes()) == (tmp_path / "a" / "all.jsonl").read_bytes()


def test_one_id_in_two_shards_is_found_when_joining(tmp_path):
    write(tmp_path / "in" / "a.jsonl", [{"id": 1, "text": "x"}])
    write(tmp_path / "in" / "b.jsonl", [{"id": 1, "text": "y"}])
    got = run(Plan(), tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match="row 2"):
        join(got, tmp_path / "out", tmp_path / "all.jsonl")


# ------------------------------------------------------------------------------------------------------------ plans

def test_the_key_depends_on_everything_that_determines_the_bytes(monkeypatch):
    plans = [Plan(), Plan(seed=1), Plan(unique="exact"), Plan(Swap(.1)), Plan(Swap(.2)), Plan(Delete(.1)), Plan(Augment(Swap(.1), 2)), Plan([Swap(.1), Delete(.1)]),
             Plan(Augment(Swap(.1), unchanged="drop")), Plan([Delete(.1), Swap(.1)]), Plan(words_only), Plan(Compose([Swap(.1)]))]
    assert len({p.key for p in plans}) == len(plans)
    assert Plan(Swap(.1)).key == Plan([Augment(Swap(.1))]).key
    before = Plan().key
    monkeypatch.setattr(shards, "__version__", "9.9")
    assert Plan().key != before


def test_the_key_of_a_function_follows_its_source():
    def a(record, seed): return record
    def make(n):
        def a(record, seed): return record if n else None
        return a
    assert len({Plan(f).key for f in (a, make(0), make(1))}) == 3


def test_the_key_is_the_same_in_another_process():
    code = "from diversity_kit.data.shards import Plan; from diversity_kit.augment.base import Swap; print(Plan(Swap(.3), seed=4, unique='exact').key)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"})
    assert out.stdout.strip() == Plan(Swap(.3), seed=4, unique="exact").key, out.stderr


def test_two_plans_share_a_folder(tmp_path):
    write(tmp_path / "in" / "a.jsonl", rows(6))
    a, b = (run(Plan(Swap(.5), seed=s), tmp_path / "in", tmp_path / "out")[0] for s in (1, 2))
    assert a.shard != b.shard and not b.skipped and a.sha256 != b.sha256
    assert run(Plan(Swap(.5), seed=1), tmp_path / "in", tmp_path / "out")[0] == shards.replace(a, skipped=True)


@pytest.mark.parametrize("make, match", [
    (lambda: Plan(Swap), "add parentheses"), (lambda: Plan([3]), "not a step"), (lambda: Plan(seed=.5), "seed"), (lambda: Plan(unique="near"), "unique"),
    (lambda: Augment(str.upper), "to_dict"), (lambda: Augment(Swap(), copies=-1), "copies"), (lambda: Augment(Swap(), unchanged="no"), "unchanged"),
    (lambda: Each(len), "source"), (lambda: run(Swap(), "a", "b"), "Plan")])
def test_bad_plans(make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make()


# ------------------------------------------------------------------------------------------------------------ interruptions

def test_finished_shards_are_skipped_and_changed_ones_made_again(tmp_path):
    books, first = whole(tmp_path, "a", PLAN, 10, backend="serial")
    src, out = tmp_path / "a" / "in", tmp_path / "a" / "out"
    stamps = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = run(PLAN, src, out)
    assert all(r.skipped for r in again) and [shards.replace(r, skipped=False) for r in again] == first
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == stamps
    (out / first[2].shard).write_bytes(b"")                          # cut off
    shards._receipt_path(out / first[3].shard).unlink()              # never signed
    shards._receipt_path(out / first[4].shard).write_text("{")       # half a receipt
    (src / "00005.jsonl").write_text(json.dumps({"id": "new", "text": "entirely new"}) + "\n")
    again = run(PLAN, src, out)
    assert [r.skipped for r in again] == [True, True, False, False, False, False]
    assert again[:5] == [shards.replace(r, skipped=i < 2) for i, r in enumerate(first[:5])] and again[5].rows_in == 1


def killer(record, seed):
    "Ends its own worker, once, in the middle of the third shard."
    mark = Path(os.environ["SHARDS_KILL"])
    if record["id"] == "r25" and multiprocessing.parent_process() is not None and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return words_only(record, seed)


def test_a_killed_worker_and_a_second_call(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARDS_KILL", str(tmp_path / "killed"))
    from joblib.externals.loky import get_reusable_executor
    get_reusable_executor().shutdown(wait=True)                      # workers that know the variable
    plan = Plan(killer, seed=2)
    want, _ = whole(tmp_path, "serial", plan, 10, backend="serial")
    with pytest.raises(ChildProcessError, match="run the same again"):
        whole(tmp_path, "loky", plan, 10, jobs=2, backend="loky")
    assert (tmp_path / "killed").exists()
    out = tmp_path / "loky" / "out"
    finished = sorted(p.name for p in out.glob("*.receipt.json"))
    assert not [n for n in finished if n.startswith("00002")] and not list(out.glob("00002*.jsonl"))
    books, receipts = whole(tmp_path, "loky", plan, 10, jobs=2, backend="loky")
    assert books.sha256 == want.sha256 and str(books) == str(want)
    assert sum(r.skipped for r in receipts) == len(finished) < 6
    assert finished, "at least one shard was done before the kill"


@pytest.mark.parametrize("when", ["write", "rename", "receipt"])
def test_a_full_disk_leaves_no_half_shard(tmp_path, monkeypatch, when):
    write(tmp_path / "in" / "a.jsonl", rows(6))
    real = os.replace
    def full(*a):
        if when == "rename" or (when == "receipt" and "receipt" in str(a[1])):
            raise OSError(28, "No space left on device")
        return real(*a)
    def full_sync(fd):
        if when == "write":
            raise OSError(28, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(os, "replace", full)
        m.setattr(os, "fsync", full_sync)
        with pytest.raises(OSError, match="No space"):
            run(PLAN, tmp_path / "in", tmp_path / "out", backend="serial")
    assert not list((tmp_path / "out").glob(".*")) and len(list((tmp_path / "out").iterdir())) == (when == "receipt")
    got = run(PLAN, tmp_path / "in", tmp_path / "out", backend="serial")[0]
    assert not got.skipped and len(read(tmp_path / "out" / got.shard)) == got.rows_out


def test_an_output_that_cannot_be_written(tmp_path):
    write(tmp_path / "in" / "a.jsonl", rows(6))
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        run(PLAN, tmp_path / "in", tmp_path / "file" / "out", jobs=2, backend="loky")
    (tmp_path / "locked").mkdir(mode=0o500)
    if hasattr(os, "geteuid") and os.geteuid():
        with pytest.raises(PermissionError):
            run(PLAN, tmp_path / "in", tmp_path / "locked", backend="serial")


# ------------------------------------------------------------------------------------------------------------ faulty input

@pytest.mark.parametrize("line, match", [
    (b'{"id": 2, "text": ', "not JSON"), (b'{"id": 2, "text": "\xff"}', "not JSON in UTF-8"), (b'[1, 2]', "list"), (b'{"text": "x"}', "no field 'id'"),
    (b'{"id": true, "text": "x"}', "True"), (b'{"id": "", "text": "x"}', "''"), (b'{"id": null, "text": "x"}', "None"), (b'{"id": 2}', "missing"),
    (b'{"id": 2, "text": 5}', "int"), (b'{"id": 2, "text": "x", "op": "buy"}', "rename it"), (b'{"id": "1", "text": "x"}', "earlier line")])
def test_a_faulty_line_is_named(tmp_path, line, match):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"id": 1, "text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"data\.jsonl:3: .*{match}"):
        split(path, tmp_path / "in")
    assert [p.name for p in tmp_path.iterdir()] == ["data.jsonl"]


def test_the_first_fault_in_shard_order_is_raised_and_the_other_shards_are_finished(tmp_path):
    for k in range(5):
        write(tmp_path / "in" / f"{k}.jsonl", [{"id": k, "text": "x"}] * (2 if k in (1, 3) else 1))
    for backend in ("serial", "loky"):
        with pytest.raises(ValueError, match=r"1\.jsonl:2: the id 1 stands in line 1 too"):
            run(Plan(), tmp_path / "in", tmp_path / backend, jobs=2, backend=backend)
        assert [p.name[0] for p in sorted((tmp_path / backend).glob("*.jsonl"))] == ["0", "2", "4"]


class Odd(Exception):
    "Cannot be unpickled: a worker could not send it back."
    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


def picky(record, seed):
    if record["id"] == 1:
        record["missing"]
    if record["id"] == 3:
        raise Odd("too", "odd")
    return (r for r in [record])


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_whatever_a_step_raises_names_shard_step_and_record_and_stops_no_other_shard(tmp_path, backend):
    for k in range(5):
        write(tmp_path / "in" / f"{k}.jsonl", [{"id": k, "text": "x"}])
    with pytest.raises(ValueError, match=r"1\.jsonl: step picky: record 1: KeyError: 'missing'"):
        run(Plan(picky), tmp_path / "in", tmp_path / "out", jobs=2, backend=backend)
    assert [p.name[0] for p in sorted((tmp_path / "out").glob("*.jsonl"))] == ["0", "2", "4"]


def float32_field(record, seed):
    return {**record, "score": np.float32(.5)}


def nan_field(record, seed):
    return {**record, "score": float("nan")}


def set_field(record, seed):
    return {**record, "tags": {1}}


def bool_id(record, seed):
    return {**record, "id": True, "text": "new"}


def empty_id(record, seed):
    return [record, {**record, "id": "", "text": "new"}]


@pytest.mark.parametrize("step, words", [(float32_field, "record 'r0': the field 'score' holds 0.5 .float32."), (nan_field, "the field 'score' holds nan"), (set_field, "the field 'tags' holds .1. .set."),
                                         (bool_id, "for record 'r0': records with id"), (empty_id, "for record 'r0': records with id")])
def test_what_the_kit_could_not_read_again_is_not_written(tmp_path, step, words):
    src = write(tmp_path / "in" / "a.jsonl", rows(2))
    with pytest.raises(ValueError, match=f"a.jsonl: .*step {step.__name__}.*{words}"):
        do_shard(src, tmp_path / "out.jsonl", Plan(step))
    assert not (tmp_path / "out.jsonl").exists()


def test_a_transform_that_fails_is_named_too(tmp_path):
    class Broken(Swap):
        def __call__(self, texts, **how):
            raise KeyError("table")
    with pytest.raises(ValueError, match=r"a\.jsonl: step Broken: KeyError: 'table'"):
        do_shard(write(tmp_path / "a.jsonl", rows(1)), tmp_path / "out.jsonl", Plan(Augment(Broken(.1))))


def test_a_damaged_gzip_file_is_named_whatever_the_damage(tmp_path):
    whole = gzip.compress(b"".join(json.dumps({"id": i, "text": f"row {i * 7919 % 1000} " * 3}).encode() + b"\n" for i in range(3000)))
    kinds = set()
    for at in range(30, len(whole) - 20, len(whole) // 60):
        (tmp_path / "a.jsonl.gz").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1:])
        try:
            list(read_records(tmp_path / "a.jsonl.gz"))
        except ValueError as e:
            assert "a.jsonl.gz" in str(e)
            kinds.add(type(e.__context__).__name__)
    assert "error" in kinds                                           # zlib.error, the one that was not caught


def test_two_steps_that_make_one_id(tmp_path):
    src = write(tmp_path / "a.jsonl", rows(1))
    with pytest.raises(ValueError, match="both lead to the id 'r0~Swap.1'"):
        do_shard(src, tmp_path / "out.jsonl", Plan([Swap(1.), Swap(1.)]))


def test_empty_input(tmp_path):
    (tmp_path / "a.jsonl").touch()
    assert [p.name for p in split(tmp_path / "a.jsonl", tmp_path / "in")] == ["00000.jsonl"]
    got = run(PLAN, tmp_path / "in", tmp_path / "out")
    assert (got[0].rows_in, got[0].rows_out) == (0, 0) and join(got, tmp_path / "out", tmp_path / "b.jsonl").size == 0
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no .jsonl"):
        run(PLAN, tmp_path / "none", tmp_path / "out")


def test_split_is_exact_resumes_and_refuses_what_is_not_its_own(tmp_path):
    source = write(tmp_path / "a.jsonl", rows(10))
    found = split(source, tmp_path / "in", 4)
    assert [len(read(p)) for p in found] == [4, 4, 2] and sum((read(p) for p in found), []) == rows(10)
    stamp = found[0].stat().st_mtime_ns
    assert split(source, tmp_path / "in", 4) == found and found[0].stat().st_mtime_ns == stamp
    for change in (dict(rows_per_shard=5), dict(rows_per_shard=4, number=True)):
        with pytest.raises(ValueError, match="something else"):
            split(source, tmp_path / "in", **change)
    write(source, rows(11))
    with pytest.raises(ValueError, match="something else"):
        split(source, tmp_path / "in", 4)
    assert len(split(write(tmp_path / "b.jsonl", rows(8)), tmp_path / "in8", 4)) == 2
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match="rows_per_shard"):
            split(source, tmp_path / "x", bad)


def test_split_reads_gzip_bom_and_separators_inside_a_text_and_numbers_rows(tmp_path):
    text = "one\u2028two \ud83d half"
    body = b"\xef\xbb\xbf" + json.dumps({"text": text}).encode() + b"\r\n\n" + '{"text": "a\u2028b", "id": "k"}\n'.encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(body))
    (shard,) = split(tmp_path / "a.jsonl.gz", tmp_path / "in", number=True)
    assert read(shard) == [{"id": 1, "text": text}, {"text": "a\u2028b", "id": "k"}]
    got = run(Plan(), tmp_path / "in", tmp_path / "out")
    assert [r["text"] for r in read(tmp_path / "out" / got[0].shard)] == [text, "a\u2028b"]
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(body)[:-9])
    with pytest.raises(ValueError, match="cut.jsonl.gz is damaged"):
        split(tmp_path / "cut.jsonl.gz", tmp_path / "in2", number=True)


def test_folders_that_would_mix(tmp_path):
    write(tmp_path / "in" / "a.jsonl", rows(1))
    with pytest.raises(ValueError, match="same folder"):
        run(Plan(), tmp_path / "in", tmp_path / "in")
    (tmp_path / "in" / "a.jsonl.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match="twice"):
        run(Plan(), tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("kw, error, match", [(dict(backend="spark"), ValueError, "serial, loky, dask, ray"), (dict(jobs=0), ValueError, "jobs"), (dict(jobs=True), ValueError, "jobs")])
def test_bad_engines(tmp_path, kw, error, match):
    write(tmp_path / "in" / "a.jsonl", rows(1))
    with pytest.raises(error, match=match):
        run(Plan(), tmp_path / "in", tmp_path / "out", **kw)


@pytest.mark.parametrize("backend, package", [("dask", "dask"), ("ray", "ray")])
def test_an_engine_that_is_not_installed(tmp_path, monkeypatch, backend, package):
    monkeypatch.setattr(shards, "find_spec", lambda name: None)
    write(tmp_path / "in" / "a.jsonl", rows(1))
    with pytest.raises(ImportError, match=rf"'{package}'.*pip install 'diversity_kit\[scale\]'"):
        run(Plan(), tmp_path / "in", tmp_path / "out", backend=backend)


def test_the_module_imports_no_engine():
    code = "import sys, diversity_kit.data.shards; print({'joblib', 'dask', 'distributed', 'ray', 'torch', 'datasets'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert out.stdout.strip() == "set()", out.stdout + out.stderr


# ------------------------------------------------------------------------------------------------------------ the command

def test_the_commands(tmp_path, capsys):
    source, out = write(tmp_path / "in.jsonl", rows()), tmp_path / "out.jsonl"
    assert cli.main(["dedup", str(source), str(out), "--rows", "7"]) == 0
    assert "60 read + 0 made" in (said := capsys.readouterr().out) and "duplicate" in said and "9 shards, 0 of them" in said
    first = {normalise(r["text"]): r["id"] for r in rows()[::-1]}       # read backwards, the first one is the last to be set
    assert {r["id"] for r in read(out)} == set(first.values()) and len(read(out)) == len(first) < 60
    made = tmp_path / "made.jsonl.gz"
    assert cli.main(["augment", str(out), str(made), "--transform", "Swap", "--rate", ".5", "--copies", "2", "--seed", "4", "--drop-unchanged"]) == 0
    run(plan := Plan(Augment(Swap(.5), 2, "drop"), 4), tmp_path / "d", tmp_path / "e") if split(out, tmp_path / "d") else None
    assert read(made) == read(plan.target("00000.jsonl", tmp_path / "e"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "e", "in.jsonl", "made.jsonl.gz", "out.jsonl"]


def test_the_command_resumes_and_leaves_other_files_alone(tmp_path, capsys):
    source, work = write(tmp_path / "in.jsonl", rows()), tmp_path / "work"
    words = ["augment", str(source), str(tmp_path / "out.jsonl"), "--transform", json.dumps(Compose([Swap(.5), Delete(.2)]).to_dict()), "--rows", "10", "--work", str(work)]
    assert cli.main([*words, "--keep"]) == 0
    first = (tmp_path / "out.jsonl").read_bytes()
    next(work.glob("out/00003.*.jsonl")).unlink()
    (work / "out" / "mine.txt").touch()
    assert cli.main(words) == 0
    assert "6 shards, 5 of them" in capsys.readouterr().out and (tmp_path / "out.jsonl").read_bytes() == first
    assert [p.relative_to(work).as_posix() for p in work.rglob("*")] == ["out", "out/mine.txt"]


@pytest.mark.parametrize("words, code, match", [
    (["--transform", "Swpa"], 2, "did you mean Swap"), (["--transform", "{"], 2, ""), (["--transform", "Swap", "--rate", "2"], 2, "rate"),
    (["--transform", "Swap", "--jobs", "0"], 2, "jobs"), (["--transform", "Swap", "--rows", "0"], 2, "rows_per_shard")])
def test_the_command_says_what_is_wrong(tmp_path, capsys, words, code, match):
    source = write(tmp_path / "in.jsonl", rows(3))
    assert cli.main(["augment", str(source), str(tmp_path / "out.jsonl"), *words]) == code
    assert match in capsys.readouterr().err and not (tmp_path / "out.jsonl").exists()


def test_the_command_without_input_or_onto_itself(tmp_path, capsys):
    assert cli.main(["dedup", str(tmp_path / "none.jsonl"), str(tmp_path / "out.jsonl")]) == 2
    source = write(tmp_path / "in.jsonl", rows(3))
    assert cli.main(["dedup", str(source), str(source)]) == 2 and "same file" in capsys.readouterr().err


def test_an_id_that_stands_in_two_shards_is_refused_and_leaves_no_folder(tmp_path):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i, "text": "x"}) + "\n" for i in "abca"))
    with pytest.raises(ValueError, match="earlier line"):
        split(tmp_path / "in.jsonl", tmp_path / "cut", rows_per_shard=2)
    assert not (tmp_path / "cut").exists() and [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_two_steps_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two steps are called '<lambda>'"):
        Plan([lambda r, s: r, lambda r, s: r])


def test_the_command_line_knows_every_transform(tmp_path):
    from diversity_kit import cli
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": 1, "text": "one two three four five six seven eight"}) + "\n")
    assert cli.main(["augment", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), "--transform", "AEDA", "--rate", "0.5"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["op"] for r in rows] == ["original", "AEDA"] and not (tmp_path / "out.jsonl.shards").exists()


def test_a_corrected_input_replaces_what_an_earlier_run_left(tmp_path, monkeypatch, capsys):
    "A run that fails after the split leaves OUT.shards; mending the input must be enough to go on."
    monkeypatch.chdir(tmp_path)
    line = lambda i, text: json.dumps({"id": i, "text": text}) + "\n"
    Path("a.jsonl").write_text(line(1, "a b c") + line(2, "wrong"))
    with monkeypatch.context() as m:
        m.setattr(shards, "run", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(["augment", "a.jsonl", "o.jsonl", "--transform", "Swap", "--rate", "0.5"]) == 130
    assert Path("o.jsonl.shards/in").is_dir() and not Path("o.jsonl").exists()
    Path("a.jsonl").write_text(line(1, "a b c") + line(2, "d e f"))
    assert cli.main(["augment", "a.jsonl", "o.jsonl", "--transform", "Swap", "--rate", "0.5"]) == 0
    assert len(Path("o.jsonl").read_text().splitlines()) == 4 and not Path("o.jsonl.shards").exists()


def test_folders_and_missing_files_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    Path("a.jsonl").write_text('{"id": 1, "text": "a b"}\n')
    for words, code, says in ((["dedup", "d", "o.jsonl"], 2, "d is a folder: name one .jsonl"), (["dedup", "a.jsonl", "d"], 2, "d is a folder: name the file to write"),
                              (["dedup", "none.jsonl", "o.jsonl"], 2, "there is no file none.jsonl"), (["mix", "d", "a.jsonl", "o.jsonl"], 2, "d is a folder")):
        assert cli.main(words) == code and says in capsys.readouterr().err, words
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "d"]


@pytest.mark.parametrize("id", ["a", "ключ 书 🜁", 'with "quotes"', "back\\slash", "tab\there", "\ud800", 7, 0, -3, 10**30, "7", ",}", "é\u2028"])
def test_the_digest_of_a_line_is_that_of_its_id(id):
    from diversity_kit.data.shards import _dump, _id_digest, _line_digest
    for record in ({"id": id}, {"id": id, "text": 'x {"id": "other"}'}, {"text": '{"id": 1,', "id": id}):     # first, alone, and last
        assert _line_digest(_dump(record)) == _id_digest(id)
