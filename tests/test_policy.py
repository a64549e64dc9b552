"""The policy search: its plan, its choice in worlds with known effects, resuming, the strategy table, faults."""
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.augment.base import Delete, Swap, Transform
from diversity_kit.measure.experiment import Results
from diversity_kit.study import policy as P
from diversity_kit.study.policy import NONE, control_of, grid, plan, search, strategies

TWELVE = grid({"Swap": Swap, "Delete": Delete}, (.1, .3, .5), (1, 4))


def world(effects, shift=0, sd=1.):
    "Known effects by (op, rate, copies); a seed's own noise is common to all policies."
    def evaluate(config, seed):
        own = np.random.default_rng([seed + shift, *map(ord, f"{config['op']} {config['rate']} {config['copies']}")])
        common = 10 * np.random.default_rng([seed + shift, 9]).normal()
        return 70 + common + effects.get((config["op"], config["rate"], config["copies"]), 0.) + own.normal(0, sd / np.sqrt(2))
    return evaluate


# ------------------------------------------------------------------------------------------------ grid
def test_grid():
    assert list(TWELVE)[:3] == ["Swap(0.1) x1", "Swap(0.1) x4", "Swap(0.3) x1"] and len(TWELVE) == 12
    config = TWELVE["Delete(0.5) x4"]
    assert Transform.from_dict(json.loads(json.dumps(config))["transform"]) == Delete(.5)
    assert control_of(config) == {"op": "copies", "rate": 0., "copies": 4, "transform": None}
    some = grid({"Swap": Swap, "Delete": Delete}, (.1, .3, .5), (1, 4), sample=5, seed=3)
    assert len(some) == 5 and set(some) < set(TWELVE) and some == grid({"Swap": Swap, "Delete": Delete}, (.1, .3, .5), (1, 4), sample=5, seed=3)
    assert set(some) != set(grid({"Swap": Swap, "Delete": Delete}, (.1, .3, .5), (1, 4), sample=5, seed=4))
    assert grid({"Swap": Swap}, [.1], [1], sample=9) == grid({"Swap": Swap}, [.1], [1])


@pytest.mark.parametrize("args, error", [(({"Swap": Swap}, [.1], [0]), "copies=0"), (({"Swap": Swap}, [.1], [True]), "copies=True"), (({}, [.1], [1]), "empty"),
                                         (({"f": lambda r: r}, [.1], [1]), "is a float, not a Transform"), (({"Swap": Swap}, [2], [1]), "between 0 and 1"),
                                         (({"Swap": Swap}, [.1, .1000001], [1]), "both called"), (({"Swap": Swap}, [.1234567, .1234568], [1, 2]), "both called")])
def test_grid_faults(args, error):
    with pytest.raises((TypeError, ValueError), match=error):
        grid(*args)


# ------------------------------------------------------------------------------------------------ plan
@given(arms=st.integers(1, 70), controls=st.integers(1, 4), budget=st.integers(4, 3000), fresh=st.integers(2, 30))
@settings(max_examples=200, deadline=None)
def test_plan_fits_the_budget_and_wastes_little(arms, controls, budget, fresh):
    def price(rungs):
        total, before = 2 * fresh, 0
        for n, m in rungs:
            total, before = total + (n + min(n, controls)) * (m - before), m
        return total
    try:
        rungs = plan(arms, controls, budget, fresh=fresh)
    except ValueError as e:
        assert "the budget is" in str(e)
        assert price([(arms >> r, 1 << r) for r in range(arms.bit_length() - 1)]) > budget
        return
    assert price(rungs) <= budget
    assert [n for n, _ in rungs] == [arms >> r for r in range(len(rungs))] and (not rungs or rungs[-1][0] in (2, 3))
    if rungs:
        first = rungs[0][1]
        assert [m for _, m in rungs] == [first << r for r in range(len(rungs))]
        assert price([(n, (first + 1) << r) for r, (n, _) in enumerate(rungs)]) > budget     # one seed more would not fit


