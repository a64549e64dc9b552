"""measure.experiment: what a trial's name depends on, and that a run survives being killed, shared, damaged and split."""
import functools
import gc
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from diversity_kit import kit
from diversity_kit.measure import experiment
from diversity_kit.measure.experiment import Experiment, source_key, write_atomically

ROOT = Path(__file__).parents[1]
ARMS = {"base": {"shift": 0.0}, "augmented": {"shift": 0.5}}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DIVERSITY_KIT_PROFILE", "smoke")
    monkeypatch.delenv("DIVERSITY_KIT_PROGRESS", raising=False)
    monkeypatch.delenv("DIVERSITY_KIT_SHARD", raising=False)
    return tmp_path / "cache"


@functools.cache
def calls():                                                             # a plain list would be part of the trial's key
    return []


def draw(config, seed):
    calls().append((config["shift"], seed))
    values = np.random.default_rng([seed, 1]).normal(size=50)
    return {"accuracy": 70 + config["shift"] + float(values.mean()), "loss": float((values**2).mean())}


def numbers(results):
    return results.frame.drop(columns="seconds").map(lambda v: v.hex() if isinstance(v, float) else v).values.tolist()


# ---------------------------------------------------------------------------------------------------------------- running and resuming

def test_a_trial_is_computed_once():
    calls().clear()
    e = Experiment("once", ARMS, 3, draw)
    first = e.run()
    assert sorted(calls()) == sorted(itertools.product((0.0, 0.5), range(3)))
    assert e.missing() == [] and numbers(Experiment("once", ARMS, 3, draw).run()) == numbers(first) and len(calls()) == 6
    assert list(first.frame.columns) == ["arm", "seed", "accuracy", "loss", "seconds"] and len(first.frame) == 6
    more = Experiment("once", ARMS | {"third": {"shift": 1.0}}, 4, draw).run()             # two more trials and one more arm
    assert len(calls()) == 6 + 2 + 4 and numbers(more)[:3] == numbers(first)[:3]


def test_seeds_are_finished_in_pairs():
    "A run cut short has whole pairs, not all of one arm and none of the other."
    assert Experiment("pairs", ARMS, 2, draw).missing() == [("base", 0), ("augmented", 0), ("base", 1), ("augmented", 1)]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20])
