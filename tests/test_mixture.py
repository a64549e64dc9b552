"""fusion.mixture: shares, the schedule of indices, the stream, resume, workers, receipts, faults."""
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from diversity_kit.fusion import mixture
from diversity_kit.fusion.mixture import BLOCK, Mixture, Schedule, Source, block_counts, temperature_shares, unimax_shares


def rows(n, tag="a"):
    return Dataset.from_dict({"id": [f"{tag}{i}" for i in range(n)], "text": [f"{tag} text {i}" for i in range(n)]})


A, B, C = rows(5000, "a"), rows(500, "b"), rows(20, "c")
sizes = st.lists(st.integers(1, 10**7), min_size=1, max_size=8)


# ------------------------------------------------------------------------------------------------ shares

@given(sizes, st.floats(0.05, 50))
def test_temperature_shares_are_shares_and_keep_the_order_of_sizes(n, t):
    p = temperature_shares(n, t)
    assert p.sum() == pytest.approx(1) and (p > 0).all() or t < 1
    for i in range(len(n)):
        for j in range(len(n)):
            assert n[i] <= n[j] or p[i] >= p[j]


def test_temperature_limits():
    n = [1000, 100, 1]
    assert np.allclose(temperature_shares(n, 1), np.array(n) / 1101)
    assert np.allclose(temperature_shares(n, math.inf), 1 / 3) and np.allclose(temperature_shares(n, 1e9), 1 / 3, atol=1e-6)
    assert temperature_shares(n, 0.01)[0] == pytest.approx(1)                     # T -> 0: the largest alone


@pytest.mark.parametrize("t", [0, -1, math.nan, True, "1", None])
def test_temperature_refuses(t):
    with pytest.raises((ValueError, TypeError), match="temperature"):
        temperature_shares([1, 2], t)


@pytest.mark.parametrize("n", [[], [0, 1], [-3], [math.nan], [math.inf]])
def test_sizes_refuse(n):
    with pytest.raises(ValueError, match="sizes"):
        temperature_shares(n, 1)


@given(sizes, st.integers(1, 10**6), st.floats(0.1, 20))
def test_unimax_spends_what_it_can_under_the_cap(n, budget, epochs):
    p, spent = unimax_shares(n, budget, epochs)
    u = p * spent
    assert p.sum() == pytest.approx(1) and spent <= budget * (1 + 1e-9)
    assert (u <= epochs * np.array(n) * (1 + 1e-9)).all()
    assert spent == pytest.approx(min(budget, epochs * sum(n)))
    free = u < epochs * np.array(n) * (1 - 1e-9)
    if free.any():                                                                # uncapped sources all get the same, and no less than a capped one
        assert np.ptp(u[free]) <= 1e-6 * u.max() and u[free].min() >= u.max() * (1 - 1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda w: sum(w) > .01), st.integers(0, 10**6), st.integers(1, 5000))
def test_block_counts_are_whole_and_add_up(w, block, length):
    p = np.array(w) / sum(w)
    c = block_counts(p, block, length)
    assert c.sum() == length and (c >= 0).all() and (abs(c - p * length) < 2).all() and (c[p == 0] == 0).all()


def test_counts_are_unbiased():
    p = np.array([.61, .3, .09])
    got = np.mean([block_counts(p, 0, 10, u) for u in (np.arange(10_000) + .5) / 10_000], axis=0)
    assert np.allclose(got, 10 * p, atol=1e-3)


# ------------------------------------------------------------------------------------------------ schedule and stream

@given(st.integers(0, 2**40), st.integers(0, 20_000), st.integers(0, 3000))
@settings(max_examples=20, deadline=None)
def test_any_range_is_a_piece_of_the_whole(seed, start, length):
    make = lambda: Schedule([Source(range(700)), Source(range(90), max_repeats=3)], lambda step: np.array([.8, .2]), seed)
    whole, piece = make()(0, 24_000), make()(start, start + length)
    assert all((a[start:start + length] == b).all() for a, b in zip(whole, piece))


def test_every_row_once_before_any_twice():
    kind, row, again = Mixture({"a": A, "b": B}, temperature=2, seed=3, steps=30_000).schedule()
    for s, n in ((0, 5000), (1, 500)):
        for k in range(again[kind == s].max()):
            got = row[(kind == s) & (again == k)]
            assert sorted(got) == list(range(n))
        assert (row[(kind == s) & (again == 0)] != np.arange(n)).any()              # shuffled
        assert (np.diff(again[kind == s]) >= 0).all()