def test_plan_golden():
    assert plan(12, 2, 300) == [(12, 8), (6, 16), (3, 32)] and plan(1, 1, 40) == [] and plan(2, 1, 1000, seeds=7) == [(2, 7)]
    for bad in (dict(arms=0, controls=1, budget=99), dict(arms=2, controls=1, budget=99, fresh=1), dict(arms=2, controls=1, budget=99, seeds=0)):
        with pytest.raises(ValueError, match="at least 1, 2 and 1"):
            plan(**bad)
    with pytest.raises(ValueError, match="cost up to 364 trials, the budget is 300"):
        plan(10, 2, 300, seeds=12)                                               # 12 x 12 + 7 x 12 + 4 x 24 + 40


# ------------------------------------------------------------------------------------------------ search
PLANTED = {("Delete", .1, 4): 1.5, ("Swap", .1, 4): .3, ("Delete", .5, 4): -1.}


def test_a_planted_best_policy_is_found():
    asked = []

    def evaluate(config, seed):
        asked.append((config["op"], config["rate"], config["copies"], seed))
        return world(PLANTED)(config, seed)
    r = search(TWELVE, evaluate, budget=300)
    assert r.choice == r.best == "Delete(0.1) x4" and r.config == TWELVE[r.best] and r.effect.low < 1.5 < r.effect.high
    assert len(asked) == len(set(asked)) == r.trials <= 300                      # nothing twice
    log = r.to_pandas()
    selecting, fresh = set(log.seed[log.rung >= 0]), log[log.rung == -1]
    assert not selecting & set(fresh.seed) and set(fresh.arm) == {"Delete(0.1) x4", "copies x4"} and r.effect.n == fresh.seed.nunique() == 20
    pivot = fresh.pivot(index="seed", columns="arm", values="score")
    assert abs((pivot["Delete(0.1) x4"] - pivot["copies x4"]).mean() - r.effect.mean) < 1e-9
    assert log.difference[log.arm.str.startswith("copies")].eq(0).all() and r.selected.n == 32
    standing = r.rungs
    assert list(standing.groupby("rung").size()) == [12, 6, 3] and list(standing.groupby("rung").kept.sum()) == [6, 3, 1]
    for _, part in standing.groupby("rung"):
        assert part["mean difference"][part.kept].min() >= part["mean difference"][~part.kept].max()
    one = log[(log.arm == r.best) & (log.rung >= 0)]
    assert abs(one.difference.mean() - r.selected.mean) < 1e-9


def test_controls_are_matched_by_copies():
    "Where copies help by themselves, a policy must not win by having more of them."
    effects = {("copies", 0., 4): 5., ("Swap", .1, 4): 5., ("Swap", .1, 1): 1.5}
    r = search(grid({"Swap": Swap}, [.1], [1, 4]), world(effects, sd=.5), budget=200)
    assert r.best == "Swap(0.1) x1" and abs(r.effect.mean - 1.5) < .5


def test_null_world_says_no_augmentation_at_its_level_and_shows_the_curse():
    runs = [search(TWELVE, world({}, 10_000 * (i + 1)), budget=160, fresh=10) for i in range(80)]
    false = sum(r.choice != NONE for r in runs)
    assert false <= 8                                                            # P(X > 8) < 0.001 for Binomial(80, 0.025)
    assert np.mean([r.selected.mean for r in runs]) > .2 and abs(np.mean([r.effect.mean for r in runs])) < .15
    assert all(r.choice in (NONE, r.best) and (r.choice == NONE) == (r.effect.low <= 0) for r in runs)
    assert "no augmentation" in repr(next(r for r in runs if r.choice == NONE))


def test_a_harmful_winner_is_refused():
    r = search(grid({"Swap": Swap}, [.1], [1]), world({("Swap", .1, 1): -2.}), budget=40)
    assert r.choice == NONE and r.best == "Swap(0.1) x1" and r.effect.high < 0 and r.selected == r.effect and len(r.rungs) == 0