def test_shards_begin_apart_and_cover_everything(monkeypatch, n):
    everything = Experiment("sharded", ARMS, 6, draw).missing()
    orders = []
    for i in range(1, n + 1):
        monkeypatch.setenv("DIVERSITY_KIT_SHARD", f"{i}/{n}")
        orders.append(Experiment("sharded", ARMS, 6, draw).missing())
        assert sorted(orders[-1]) == sorted(everything)
    own = [everything[len(everything) * k // n: len(everything) * (k + 1) // n] for k in range(n)]
    assert [o[:len(part)] for o, part in zip(orders, own)] == own                            # none begins with another's
    helped = [o[len(part):][:1] for o, part in zip(orders, own)]
    assert all(not h or h[0] == own[(k + 1) % n][-1] for k, h in enumerate(helped) if own[(k + 1) % n])   # and helps at the far end


def test_a_shard_does_not_compute_what_another_finished_meanwhile(monkeypatch):
    other = Experiment("meanwhile", ARMS, 3, draw)

    def nosy(config, seed):
        if config["shift"] == 0.0 and seed == 0:                                              # while the first trial runs, all others are done elsewhere
            for arm, s in itertools.product(ARMS, range(3)):
                if (arm, s) != ("base", 0):
                    write_atomically(mine.path(arm, s), json.dumps({"arm": arm, "seed": s, "m": -1.0, "seconds": 0.0}))
        return {"m": 1.0}
    mine = Experiment("meanwhile", ARMS, 3, nosy)
    mine.folder.mkdir(parents=True, exist_ok=True)
    assert mine.run().frame["m"].tolist() == [1.0] + [-1.0] * 5 and other.folder == mine.folder


def test_of_two_processes_that_compute_one_trial_the_first_counts_for_both():
    def late(config, seed):
        write_atomically(e.path("base", seed), json.dumps({"arm": "base", "seed": seed, "m": 1.0, "seconds": 0.0}))       # the other one, a moment earlier
        return {"m": 2.0}
    e = Experiment("race", {"base": {"shift": 0.0}}, 2, late)
    e.folder.mkdir(parents=True, exist_ok=True)
    assert e.run().frame["m"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_a_wrong_shard_is_refused(monkeypatch, text):
    monkeypatch.setenv("DIVERSITY_KIT_SHARD", text)
    with pytest.raises(ValueError, match="i/n, such as 1/3"):
        Experiment("wrong", ARMS, 2, draw).run()


@pytest.mark.parametrize("damage", ["", "{", '{"arm": "base", "seed": 1', '[]', '{"arm": "other", "seed": 1, "accuracy": 1.0}', '{"seed": 1}', "null", "\x00" * 40])
def test_a_damaged_trial_is_computed_again(damage):
    e = Experiment("damaged", ARMS, 2, draw)
    before = numbers(e.run())
    e.path("base", 1).write_text(damage)
    calls().clear()
    assert e.missing() == [("base", 1)] and numbers(e.run()) == before and calls() == [(0.0, 1)]


def test_a_trial_that_vanishes_is_not_left_out_of_the_table(monkeypatch):
    e = Experiment("vanish", ARMS, 2, draw)
    compute = e._compute
    monkeypatch.setattr(e, "_compute", lambda *a: (compute(*a), e.path("base", 0).unlink()))
    with pytest.raises(RuntimeError, match=r"1 finished trials, first \('base', 0\), have gone from"):
        e.run()


SCRIPT = '''
import time
import numpy as np
from diversity_kit.measure.experiment import Experiment

def trial(config, seed):
    time.sleep(config["sleep"])
    w = np.random.default_rng([seed, config["arm"]]).normal(size=200)
    return {"m": float(np.cumsum(np.sort(w)).mean()), "w": float(w @ w)}

def build(sleep=0.08):
    return Experiment("killed", {a: {"arm": i, "sleep": sleep} for i, a in enumerate("abc")}, 5, trial)

def go():
    build().run()
'''


@pytest.fixture
def script(tmp_path, monkeypatch):
    "SCRIPT as an importable module, and a function that runs it in a process of its own."
    (tmp_path / "killme.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "killme", raising=False)
    import killme
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    yield killme, lambda: subprocess.Popen([sys.executable, "-c", "import killme; killme.go()"], env=environment, stderr=subprocess.PIPE)
    sys.modules.pop("killme", None)


def wait_for_files(folder, n, *processes):
    end = time.monotonic() + 60
    while len(list(folder.glob("[abc]-*.json"))) < n:
        assert time.monotonic() < end and any(p.poll() is None for p in processes)
        time.sleep(0.005)


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_kill_9_loses_only_the_trials_under_way(script, cache, monkeypatch, tmp_path):
    killme, start = script
    e = killme.build()
    process = start()
    wait_for_files(e.folder, 4, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    kept = {p.name: p.read_text() for p in e.folder.glob("[abc]-*.json")}
    assert 4 <= len(kept) < 15 and len(e.missing()) == 15 - len(kept)
    assert all(json.loads(t)["m"] for t in kept.values())                                   # every file is whole
    resumed = numbers(e.run())
    assert all((e.folder / n).read_text() == t for n, t in kept.items())                    # what was finished was not computed again
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path / "other"))
    assert numbers(killme.build().run()) == resumed and len(resumed) == 15


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_two_runs_at_once_on_one_cache(script, cache):
    killme, start = script
    e, both = killme.build(), [start(), start()]
    wait_for_files(e.folder, 3, *both)
    both[0].kill()                                                                          # and one of them dies
    assert both[1].wait(60) == 0, both[1].stderr.read()
    both[0].wait()
    for p in both:
        p.stderr.close()
    assert e.missing() == [] and len(list(e.folder.glob("[abc]-*.json"))) == 15
    shared = numbers(e.run())
    shutil.rmtree(cache)
    assert numbers(killme.build().run()) == shared


def test_jobs_change_nothing(script, cache):
    killme, _ = script
    alone = numbers(killme.build(0.0).run())
    shutil.rmtree(cache)
    two = killme.build(0.0)
    assert len(two.missing()) == 15
    assert numbers(two.run(jobs=2)) == alone


IN_MAIN = '''
import functools, os, sys, threading
from diversity_kit.measure.experiment import Experiment
LOCK = threading.Lock()
@functools.lru_cache(maxsize=8)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
@functools.cache
def data(name):
    return [name, os.getpid()]
def trial(config, seed):
    before = data.cache_info().misses
    return {"m": fib(seed % 20), "pid": data("x")[1], "fresh": data.cache_info().misses - before}
def locked(config, seed):
    with LOCK:
        return {"m": 1}
if __name__ == "__main__":
    frame = Experiment("main", {"a": {}, "b": {}}, 12, trial).run(jobs=2).frame
    print(sorted(frame.m) == sorted(2 * [fib(s) for s in range(12)]), os.getpid() in set(frame.pid), frame.groupby("pid").fresh.sum().astype(int).tolist())
    try:
        Experiment("locked", {"a": {}}, 3, locked).run(jobs=2)
    except TypeError as e:
        print(e)
'''


def test_trials_of_a_notebook_run_in_other_processes_with_their_caches(tmp_path):
    "A cache typed in __main__ could not be pickled, and every task would have begun with an empty one."
    (tmp_path / "main.py").write_text(IN_MAIN)
    got = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "DIVERSITY_KIT_CACHE": str(tmp_path / "c")})
    same, error = got.stdout.splitlines()
    assert same.startswith("True False [1") and set(same.partition("[")[2]) <= set("1], "), got.stderr[-900:]
    assert "experiment 'locked': the trial uses something that cannot be sent" in error and "jobs=1" in error


def test_what_ran_before_does_not_matter(cache):
    "A trial that draws from the global generators gets the same draws whichever trial ran before it."
    def careless(config, seed):
        return {"m": float(np.random.rand())}
    seeds = Experiment("order", {"a": {}}, [1, 2, 3], careless).run().values("a", "m")
    back = Experiment("order2", {"a": {}}, [3, 2, 1], careless).run().values("a", "m")
    assert seeds.sort_index().equals(back.sort_index()) and len(set(seeds)) == 3


def test_a_trial_cannot_change_another_ones_config():
    def greedy(config, seed):
        config["parts"].append(seed)
        return {"n": len(config["parts"])}
    arms = {"a": {"parts": [1]}}
    e = Experiment("greedy", arms, 3, greedy)
    arms["a"]["parts"].append("changed later")
    assert e.run().values("a", "n").tolist() == [2, 2, 2] and e.missing() == []


def test_one_thread_even_for_a_torch_that_the_trial_imports_first(tmp_path, monkeypatch):
    stub = "import os\nthreads = int(os.environ.get('OMP_NUM_THREADS', 8))\ndef set_num_threads(n):\n    global threads\n    threads = n\ndef manual_seed(s): pass\n"
    (tmp_path / "torch.py").write_text(stub)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [m for m in sys.modules if m == "torch" or m.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    def late(config, seed):
        import torch
        return {"threads": torch.threads}
    try:
        assert Experiment("threads", {"a": {}}, 2, late).run().values("a", "threads").tolist() == [1, 1]
        assert os.environ["OMP_NUM_THREADS"] == "4"
    finally:
        sys.modules.pop("torch", None)


def test_a_failing_trial_is_named_and_the_finished_ones_stay():
    def fails(config, seed):
        if seed == 1 and config["shift"]:
            raise ZeroDivisionError("no data")
        return draw(config, seed)
    e = Experiment("fails", ARMS, 3, fails)
    with pytest.raises(RuntimeError, match=r"experiment 'fails': trial\(arm 'augmented', seed 1\) failed with ZeroDivisionError: no data. 3 finished"):
        e.run()
    assert e.missing() == [("augmented", 1), ("base", 2), ("augmented", 2)]
    two = Experiment("fails in a worker", ARMS, 2, fails)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(RuntimeError, match=r"trial\(arm 'augmented', seed 1\) failed with ZeroDivisionError") as caught:
            two.run(jobs=2)
        caught.value.__traceback__ = caught.value.__context__ = None
        gc.collect()
    assert not [w.message for w in heard if "cancelled" in str(w.message)]
    assert ("augmented", 1) in two.missing() and f"{4 - len(two.missing())} finished trials are kept" in str(caught.value)


@pytest.mark.parametrize("returned, kind, words", [
    ({"m": float("nan")}, "ValueError", "NaN or infinity for m"),
    ({"m": 1.0, "k": float("inf")}, "ValueError", "NaN or infinity for k"),
    (0.5, "TypeError", "returned float: it must return a dict"),
    ({}, "TypeError", "must return a dict"),
    (None, "TypeError", "returned NoneType"),
    ({"m": "high"}, "TypeError", "no number"),
    ({"m": [1, 2]}, "TypeError", "no number"),
    ({"seed": 3.0}, "ValueError", "seed: the table has such columns already"),
    ({"arm": 3.0, "m": 1}, "ValueError", "arm: the table has such columns already"),
])
def test_what_a_trial_may_not_return(returned, kind, words):
    e = Experiment("returns", {"a": {}}, 1, lambda config, seed: returned)
    with pytest.raises(RuntimeError) as caught:
        e.run()
    assert kind in str(caught.value) and words in str(caught.value) and "arm 'a', seed 0" in str(caught.value)
    assert len(e.missing()) == 1 and not list(e.folder.iterdir())


def test_numbers_of_any_library_are_numbers():
    import torch
    e = Experiment("kinds", {"a": {}}, np.int64(1), lambda c, s: {"a1": np.float32(0.5), "b": True, "c": torch.tensor(2.0), "d": np.int64(3)})
    assert e.run().frame[["a1", "b", "c", "d"]].values.tolist() == [[0.5, 1.0, 2.0, 3.0]]


@pytest.mark.parametrize("arms, seeds, error, words", [
    (ARMS, [0, 1, 0], ValueError, "same seed twice"),
    (ARMS, [], ValueError, "at least one arm and one seed"),
    (ARMS, 0, ValueError, "at least one arm and one seed"),
    ({}, 3, ValueError, "at least one arm"),
    ({"a": {"f": draw}}, 3, TypeError, "plain JSON values"),
    ({"a": {"s": {1, 2}}}, 3, TypeError, "plain JSON values"),
    ({1: {}}, 3, TypeError, "arm's name must be a string"),
    (["a", "b"], 3, TypeError, "arms are a dict"),
    (ARMS, [0.5], TypeError, "integer"),
    (ARMS, np.array(3.0), TypeError, "0-d"),
    ({"a": {1: "x"}}, 3, TypeError, "keys are strings: see arm 'a'"),
    ({"a": {"p": [{1: "x", "b": 2}]}}, 3, TypeError, "keys are strings"),
])
def test_wrong_experiments_are_refused(arms, seeds, error, words):
    with pytest.raises(error, match=words):
        Experiment("wrong", arms, seeds, draw)


def test_seeds_may_be_an_array_and_an_arms_name_as_long_as_it_likes():
    import torch
    for seeds in (np.array([3, 4]), torch.tensor([3, 4]), (3, 4)):
        assert Experiment("array", ARMS, seeds, draw).seeds == [3, 4]
    assert Experiment("array", ARMS, torch.tensor([3]), draw).seeds == [3] and Experiment("array", ARMS, np.int64(2), draw).seeds == [0, 1]
    long = Experiment("long", {"长" * 300: ARMS["base"], "长" * 299: ARMS["base"]}, 2, draw)
    assert len(long.run().frame) == 4 and len({long.path(a, 0) for a in long.arms}) == 2


def test_unknown_arms_and_metrics_are_named():
    r = Experiment("names", ARMS, 2, draw).run()
    with pytest.raises(KeyError, match="no arm 'bas' in experiment 'names': it has base, augmented"):
        r.effect("augmented", "bas", "accuracy")
    with pytest.raises(KeyError, match="no metric 'acc' in experiment 'names': it has accuracy, loss"):
        r.effect("augmented", "base", "acc")
    for column in ("arm", "seed"):
        with pytest.raises(KeyError, match="no metric"):
            r.values("base", column)


def test_the_effect_is_paired_by_seed():
    r = Experiment("paired", ARMS, [5, 1, 9], draw).run()
    effect = r.effect("augmented", "base", "accuracy")
    assert effect.n == 3 and abs(effect.mean - 0.5) < 1e-12 and effect.high - effect.low < 1e-9     # the noise is shared: it cancels
    assert r.effect("base", "augmented", "accuracy").mean == -effect.mean
    assert r.mean("base", "loss").mean == pytest.approx(np.mean(r.values("base", "loss")))
    shuffled = experiment.Results("paired", r.frame.sample(frac=1, random_state=0))
    assert shuffled.effect("augmented", "base", "accuracy") == effect
    assert r.minutes == pytest.approx(r.frame["seconds"].sum() / 60) and "augmented" in r._repr_html_() and r.to_pandas() is r.frame


def test_an_effect_over_rows_pairs_seeds_and_needs_blocks():
    from diversity_kit.measure.stats import row_blocks, two_way, without_blocks
    hits = np.random.default_rng(1).random((2, 5, 60)) < .6
    block = row_blocks(60, 3)
    rows = [{"arm": a, "seed": s} | without_blocks("accuracy", lambda m: hits[i, s][m].mean(), block) | {"loss": s, "seconds": 0.} for i, a in enumerate("ab") for s in range(5)]
    import pandas as pd
    r = experiment.Results("rows", pd.DataFrame(rows).sample(frac=1, random_state=2))
    d = 1. * hits[0] - hits[1]
    want, got = two_way(d.mean(1), [d[:, block != k].mean() for k in range(3)]), r.effect("a", "b", "accuracy", rows=True)
    assert (got.mean, got.low, got.p) == pytest.approx((want.mean, want.low, want.p)) and got.method == want.method
    assert r.effect("a", "b", "accuracy").low > got.low and "without" not in r._repr_html_() and "accuracy" in r._repr_html_()
    with pytest.raises(KeyError, match="blocks of test rows"):
        r.effect("a", "b", "loss", rows=True)


def test_progress_is_noted_for_the_command(monkeypatch, tmp_path):
    note = tmp_path / "note"
    monkeypatch.setenv("DIVERSITY_KIT_PROGRESS", str(note))
    e = Experiment("note", ARMS, 2, draw)
    e.run()
    assert json.loads(note.read_text()) == {"experiment": "note", "done": 4, "total": 4, "left": 0}


def test_trials_of_an_earlier_process_leave_a_mark(monkeypatch, tmp_path):
    monkeypatch.setenv("DIVERSITY_KIT_PROGRESS", str(tmp_path / "note.progress"))
    mark = tmp_path / "note.older"
    first = Experiment("older", ARMS, 2, draw)
    first.run()
    first.run()                                                          # its own trials are no older ones
    assert not mark.exists()
    path = first.path(next(iter(ARMS)), 0)
    os.utime(path, (0, 0))
    Experiment("older", ARMS, 2, draw).run()
    assert mark.exists()


def test_atomic_writing(tmp_path, monkeypatch):
    path = tmp_path / "new" / "f.json"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two"
    def fail(*a):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(experiment.os, "fsync", fail)
    with pytest.raises(OSError):
        write_atomically(path, "three")
    assert path.read_text() == "two" and [p.name for p in path.parent.iterdir()] == ["f.json"]      # the old file whole, no rest
    if os.name == "posix":
        (tmp_path / "plain").touch()
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode                           # others may read it, as any file


# ---------------------------------------------------------------------------------------------------------------- the key

VERSIONS = itertools.count()


def key(source, tmp_path, name="trial"):
    "source_key of a function in a module `usermod` with this source."
    path = tmp_path / f"v{next(VERSIONS)}" / "usermod.py"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location("usermod", path)
    module = sys.modules["usermod"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return source_key(getattr(module, name))
    finally:
        del sys.modules["usermod"]


BASE = '''
    import functools
    import numpy as np
    from dataclasses import dataclass
    from functools import lru_cache, partial, wraps
    RATE = 0.1
    WORDS = frozenset({"a", "b", "c", "d", "e", "f", "g"})
    LONG = list(range(2000))
    ARRAY = np.arange(5)
    def helper(x):
        return x + 1
    def stored(x):
        return x * 2
    TABLE = {"f": stored, "pair": (lambda x: x + 10,
                                   lambda x: x + 20)}
    @lru_cache
    def cached(x):
        return x - 3
    def two(x, k):
        return x * k
    bound = partial(two, k=5)
    def scaled(factor):
        def wrap(f):
            @wraps(f)
            def inner(*args):
                return f(*args) * factor
            return inner
        return wrap
    @scaled(7)
    def decorated(x):
        return x
    class Model:
        depth = 4
        def fit(self, x):
            return x + self.depth
    @dataclass(frozen=True)
    class Spec:
        lr: float = 0.25
        parts: tuple = (1, 2)
        def rate(self):
            return self.lr * 6
    SPEC = Spec(lr=0.75)
    class Old:
        def __init__(self, width):
            self.width = width
        def run(self, config, seed):
            return {"m": self.width}
    method = Old(32).run
    def closure(n):
        def inner(x):
            return x + n
        return inner
    added, again = closure(11), closure(13)
    def make(k):
        def inner(x, extra=k):
            return x + extra
        return inner
    frozen = make(21)
    def with_default(x, extra=RATE * 2, *, more=(8, 9)):
        return x
    def unused(x):
        return 99
    def trial(config, seed):
        """Does things."""
        x = helper(seed) * RATE + TABLE["f"](seed) + len(WORDS) + len(LONG) + ARRAY.sum()     # a comment
        return {"m": cached(x) + bound(x) + decorated(x) + Model().fit(x) + SPEC.rate() + added(x) + again(x) + frozen(x) + with_default(x)}
    direct = partial(trial, extra=12)
'''


@pytest.fixture(scope="module")
def base_key(tmp_path_factory):
    return key(BASE, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("old, new", [
    ('return {"m": cached(x)', 'return {"n": cached(x)'),
    ("return x + 1\n", "return x + 2\n"),                        # a called function
    ("RATE = 0.1", "RATE = 0.2"),                                # a constant
    ('"f", "g"}', '"f", "h"}'),                                  # a set
    ("range(2000)", "range(1, 2001)"),                           # a long list
    ("np.arange(5)", "np.arange(1, 6)"),                      # an array
    ("return x * 2\n", "return x * 3\n"),                        # a function held in a dict
    ("lambda x: x + 10", "lambda x: x + 30"),                    # the first of two lambdas
    ("lambda x: x + 20", "lambda x: x + 30"),                    # and the second
    ("return x - 3", "return x - 4"),                            # behind lru_cache
    ("return x * k", "return x * k * 2"),                        # behind partial
    ("partial(two, k=5)", "partial(two, k=6)"),                  # what partial binds
    ("@scaled(7)", "@scaled(8)"),                                # a decorator's argument
    ("return f(*args) * factor", "return f(*args) + factor"),    # a decorator's own code
    ("depth = 4", "depth = 5"),                                  # a class
    ("return x + self.depth", "return x - self.depth"),          # a method
    ("SPEC = Spec(lr=0.75)", "SPEC = Spec(lr=0.5)"),             # an object's state
    ("parts: tuple = (1, 2)", "parts: tuple = (1, 3)"),          # a field left at its default
    ("return self.lr * 6", "return self.lr * 7"),                # its class
    ("closure(11)", "closure(12)"),                              # a closure
    ("closure(13)", "closure(14)"),                              # and another of the same function
    ("make(21)", "make(22)"),                                    # a default that no name leads to
    ("more=(8, 9)", "more=(8, 10)"),                             # a default
], ids=lambda v: v.strip()[:24])
def test_key_changes_with_what_a_trial_uses(base_key, tmp_path, old, new):
    assert BASE.count(old) == 1
    assert key(BASE.replace(old, new), tmp_path) != base_key


@pytest.mark.parametrize("old, new", [
    ('"""Does things."""', '"""Does other things, in more words."""'),
    ("# a comment", "# another comment"),
    ("return x + 1\n", '"Adds one."\n        return (x +\n                1)   # layout\n'),
    ("return 99", "return 98"),                                  # a function nobody calls
    ("import functools\n", "import functools\n    import json\n    OTHER = 5\n"),
], ids=lambda v: v.strip()[:24])
def test_key_stays_with_what_does_not_matter(base_key, tmp_path, old, new):
    assert BASE.count(old) == 1
    assert key(BASE.replace(old, new), tmp_path) == base_key


def test_key_of_partials_and_methods(tmp_path):
    direct = key(BASE, tmp_path, "direct")
    assert direct != key(BASE, tmp_path) and direct != key(BASE.replace("extra=12", "extra=13"), tmp_path, "direct")
    assert key(BASE, tmp_path, "method") != key(BASE.replace("Old(32)", "Old(33)"), tmp_path, "method")


REACHED = """
    import collections, datetime, enum, functools, operator, re, string, types
    from pathlib import Path
    import numpy as np
    import pandas as pd
    import torch
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from diversity_kit import kit
    from diversity_kit.augment.base import Delete, Swap
    from diversity_kit.measure import stats
    rows = lambda label: [(str(i), label) for i in range(2000)]
    def one(x): return 1
    def two(x): return 2
    class Slots:
        __slots__ = ("x",)
        def __init__(self, x): self.x = x
    first, second = [1], [2]
    G = %s
    def trial(config, seed): return {"m": (G, first, second)}
"""


@pytest.mark.parametrize("a, b", [
    ("LogisticRegression", "RidgeClassifier"), ("LogisticRegression(C=1)", "LogisticRegression(C=2)"), ("{'new': Swap}", "{'new': Delete}"), ("Swap(.1)", "Delete(.1)"),
    ("stats.paired_t", "stats.sign_flip"), ("np.mean", "np.median"), ("np.log", "np.exp"), ("min", "max"), ("'a'.join", "'b'.join"), ("torch.nn.functional.relu", "torch.nn.functional.gelu"),
    ("{'a': one, 'b': two}", "{'a': two, 'b': one}"), ("first", "second"), ("functools", "operator"), ("functools.partial(np.quantile, q=.1)", "functools.partial(np.quantile, q=.2)"),
    (r"re.compile('\\\\w+')", r"re.compile('\\\\S+')"), ("range(3)", "range(4)"), ("slice(3)", "slice(4)"), ("Path('a')", "Path('b')"), ("datetime.date(2020, 1, 1)", "datetime.date(2021, 1, 1)"),
    ("collections.deque([1])", "collections.deque([2])"), ("types.SimpleNamespace(lr=1)", "types.SimpleNamespace(lr=2)"), ("types.MappingProxyType({'a': 1})", "types.MappingProxyType({'a': 2})"),
    ("operator.itemgetter(0)", "operator.itemgetter(1)"), ("Slots(1)", "Slots(2)"), ("{one, 3}", "{two, 3}"),
    ("torch.ones(2)", "torch.zeros(2)"), ("torch.ones(2, dtype=torch.bfloat16)", "torch.zeros(2, dtype=torch.bfloat16)"), ("torch.ones(2)", "torch.ones(2, 1)"),
    ("np.array(['a', None], object)", "np.array(['b', None], object)"), ("pd.DataFrame({'t': ['a', 'b']})", "pd.DataFrame({'t': ['a', 'c']})"), ("np.random.default_rng(0)", "np.random.default_rng(1)"),
    ("rows(0)", "rows(1)"), ("[np.arange(3)] * 1000", "[np.arange(1, 4)] * 1000"), ("dict(enumerate(rows(0)))", "dict(enumerate(rows(1)))"),
    ("torch.nn.Linear(2, 2).requires_grad_(False).apply(lambda m: m.weight.fill_(0))", "torch.nn.Linear(2, 2).requires_grad_(False).apply(lambda m: m.weight.fill_(1))"),
])
def test_key_changes_with_what_a_name_stands_for(tmp_path, a, b):
    "Of whatever library, and whatever it is: a name that stands for something else gives another key, the same thing made again does not."
    import torch
    torch.manual_seed(0)
    one = key(REACHED % a, tmp_path)
    torch.manual_seed(0)
    assert key(REACHED % a, tmp_path) == one != key(REACHED % b, tmp_path)


def test_what_cannot_be_pickled_or_changes_by_itself_counts_by_its_class(tmp_path):
    source = "import random, threading\nimport numpy as np\nG = [threading.Lock(), random.choice, np.random.rand]\ndef trial(config, seed): return {'m': G}\n"
    first = key(source, tmp_path)
    random.random(), np.random.rand()                                     # each trial is seeded: the state between trials says nothing
    assert key(source, tmp_path) == first != key(source.replace("Lock", "Event"), tmp_path)


def test_a_vectorizer_may_be_used(tmp_path):
    "At its first use it notes the address of its stop words: a run that was cut would have found none of its trials."
    source = "from sklearn.feature_extraction.text import HashingVectorizer\nG = HashingVectorizer(n_features=64%s)\n%s\ndef trial(config, seed): return {'m': G}\n"
    fresh, used, other = (key(source % x, tmp_path) for x in (("", ""), ("", "G.transform(['a word'])"), (", ngram_range=(1, 2)", "")))
    assert fresh == used != other


def test_a_tokenizer_may_be_used_too(tmp_path):
    "It keeps the truncation of its last call, which depends on which trials have run and which came out of the cache."
    source = """
        import transformers
        from tokenizers import Tokenizer, models
        G = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "%s": 1}, "a")), unk_token="a", pad_token="a")
        %s
        def trial(config, seed): return {"m": G}
    """
    fresh, used, other = (key(source % x, tmp_path) for x in (("b", ""), ("b", "G(['a b', 'a'], truncation=True, max_length=1, padding=True)"), ("c", "")))
    assert fresh == used != other


@pytest.mark.parametrize("use, counts", [("cfg.experiment_seeds", False), ("cfg[KEY]", True), ("cfg[f'{KEY}']", True), ("getattr(cfg, KEY)", True), ("cfg['experiment_seeds']", False)])
def test_a_setting_read_by_a_computed_key_makes_all_settings_count(tmp_path, monkeypatch, use, counts):
    source = f"from diversity_kit import kit\ncfg = kit.profile()\nKEY = 'risk_seeds'\ndef trial(config, seed):\n    return {{'m': {use}}}\n"
    first, changed = key(source, tmp_path), kit.Profile("smoke", dict(kit.profile()) | {"risk_seeds": 12345})
    monkeypatch.setattr(kit, "profile", lambda name=None: changed)
    assert (key(source, tmp_path) != first) is counts


MORE = """
    import collections, re
    import pandas as pd
    from sklearn.feature_extraction.text import CountVectorizer
    MORE = [collections.Counter("abca"), re.compile("a"), pd.DataFrame({"t": ["a", "b"], "x": [1.0, 2.0], "k": pd.Categorical(["u", "v"])}), np.array(["a", None], object),
            CountVectorizer(stop_words=["a", "b"]).fit(["some words", "and others"]), {helper, min}, {("a", 1), ("b", 2)}, {"a": {"b", "c", "d"}}]
    plain = trial
    def trial(config, seed):
        return plain(config, seed) | {"k": len(MORE)}
"""
SEEDED = """
from diversity_kit import kit
kit.setup()
from diversity_kit.measure.experiment import Experiment
def trial(config, seed):
    import torch
    return {"m": float(torch.randn(64, 4).mean() + torch.nn.Linear(4, 1).weight.sum())}
import torch
print(torch.rand(1).item(), Experiment("lazy", {"a": {}}, 2, trial).run().frame.m.tolist())
"""


def test_a_torch_that_is_imported_after_the_seed_is_seeded(cache, tmp_path):
    "Torch begins with a random seed: of a run that was cut, the first trial of the new process gave other numbers."
    (tmp_path / "main.py").write_text(SEEDED)
    run = lambda: subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}).stdout
    first = run()
    for file in cache.rglob("a-0-*.json"):
        file.unlink()
    assert run() == first


def test_key_is_the_same_in_every_process(tmp_path):
    source = textwrap.dedent(BASE + MORE)
    (tmp_path / "usermod.py").write_text(source)
    code = "import usermod; from diversity_kit.measure.experiment import source_key; print(source_key(usermod.trial))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "PYTHONHASHSEED": "1"}
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
    assert got.strip() == key(source, tmp_path)


def test_key_survives_a_container_that_holds_itself(tmp_path):
    assert key("LOOP = [1]\nLOOP.append(LOOP)\ndef trial(config, seed): return {'m': LOOP[0]}", tmp_path)


def test_key_changes_with_the_settings_a_trial_names(tmp_path, monkeypatch):
    source = "from diversity_kit import kit\ncfg = kit.profile()\ndef trial(config, seed):\n    return {'m': cfg.experiment_seeds}\n"
    first, settings = key(source, tmp_path), dict(kit.profile())
    for name, same in (("risk_seeds", True), ("experiment_seeds", False)):
        changed = kit.Profile("smoke", settings | {name: 12345})
        monkeypatch.setattr(kit, "profile", lambda name=None: changed)                      # noqa: B023
        assert (key(source, tmp_path) == first) is same, name


def test_builtins_have_no_source():
    for f in (max, eval("lambda config, seed: {}"), object()):
        with pytest.raises(TypeError, match="cannot read the source"):
            source_key(f)


def test_key_follows_the_package(tmp_path, monkeypatch):
    "The modules a trial imports, and those that they import, count by their syntax; others do not count."
    source = "from diversity_kit.measure import experiment\ndef trial(config, seed):\n    from diversity_kit.measure.stats import paired_t\n    return {'m': experiment.math.pi}\n"
    copy = tmp_path / "diversity_kit"
    shutil.copytree(ROOT / "diversity_kit", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kit, "__file__", str(copy / "kit.py"))
    first = key(source, tmp_path)
    def edit(name, add):
        text = (copy / name).read_text()
        (copy / name).write_text(text + add)
        try:
            return key(source, tmp_path)
        finally:
            (copy / name).write_text(text)
    assert edit("measure/stats.py", "\n# a comment\n") == first
    assert edit("foundations/risk.py", "\nNEW = 1\n") == first
    assert edit("measure/stats.py", "\nNEW = 1\n") != first
    assert edit("kit.py", "\nNEW = 1\n") != first                         # which experiment imports
    assert key(source, tmp_path) == first


def test_the_file_of_a_trial_is_named_after_everything(monkeypatch):
    path = lambda name="n", arms=ARMS, trial=draw, arm="base", seed=0: Experiment(name, arms, 3, trial).path(arm, seed)
    first = path()
    assert path() == first
    others = [path(name="m"), path(arms={"base": {"shift": 0.1}}), path(trial=lambda c, s: {"m": 1}), path(arm="augmented"), path(seed=1)]
    monkeypatch.setattr(experiment, "_version", lambda p: "99")           # another torch
    others.append(path())
    monkeypatch.undo()
    monkeypatch.setenv("DIVERSITY_KIT_PROFILE", "cpu")
    others.append(path())
    assert len({first, *others}) == 8
    assert path(arms={"base": {"shift": (1, 2), "b": 1}}) == path(arms={"base": {"b": 1, "shift": [1, 2]}})   # the same JSON


LOCALS = '''
    _, x, item, unused, limit, held = 1, 2, 3, 4, 5, 6
    class Box:
        unused: int = 3
    def trial(config, seed, x=1):
        total = 0
        for _ in range(seed):
            total += sum(item for item in range(x))
        def inner(held):
            return _ + held
        return {"m": total + inner(limit) + Box.unused}
'''


@pytest.mark.parametrize("old, new, same", [("1, 2, 3, 4, 5, 6", "9, 2, 3, 4, 5, 6", True), ("1, 2, 3, 4, 5, 6", "1, [0], 'i', 9, 5, str", True),
                                            ("1, 2, 3, 4, 5, 6", "1, 2, 3, 4, 7, 6", False), ("range(x)", "range(seed)", False), ("unused: int = 3", "unused: int = 4", False)])
def test_a_global_that_a_trial_only_has_as_a_local_does_not_count(tmp_path, old, new, same):
    "IPython's `_` is the last output: it changes from run to run."
    assert old in LOCALS
    assert (key(LOCALS.replace(old, new, 1), tmp_path) == key(LOCALS, tmp_path)) is same


PASSED = '''
    from functools import partial
    from diversity_kit.measure.stats import bootstrap
    def own(x):
        return x + 1
    class Rule:
        def __call__(self, x):
            return x * 2
    trial = partial(bootstrap, statistic=own)
    listed = partial(partial(bootstrap), [own])
    ruled = partial(bootstrap, statistic=Rule())
    plain = partial(bootstrap, statistic=len)
'''


@pytest.mark.parametrize("name, old, counts", [("trial", "x + 1", True), ("listed", "x + 1", True), ("ruled", "x * 2", True), ("ruled", "x + 1", False), ("plain", "x + 1", False)])
def test_a_function_of_ones_own_bound_to_a_function_of_the_package_counts(tmp_path, name, old, counts):
    changed = PASSED.replace(old, "x - 5")
    assert changed != PASSED and (key(changed, tmp_path, name) != key(PASSED, tmp_path, name)) is counts


@pytest.mark.parametrize("use", ["from helpers import score", "import helpers", "import helpers as h", "from ours import helpers", "import ours.helpers"])
@pytest.mark.parametrize("old, counts", [("x + 1", True), ("RATE = 3", True), ("y * 7", True), ("# a note", False)])
def test_ones_own_modules_count(tmp_path, use, old, counts):
    "A trial that calls score(), which calls deeper.inner(), both in files of one's own."
    text = {"helpers.py": "import deeper\nRATE = 3\ndef score(x):\n    return RATE * deeper.inner(x + 1)  # a note\n", "deeper.py": "def inner(y):\n    return y * 7\n"}
    call = {"from helpers import score": "score", "import helpers as h": "h.score", "import ours.helpers": "ours.helpers.score"}.get(use, "helpers.score")
    run = f"{use}\ndef trial(config, seed):\n    return {{'m': {call}(seed)}}\n"
    keys = []
    for change in (str, lambda t: t.replace(old, {"x + 1": "x + 2", "RATE = 3": "RATE = 4", "y * 7": "y * 8", "# a note": "# another"}[old])):
        top = tmp_path / str(len(keys))
        (top / "ours").mkdir(parents=True)
        for name, body in text.items():
            for folder in (top, top / "ours"):
                (folder / name).write_text(change(body))
        (top / "run.py").write_text(run + "from diversity_kit.measure.experiment import source_key\nprint(source_key(trial))\n")
        got = subprocess.run([sys.executable, "run.py"], capture_output=True, text=True, cwd=top, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(top), str(ROOT)])})
        assert got.returncode == 0, got.stderr[-800:]
        keys.append(got.stdout)
    assert (keys[0] != keys[1]) is counts


IPYTHON = '''
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
def run(cell):
    assert shell.run_cell(cell, store_history=True).success, cell
run("from diversity_kit.measure.experiment import source_key\\nkeys = []")
trial = "def trial(config, seed):\\n    return {'m': Net().depth + Fields.x}"
cells = ["class Net:\\n    depth = 1\\n    def f(self): return 1", "class Fields:\\n    x = 1", trial]
for change in [[], [], [(0, "depth = 1", "depth = 1  # note")], [(0, "depth = 1", "depth = 2")], [(1, "x = 1", "x = 2")], [(0, "return 1", "return 2")]]:
    now = list(cells)
    for i, old, new in change:
        now[i] = now[i].replace(old, new)
    for cell in now:
        run(cell)
    run("keys.append(source_key(trial))")
keys = shell.user_ns["keys"]
print(*[keys.index(k) for k in keys])
'''


def test_classes_typed_in_notebook_cells_count(tmp_path):
    got = subprocess.run([sys.executable, "-c", IPYTHON], capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path)})
    assert got.stdout.split() == ["0", "0", "0", "3", "4", "5"], got.stdout + got.stderr[-2000:]