def test_observed_shares_follow_the_asked_ones():
    m = Mixture({"a": A, "b": B, "c": C}, weights={"a": 5, "b": 3, "c": 2}, steps=50_000)
    r = m.receipt()
    assert abs(r.frame["observed"] - r.frame["asked"]).max() < 2e-4 and r.steps == 50_000 and "all 50000 rows" in r.stop
    assert r.frame.loc["c", "passes"] == pytest.approx(500, abs=1) and r.frame.loc["c", "distinct"] == 20


def test_rows_carry_tags_and_their_own_columns():
    m = Mixture({"x": A, "y": B}, temperature=1, steps=2000)
    for r in m:
        where = {"x": A, "y": B}[r["source"]]
        i = int(r["parent"][1:])
        assert where[i]["id"] == r["parent"] and where[i]["text"] == r["text"] and r["repeat"] == 0
    assert set(r) == {"id", "text", "source", "parent", "repeat"}


def test_a_source_column_is_kept_beside_the_tag():
    d = Dataset.from_dict({"text": ["t"], "source": ["movie"]})
    assert next(iter(Mixture({"films": d}, temperature=1))) == {"text": "t", "subsource": "movie", "source": "films", "parent": 0, "repeat": 0}


def test_lists_of_dicts_and_datasets_give_the_same():
    make = lambda data: [r["text"] for r in Mixture({"a": data, "b": B}, temperature=1, seed=2, steps=3000)]
    assert make(A) == make(A.to_list())


def test_seed_and_process_decide_the_order_nothing_else():
    make = lambda seed: [(r["source"], r["parent"]) for r in Mixture({"a": A, "b": B}, temperature=5, seed=seed, steps=500)]
    assert make(1) == make(1) != make(2)
    code = ("from datasets import Dataset\nfrom diversity_kit.fusion.mixture import Mixture, Source\n"
            "print(Mixture({'a': Source(range(5000)), 'b': Source(range(500))}, temperature=5, seed=1, steps=500).schedule()[1].sum()) if 0 else None\n"
            "from diversity_kit.fusion.mixture import Schedule\nimport numpy as np\n"
            "print(Schedule([Source(range(5000)), Source(range(500))], lambda t: np.array([.7, .3]), 1)(0, 9000)[1].sum())")
    out = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**__import__("os").environ, "PYTHONHASHSEED": h}).stdout for h in ("0", "7")}
    want = Schedule([Source(range(5000)), Source(range(500))], lambda t: np.array([.7, .3]), 1)(0, 9000)[1].sum()
    assert out == {f"{want}\n"}


def test_take_and_rows_use_a_part_and_always_the_same():
    m = Mixture({"a": Source(A, take=.1), "b": Source(B, rows=7)}, weights={"a": 1, "b": 1}, steps=4000)
    kind, row, _ = m.schedule()
    assert len(set(row[kind == 0])) == 500 and len(set(row[kind == 1])) == 7 and row[kind == 0].max() > 1000


def test_scheduled_weights():
    m = Mixture({"a": A, "b": B}, weights=lambda t: {"a": 1, "b": 0} if t < 2 * BLOCK else {"a": 0, "b": 1}, steps=4 * BLOCK)
    kind = m.schedule()[0]
    assert not kind[:2 * BLOCK].any() and kind[2 * BLOCK:].all()
    assert m.receipt().frame["asked"].tolist() == [.5, .5] and m.receipt(BLOCK).frame["asked"].tolist() == [1, 0]


# ------------------------------------------------------------------------------------------------ ends

def test_drop_gives_the_share_to_the_others():
    r = Mixture({"a": A, "c": Source(C, max_repeats=2)}, weights={"a": .5, "c": .5}, steps=3000).receipt()
    assert r.frame["rows"].tolist() == [2960, 40] and r.frame["ended"].tolist() == [False, True]


def test_stop_ends_with_the_last_row_of_the_source():
    m = Mixture({"a": A, "c": Source(C, max_repeats=2, end="stop")}, weights={"a": .5, "c": .5})
    kind = m.schedule()[0]
    assert (kind == 1).sum() == 40 and kind[-1] == 1 and 78 <= len(kind) <= 82
    assert m.receipt().stop == "ended: source 'c' is used up (end='stop')"


def test_all_used_up():
    m = Mixture({"a": Source(A, max_repeats=1), "c": Source(C, max_repeats=1.5)}, temperature=1)
    got = [r["parent"] for r in m]
    assert len(got) == 5030 and m.receipt().stop == "ended: every source is used up"