def test_search_is_reproducible_and_order_of_ties_is_stable():
    a, b = (search(TWELVE, world(PLANTED), budget=160) for _ in range(2))
    assert a.log.equals(b.log) and a.choice == b.choice
    flat = search(TWELVE, lambda c, s: 1., budget=160)
    assert flat.best == next(iter(TWELVE)) and flat.choice == NONE and flat.effect.mean == 0
    assert "&lt;b&gt;" in search({"<b>": {"copies": 1}}, lambda c, s: 1., budget=40)._repr_html_()


def plain(config, seed):
    return 1. + .01 * seed + (config["op"] == "Swap") + .1 * config["rate"]


def other(config, seed):
    return 2. + .01 * seed + (config["op"] == "Delete") + .1 * config["rate"]


def test_trials_are_kept_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path))
    arms = grid({"Swap": Swap, "Delete": Delete}, (.1, .3), (1,))
    stamps = lambda: {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.json")}
    r = search(arms, plain, budget=60, fresh=4, name="policy-test")
    first = stamps()
    assert r.best == "Swap(0.3) x1" and len(first) == r.trials <= 60
    again = search(arms, plain, budget=60, fresh=4, name="policy-test")
    assert stamps() == first and again.log.equals(r.log) and again.minutes == r.minutes
    gone = sorted(first)[::9]
    for f in gone:
        f.unlink()
    assert search(arms, plain, budget=60, fresh=4, name="policy-test").log.equals(r.log)
    assert {f for f, t in stamps().items() if t != first[f]} == set(gone)
    memory = search(arms, plain, budget=60, fresh=4)
    assert memory.log.equals(r.log) and memory.effect == r.effect
    swapped = search(arms, other, budget=60, fresh=4, name="policy-test")        # another evaluate under the same name: nothing stale
    assert swapped.best == "Delete(0.3) x1" and len(stamps()) == r.trials + swapped.trials


@pytest.mark.parametrize("candidates, kw, error", [
    ({}, dict(budget=100), "0 policies"), ({"a": {}}, dict(budget=100), "needs the key 'copies'"), ({"copies x2": {"copies": 2}}, dict(budget=100), "names 'copies x1'"),
    (TWELVE, dict(budget=50), "fewer policies"), (TWELVE, dict(budget=100, seeds=50), "the budget is 100")])
def test_search_faults(candidates, kw, error):
    with pytest.raises(ValueError, match=error):
        search(candidates, lambda c, s: 0., **kw)


def test_a_score_that_is_not_finite_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"evaluate\(Swap\(0.1\) x1, seed 1\) returned nan"):
        search(TWELVE, lambda c, s: float("nan") if s == 1 else 0., budget=160)
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="seed 0"):
        search(TWELVE, broken, budget=160, name="broken")


def broken(config, seed):
    return float("inf")


# ------------------------------------------------------------------------------------------------ the table
def results(**arms):
    rows = [{"arm": a, "seed": i, "score": v, "seconds": 0.} for a, vs in arms.items() for i, v in enumerate(vs)]
    return Results("r", pd.DataFrame(rows))


def test_strategies():
    rng = np.random.default_rng(0)
    base = rng.normal(size=20)
    noise = lambda m: base + m + .1 * rng.normal(size=20)
    table = strategies({"en": results(copies=base, good=noise(1), none=noise(0.)), "zh": results(good=noise(-1), copies=base)})
    assert list(zip(table.task, table.operation)) == [("en", "good"), ("en", "none"), ("zh", "good")]
    assert list(table.advice) == ["use", "no clear effect", "avoid"] and abs(table.effect[0].mean - 1) < .1
    raw = [e.p for e in table.effect]
    assert all(h >= p for h, p in zip(table.p, raw)) and abs(table.p.min() - 3 * min(raw)) < 1e-12
    weak = {f"t{i}": results(copies=np.zeros(20), a=rng.normal(.5 if i == 0 else 0, 1, 20)) for i in range(30)}
    assert (strategies(weak).advice == "no clear effect").sum() >= 29            # corrected for thirty looks
    with pytest.raises(ValueError, match="nothing to compare"):
        strategies({"en": results(copies=base)})
    with pytest.raises(KeyError, match="no arm 'copies'"):
        strategies({"en": results(good=base)})
    assert P.NONE == "no augmentation"