def test_unimax_never_passes_its_cap():
    m = Mixture({"a": A, "b": B, "c": C}, unimax=3, steps=8000)
    assert m.receipt().frame["passes"].max() <= 3
    short = Mixture({"b": B, "c": C}, unimax=2, steps=10_000).receipt()
    assert short.steps == 1040 and "2 passes" in short.stop


@pytest.mark.parametrize("seed", range(12))
def test_unimax_never_gives_one_row_more_than_its_cap(seed):
    "The counts (51.3) round up now and then: 401 rows of a source of 100 under a cap of four passes, with two of twelve seeds."
    m = Mixture({"a": A, "b": B, "c": rows(100, "d")}, unimax=4, seed=seed, steps=7000)
    frame = m.receipt().frame
    assert frame["rows"].sum() == 7000 and 399 <= frame.loc["c", "rows"] <= 400 and frame.loc["b", "rows"] <= 2000
    parts = Mixture({"b": B, "c": C}, unimax=1.77, seed=seed, steps=7000).receipt()
    assert parts.frame["rows"].tolist() == [885, 35] and "1.77 passes: 920 of 7000" in parts.stop      # whole rows below the cap
    held = Mixture({"a": A, "c": Source(C, end="stop")}, unimax=2, seed=seed, steps=3000)
    assert held.receipt().steps == 3000                                           # a cap of the rule is no end of the source


def test_a_stream_without_end_says_so():
    m = Mixture({"a": A}, temperature=1)
    with pytest.raises(ValueError, match="no end"):
        m.schedule()
    assert m.receipt().stop == "not at its end" and len(m.schedule(0, 12_000)[0]) == 12_000


# ------------------------------------------------------------------------------------------------ resume, workers

@pytest.mark.parametrize("at", [0, 1, 1023, 1024, 4095, 4097, 5999, 6000])
def test_resume_is_exact(at):
    make = lambda: Mixture({"a": A, "b": Source(B, max_repeats=2)}, temperature=4, seed=9, steps=6000)
    whole = [r["parent"] for r in make()]
    first = make()
    part = [r["parent"] for _, r in zip(range(at), first)]
    again = make()
    again.load_state_dict(first.state_dict())
    assert part + [r["parent"] for r in again] == whole


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_give_the_order_of_one_process(workers):
    make = lambda: Mixture({"a": A, "b": B}, temperature=3, seed=4, steps=301)
    assert [r["parent"] for r in DataLoader(make(), batch_size=None, num_workers=workers)] == [r["parent"] for r in make()]


@pytest.mark.parametrize("workers, persistent", [(0, False), (2, False), (2, True)])
def test_the_next_epoch_begins_again(workers, persistent):
    m = Mixture({"a": A, "b": B}, temperature=3, seed=4, steps=301)
    whole = [r["parent"] for r in Mixture({"a": A, "b": B}, temperature=3, seed=4, steps=301)]
    loader = DataLoader(m, batch_size=None, num_workers=workers, persistent_workers=persistent)
    for _ in range(3):
        assert [r["parent"] for r in loader] == whole
    assert [r["parent"] for r in DataLoader(m.shard(1, 2), batch_size=None)] == whole[1::2] == [r["parent"] for r in m]


def test_a_finished_epoch_is_not_repeated_when_it_is_resumed():
    make = lambda: Mixture({"a": A}, temperature=1, steps=50)
    m, again = make(), make()
    whole = [r["parent"] for r in m]
    assert m.state_dict()["step"] == 50
    again.load_state_dict(m.state_dict())
    assert list(again) == [] and [r["parent"] for r in again] == whole and [r["parent"] for _, r in zip(range(50), m)] == whole
    assert [r["parent"] for r in m] == whole                                      # all rows were taken, the end not yet seen


def test_ranks_share_the_stream_even_with_more_ranks_than_rows():
    make = lambda: Mixture({"c": Source(C, max_repeats=1)}, temperature=1)
    whole = [r["parent"] for r in make()]
    parts = [[r["parent"] for r in make().shard(k, 33)] for k in range(33)]
    assert sorted(sum(parts, [])) == sorted(whole) and [p[0] for p in parts if p] == whole and max(map(len, parts)) == 1
    with pytest.raises(ValueError, match="ranks are 0 to 2"):
        make().shard(3, 3)


def test_changed_sources_are_refused_with_what_changed():
    state = Mixture({"a": A, "b": B}, temperature=2, seed=1, steps=100).state_dict()
    for other, words in ((Mixture({"a": A, "b": B.select(range(9))}, temperature=2, seed=1, steps=100), "source 'b'"),
                         (Mixture({"a": A, "b": B}, temperature=3, seed=1, steps=100), "rule"),
                         (Mixture({"a": A, "b": B}, temperature=2, seed=2, steps=100), "seed: 1 then, 2 now"),
                         (Mixture({"b": B, "a": A}, temperature=2, seed=1, steps=100), "order of the sources"),
                         (Mixture({"a": A}, temperature=2, seed=1, steps=100), "source 'b'.*absent now")):
        with pytest.raises(ValueError, match=words):
            other.load_state_dict(state)


# ------------------------------------------------------------------------------------------------ faults

def test_exactly_one_rule():
    for rules in ({}, {"temperature": 1, "unimax": 2}):
        with pytest.raises(ValueError, match="exactly one rule"):
            Mixture({"a": A}, **rules)


@pytest.mark.parametrize("weights, words", [({"a": 1}, "name every source"), ({"a": 1, "b": -1}, "none below 0"), ({"a": 0, "b": 0}, "not all 0"), ({"a": math.nan, "b": 1}, "finite"), ([1, 2], "name every source")])
def test_bad_weights(weights, words):
    with pytest.raises(ValueError, match=words):
        Mixture({"a": A, "b": B}, weights=weights)


def test_bad_sources():
    with pytest.raises(ValueError, match="'b' is empty"):
        Mixture({"a": A, "b": rows(0)}, temperature=1)
    with pytest.raises(ValueError, match="two sources are called 'a'"):
        Mixture([("a", A), ("a", B)], temperature=1)
    with pytest.raises(ValueError, match="at least one"):
        Mixture({}, temperature=1)
    with pytest.raises(ValueError, match="(?s)different columns.*label.*\n.*text"):
        Mixture({"a": A.add_column("label", [0] * 5000), "b": B}, temperature=1)
    with pytest.raises(ValueError, match="different columns"):
        Mixture({"a": A, "b": Dataset.from_dict({"id": [1], "text": ["x"]})}, temperature=1)     # ids of another type
    test = Dataset.from_dict({"id": ["q"], "text": ["x"]}, split="test")
    with pytest.raises(ValueError, match="marked as a test set"):
        Mixture({"a": test}, temperature=1)


@pytest.mark.parametrize("data, words", [(pd.DataFrame({"text": ["a"]}), "not a DataFrame: datasets.Dataset.from_pandas"), (DatasetDict({"train": B}), "not a DatasetDict: choose one"),
                                         (["a", "b"], "source 'x' holds rows of type str, not dicts"), ("text", "not a str"), (B.to_iterable_dataset(), "not a IterableDataset: load it whole")])
def test_data_that_are_no_rows(data, words):
    with pytest.raises(TypeError, match=words):
        Mixture({"x": data}, temperature=1)


@pytest.mark.parametrize("kw, words", [({"rows": 2.5}, "whole number"), ({"rows": True}, "whole number"), ({"take": 0}, "take"), ({"take": 1.5}, "take"), ({"rows": 0}, "rows"), ({"rows": 10**9}, "500 rows"), ({"take": .5, "rows": 2}, "not both"), ({"max_repeats": 0}, "max_repeats"), ({"end": "halt"}, "end")])
def test_bad_source_settings(kw, words):
    with pytest.raises(ValueError, match=words):
        Source(B, **kw)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_bad_steps(steps):
    with pytest.raises(ValueError, match="steps"):
        Mixture({"a": A}, temperature=1, steps=steps)


def test_unimax_needs_a_budget():
    with pytest.raises(ValueError, match="give steps"):
        Mixture({"a": A}, unimax=2)


class Broken(list):
    def __getitem__(self, i):
        if i == 13:
            raise OSError("disk gone")
        return super().__getitem__(i)


def test_a_source_that_fails_in_the_middle_names_itself_and_can_be_resumed():
    good = [{"text": str(i)} for i in range(3000)]
    m = Mixture({"a": good, "b": Broken(good)}, temperature=1, seed=1, steps=9000)
    got = []
    with pytest.raises(RuntimeError, match="source 'b' failed between steps .*OSError: disk gone.*load the last state"):
        for r in m:
            got.append(r["text"])
    mended = Mixture({"a": good, "b": good}, temperature=1, seed=1, steps=9000)
    mended.load_state_dict(m.state_dict())
    assert got + [r["text"] for r in mended] == [r["text"] for r in Mixture({"a": good, "b": good}, temperature=1, seed=1, steps=9000)]


def test_one_row_source():
    m = Mixture({"a": A, "one": rows(1, "z")}, weights={"a": .9, "one": .1}, steps=1000)
    assert sum(r["parent"] == "z0" for r in m) == 100 and m.receipt().frame.loc["one", "passes"] == 100


def test_receipt_explains_itself():
    r = Mixture({"a": A, "b": B}, temperature=2, steps=100).receipt()
    assert r.plan in str(r) and "observed" in r._repr_html_() and list(r.to_pandas().index) == ["a", "b"]


def test_fractions_of_rows_are_not_rounded_up_by_floating_point():
    data = [{"text": str(i)} for i in range(100)]
    assert [Source(data, take=k / 100).size for k in range(1, 101)] == list(range(1, 101))
    assert [Source(data, max_repeats=k / 100).supply for k in range(1, 1000)] == list(range(1, 1000))
    assert Source(data, take=.071).size == 8 and Source(data[:1], take=1e-12).size == 1


@pytest.mark.parametrize("begun, world, then", [(10, 3, 3), (10, 3, 2), (7, 2, 5), (1100, 2, 3)])
def test_the_state_of_any_rank_resumes_all_of_them(begun, world, then):
    make = lambda: Mixture({"a": A, "b": B}, temperature=2, seed=1, steps=3001)
    start = make()
    start.load_state_dict({"step": 28})                                            # rounds count from where the iteration began
    whole = [r["parent"] for r in make()]
    ranks = []
    for k in range(world):
        m = make().shard(k, world)
        m.load_state_dict(start.state_dict())
        ranks.append(([r["parent"] for _, r in zip(range(begun), m)], m.state_dict()))
    assert {s["step"] for _, s in ranks} == {28 + begun * world}
    for _, state in ranks:
        rest = []
        for k in range(then):
            m = make().shard(k, then)
            m.load_state_dict(state)
            rest += [r["parent"] for r in m]
        assert sorted(whole[:28] + sum((r for r, _ in ranks), []) + rest) == sorted(whole)


def test_rows_of_a_list_that_differ_are_refused_nothing_is_lost():
    with pytest.raises(ValueError, match="source 'a': row 1 is .*'label'.*same columns"):
        Mixture({"a": [{"text": "1"}, {"text": "2", "label": 1}]}, temperature=1)
    with pytest.raises(ValueError, match="row 1 is str"):
        Mixture({"a": [{"text": "1"}, "2"]}, temperature=1)
    lazy = Broken([{"text": "1"}, {"text": "2", "label": 1}])                      # no list: seen when it is read
    with pytest.raises(RuntimeError, match="a row has the columns"):
        list(Mixture({"a": lazy}, temperature=1, steps=2))


@pytest.mark.parametrize("row, word", [({"parent": 1}, "parent"), ({"repeat": 1}, "repeat"), ({"source": "s", "subsource": "q"}, "subsource")])
def test_columns_that_the_stream_writes_are_refused(row, word):
    for data in ([{"text": "1"} | row], Dataset.from_list([{"text": "1"} | row])):
        with pytest.raises(ValueError, match=f"source 'a' has a column '{word}'"):
            Mixture({"a": data}, temperature=1)
    assert next(iter(Mixture({"a": [{"text": "1", "subsource": "q"}]}, temperature=1)))["subsource"] == "q"


def test_rows_of_a_list_that_are_marked_test_are_refused():
    with pytest.raises(ValueError, match="marked as a test set"):
        Mixture({"a": [{"text": "1", "split": "train"}, {"text": "2", "split": "test"}]}, temperature=1)
    assert Mixture({"a": [{"text": "1", "split": "train"}]}, temperature=1, steps=1).receipt().steps == 1


def test_the_plan_of_a_partial_knows_its_function_not_its_address():
    import functools
    facts = [Mixture({"a": A, "b": B}, weights=functools.partial(lambda k, t: {"a": 1, "b": k}, k), steps=9)._facts()["rule"]["weights"] for k in (1, 2)]
    assert facts[0] == facts[1] and "0x" not in facts[0] and "lambda" in facts[0]

    class Weights:
        def __call__(self, step):
            return {"a": 1, "b": 1}
    assert "Weights" in (got := Mixture({"a": A, "b": B}, weights=Weights(), steps=9)._facts()["rule"]["weights"]) and "0x" not in got


def test_module_exports():
    assert set(mixture.__all__) >= {"Mixture", "Source", "Schedule", "Receipt", "temperature_shares", "unimax_shares"}
