"""The recommendation case: logs with faults, splits, the guard, full-ranking metrics (golden values of ranx), models, fusion, re-ranking; without network."""
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diversity_kit.augment.words import EDA
from diversity_kit.cases import recommendation as case

C = case.Catalogue(("a", "b", "c", "d"), ("red fox", "red dog", "", "blue sky"), np.eye(4, dtype=np.float32), ("w", "x", "y", "z"))
BASE = {"data": "toy_ratings", "encoder": "words", "cold": .15, "share": .5, "copies": 1, "text_steps": 25, "text_batch": 32, "sas_steps": 6, "sas_dim": 16, "sas_length": 8, "sas_batch": 8}


@pytest.fixture(scope="module")
def log():
    return case.ratings("toy_ratings")


@pytest.fixture(scope="module")
def task(log):
    return case.make_task(log, "test", cold_share=.15)


# ------------------------------------------------------------------------------------------------------------ the log and its faults

def make(user, item, rating=None, time=None, **kw):
    return case.action_log(user, item, rating or [3] * len(user), time or list(range(len(user))), C, **kw)


def test_the_order_of_the_rows_does_not_matter():
    rng = np.random.default_rng(0)
    u, i, r, t = rng.integers(0, 5, 60), rng.integers(0, 4, 60), rng.integers(1, 6, 60), rng.integers(0, 9, 60)       # many equal seconds, many repeats
    keep = np.unique(np.stack([u, i, t]), axis=1, return_index=True)[1]                                            # same user, item and second: the ratings would differ
    u, i, r, t = u[keep], i[keep], r[keep], t[keep]
    a, p = case.action_log(u, i, r, t, C), rng.permutation(len(u))
    b = case.action_log(u[p], i[p], r[p], t[p], C)
    for name in ("user", "item", "rating", "time"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    assert (np.diff(a.time) >= 0).all() and a.dropped == len(u) - len(a) > 0


def test_of_a_repeated_action_the_earliest_stays():
    log = make([0, 0, 0], [1, 1, 2], [5, 2, 3], [9, 4, 6])
    assert log.item.tolist() == [1, 2] and log.rating.tolist() == [2, 3] and log.dropped == 1


@pytest.mark.parametrize("change, message", [({"rating": [3, 6]}, "row 1 has rating 6.0, allowed is 1 to 5"), ({"rating": [math.nan, 3]}, "row 0 has rating nan"), ({"time": [1, math.nan]}, "row 1 has time nan"),
                                             ({"item": [0, 4]}, "row 1 has item number 4, allowed is 0 to 3"), ({"user": [0, -1]}, "row 1 has user number -1"), ({"time": [1]}, "equally long"),
                                             ({"item": [1.7, 0]}, "row 0 has item number 1.7, allowed is a whole number"), ({"user": [1, 0.9]}, "row 1 has user number 0.9, allowed is a whole"), ({"user": [math.nan, 1]}, "row 0 has user number nan"),
                                             ({"user": ["u1", "u2"]}, "user holds 'u1'.*number every user 0, 1, 2"), ({"item": np.array([1, "b"], object)}, "item holds 'b'.*factorize"), ({"item": ["1", "2"]}, "item holds '1'"),
                                             ({"rating": [None, 3]}, "rating holds None|row 0 has rating nan"), ({"rating": ["five", 3]}, "rating holds 'five', which is no number$"), ({"time": [1, math.inf]}, "row 1 has time inf, allowed is any finite number")])
def test_faults_name_the_row(change, message):
    with pytest.raises(ValueError, match=message):
        case.action_log(**({"user": [0, 1], "item": [0, 1], "rating": [3, 3], "time": [1, 2]} | change), catalogue=C)


def test_whole_numbers_may_be_floats():
    log = make(np.array([1.0, 0.0]), np.array([2.0, 3.0]))
    assert log.user.tolist() == [1, 0] and log.item.tolist() == [2, 3] and log.item.dtype == np.int64


def test_another_scale_and_an_empty_log():
    assert make([0], [0], [9], scale=(0, 10)).rating.tolist() == [9]
    assert len(make([], [])) == 0
    with pytest.raises(ValueError, match="no action"):
        case.fit_recommender(make([], []))


def test_an_unknown_data_set():
    with pytest.raises(ValueError, match="unknown ratings 'netflix'"):
        case.ratings("netflix")


def test_titles_that_are_none():
    assert case.item_text("unkonwn", "", ["Drama"]) == "" and case.item_text("Heat", "1995", ["Crime", "Action"]) == "Heat (1995). Crime, Action"


# ------------------------------------------------------------------------------------------------------------ splits and the guard

def test_time_split_is_in_order_and_complete(log):
    parts = case.time_split(log)
    assert parts["train"].time.max() < parts["validation"].time.min() and parts["validation"].time.max() < parts["test"].time.min()
    assert sum(map(len, parts.values())) == len(log)
    with pytest.raises(ValueError, match="sum below 1"):
        case.cut_times(log, (.6, .4))


def test_an_equal_second_is_never_divided():
    log = make([0, 1, 2, 3, 0, 1], [0, 0, 0, 0, 1, 1], time=[1, 5, 5, 5, 5, 9])
    assert [len(p) for p in case.time_split(log, (.5, .4)).values()] == [1, 4, 1]
    with pytest.raises(ValueError, match="leave no action in validation: 6 actions in 3 different seconds"):
        case.time_split(log, (.5, .2))                                             # both cuts fall into the same second


def test_a_split_without_one_of_its_parts_is_refused():
    for split in (case.cut_times, case.time_split, case.make_task):
        with pytest.raises(ValueError, match="no action: there is nothing to split"):
            split(make([], []))
        with pytest.raises(ValueError, match="leave no action in train: 4 actions in 1 different"):
            split(make([0, 0, 1, 1], [0, 1, 2, 3], time=[5] * 4))


def test_leave_last_out_with_one_two_and_three_actions():
    parts = case.leave_last_out(make([0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2], time=[1, 1, 2, 3, 3, 4]))
    got = {n: sorted(zip(p.user.tolist(), p.item.tolist())) for n, p in parts.items()}
    assert got == {"train": [(0, 0), (1, 0), (2, 0)], "validation": [(2, 1)], "test": [(1, 1), (2, 2)]}


def test_guard_and_causal_check(log):
    at = case.cut_times(log)[1]
    assert case.guard(log.before(at), at) is not None
    with pytest.raises(case.FutureLeak, match="user"):
        case.guard(log, at)
    with pytest.raises(case.FutureLeak, match="1 of 1 actions"):
        case.guard(make([0], [0], time=[5]), 5)                                    # the moment itself is future
    count = lambda log, at: np.bincount(log.before(at).item, minlength=len(log.catalogue))
    case.assert_causal(count, log, at)
    late = lambda log, at: np.bincount(log.item[log.time <= at], minlength=len(log.catalogue))          # <= in place of <
    first = float(log.time[np.searchsorted(log.time, at)])
    with pytest.raises(case.FutureLeak):
        case.assert_causal(late, log, first)
    with pytest.raises(case.FutureLeak):
        case.assert_causal(lambda log, at: np.array([log.rating.mean()]), log, at)
    with pytest.raises(ValueError, match="nothing would be tested"):
        case.assert_causal(count, log, math.inf)


def _last_time(log, at):
    out = np.zeros(log.users)
    np.maximum.at(out, log.user, log.time)
    return out


NEXT = case.ratings("toy_ratings").item[case.ratings("toy_ratings").time >= case.cut_times(case.ratings("toy_ratings"))[1]][0]
LOOKS = {"each user's last action": _last_time, "how long the log goes on": lambda log, at: log.time.max() - at, "who acts a day later": lambda log, at: np.bincount(log.user[log.time > at + 86400], minlength=log.users) > 0,
         "how many actions follow": lambda log, at: (log.time >= at).sum(), "that any follow": lambda log, at: bool((log.time >= at).any()), "stars to come": lambda log, at: np.array([log.rating[log.time >= at].sum()]),
         "items to come": lambda log, at: np.bincount(log.item[log.time >= at], minlength=len(log.catalogue)), "who comes": lambda log, at: np.unique(log.user[log.time >= at]),
         "the next item, silent without one": lambda log, at: np.array([(log.item[log.time >= at][:1] == NEXT).all()])}


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_at_any_side_of_the_future_is_found(log, name):
    with pytest.raises(case.FutureLeak, match="depends on actions at or after"):
        case.assert_causal(LOOKS[name], log, case.cut_times(log)[1])


def test_another_future_keeps_the_past_and_is_a_log(log):
    at = case.cut_times(log)[1]
    for seed in range(3):
        other = case.other_future(log, at, seed)
        for c in ("user", "item", "rating", "time"):
            assert np.array_equal(getattr(other.before(at), c), getattr(log.before(at), c))
        assert (np.diff(other.time) >= 0).all() and len(np.unique(other.user * len(log.catalogue) + other.item)) == len(other)
        assert 0 < len(other) - len(log.before(at)) <= (log.time >= at).sum() // 2 and set(other.rating) <= set(log.rating)
    one = make([0, 1], [0, 1], [2, 5], [1, 9])
    assert len(case.other_future(one, 5)) == 2


def test_no_task_contains_its_future(log):
    for stage, cut in zip(("validation", "test"), case.cut_times(log)):
        t = case.make_task(log, stage, seed=3, share=.5, cold_share=.2)
        assert t.train.time.max() < cut == t.cut and not t.cold[t.train.item].any()
        for u, history, relevant in zip(t.users, t.queries, t.relevant):
            own = log.where(log.user == u)
            when = dict(zip(own.item.tolist(), own.time.tolist()))
            assert not t.cold[history].any() and not set(history.tolist()) & set(np.flatnonzero(relevant).tolist())
            assert max((when[i] for i in history.tolist()), default=-1) < min(when[i] for i in np.flatnonzero(relevant).tolist())
        known = set(log.before(cut).user.tolist())
        assert all((u in known) != n for u, n in zip(t.users.tolist(), t.new))


def test_tasks_are_paired(log):
    a, b, c = (case.make_task(log, "test", seed=1, share=.5, extra=x, cold_share=.2) for x in (0, .5, 0))
    assert set(a.train.user) < set(b.train.user) and np.array_equal(a.cold, b.cold) and np.array_equal(a.relevant, b.relevant)
    assert np.array_equal(a.train.item, c.train.item) and not np.array_equal(case.make_task(log, "test", seed=2, share=.5, cold_share=.2).cold, a.cold)
    for bad in ({"share": .8, "extra": .5}, {"share": 0}, {"stage": "dev"}, {"cold_share": 1}):
        with pytest.raises(ValueError):
            case.make_task(log, **{"stage": "test", **bad})


def test_equal_seconds_of_a_new_user_stay_together():
    log = make([0, 2, 3, 4] * 4 + [1] * 4, [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [0, 1, 2, 3], time=[*range(16), 50, 51, 51, 52])
    t = case.make_task(log, "test", first=2)
    q = t.users.tolist().index(1)
    assert t.queries[q].tolist() == [0, 1, 2] and np.flatnonzero(t.relevant[q]).tolist() == [3]


# ------------------------------------------------------------------------------------------------------------ metrics

def test_golden_values_of_ranx():
    "ranx 0.3.21 on these scores: python tests/bench/bench_ranking.py --users 6 --items 200 --golden"
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(200, dtype=np.float32), (6, 1)), axis=1)
    relevant = rng.random((6, 200)) < rng.uniform(1, 40, 6)[:, None] / 200
    relevant[np.arange(6), rng.integers(0, 200, 6)] = True
    got = case.accuracy_at(torch.from_numpy(scores), torch.from_numpy(relevant), k=10)
    golden = {"recall": [0.086956521739, 0.0, 0.065217391304, 0.111111111111, 0.055555555556, 0.0], "ndcg": [0.188444152128, 0.0, 0.236807421547, 0.535254316775, 0.063620788199, 0.0],
              "mrr": [0.333333333333, 0.05, 0.25, 1.0, 0.1, 0.052631578947], "hit": [1.0, 0.0, 1.0, 1.0, 1.0, 0.0], "precision": [0.2, 0.0, 0.3, 0.4, 0.1, 0.0]}
    for name, want in golden.items():
        assert np.allclose(got[name].numpy(), want, atol=1e-11), name


def test_a_loop_gives_the_same_with_exclusions_and_ties():
    rng = np.random.default_rng(1)
    s, rel, out = rng.integers(-3, 4, (20, 30)).astype(np.float32), rng.random((20, 30)) < .2, rng.random((20, 30)) < .3
    got, lists = case.accuracy_at(*map(torch.from_numpy, (s, rel, out)), k=5), case.top(torch.from_numpy(s), torch.from_numpy(out), 5)
    for u in range(20):
        order = sorted((i for i in range(30) if not out[u, i]), key=lambda i: (-s[u, i], i))
        r = [i for i in order if rel[u, i]]
        hits = [order[j] in r for j in range(5)]
        assert lists[u].tolist() == order[:5]
        assert math.isclose(got["recall"][u], sum(hits) / len(r)) and math.isclose(got["mrr"][u], 1 / (1 + order.index(r[0])))
        assert math.isclose(got["ndcg"][u], sum(h / math.log2(j + 2) for j, h in enumerate(hits)) / sum(1 / math.log2(j + 2) for j in range(min(5, len(r)))))


def test_minus_zero_infinities_and_extremes_are_ordered():
    s = torch.tensor([[0., -0., -math.inf, math.inf, -1e38, 1e-45, -1e-45]])
    assert case.top(s, k=7)[0].tolist() == [3, 5, 0, 1, 6, 4, 2]


def test_k_beyond_the_catalogue_and_rows_without_candidates():
    s = torch.tensor([[1., 2., 3.], [1., 2., 3.]])
    out = torch.tensor([[False, True, False], [True, True, True]])
    assert case.top(s, out, 5).tolist() == [[2, 0, -1, -1, -1], [-1] * 5]
    got = case.accuracy_at(s, torch.ones(2, 3, dtype=bool), out, k=5)
    assert got["recall"][0] == 1 and got["ndcg"][0] == 1 and got["precision"][0] == .4 and all(math.isnan(v[1]) for v in got.values())
    with pytest.raises(ValueError, match="k must be at least 1"):
        case.top(s, k=0)
    with pytest.raises(ValueError, match="NaN"):
        case.top(torch.tensor([[1., math.nan]]))
    with pytest.raises(ValueError, match="queries, items"):
        case.top(torch.ones(3))


def test_lists_given_are_judged_as_they_stand():
    s, rel = torch.tensor([[.1, .9, .5, .2]]), torch.tensor([[True, False, True, False]])
    own = case.accuracy_at(s, rel, k=2)
    assert all(torch.equal(v, own[k]) for k, v in case.accuracy_at(s, rel, k=2, items=case.top(s, k=2)).items())
    assert case.accuracy_at(s, rel, k=2, items=torch.tensor([[0, -1]]))["precision"].item() == .5
    assert case.accuracy_at(s, rel, k=4, items=torch.tensor([[0, -1, -1, -1]]))["recall"].item() == .5
    with pytest.raises(ValueError, match="list 1 holds item 2 twice"):
        case.accuracy_at(s.repeat(2, 1), rel.repeat(2, 1), k=3, items=torch.tensor([[0, 1, 2], [2, 1, 2]]))


def test_sampled_metrics_full_limit_and_growth():
    g = torch.Generator().manual_seed(0)
    s, rel = torch.rand(30, 200, generator=g), torch.rand(30, 200, generator=g) < .05
    few, many, full = (case.sampled_hit_rate(s, rel, k=5, negatives=n) for n in (20, 100, None))
    assert few > many > full
    size = int((~rel).sum(1).min())
    assert abs(case.sampled_hit_rate(s[:1], rel[:1], k=5, negatives=int((~rel[:1]).sum())) - case.sampled_hit_rate(s[:1], rel[:1], k=5, negatives=None)) < 1e-9
    with pytest.raises(ValueError, match="negatives"):
        case.sampled_hit_rate(s, rel, k=5, negatives=size + 1)
    with pytest.raises(ValueError, match="nothing is relevant"):
        case.sampled_hit_rate(s, torch.zeros_like(rel))


def test_equal_scores_give_sampled_hit_rates_no_help_from_the_numbers(task):
    relevant = torch.zeros(len(task.queries), len(task.cold), dtype=bool)
    relevant[:, :8] = True                                                         # a catalogue that numbers its classics first
    constant, exclude = torch.zeros(relevant.shape), torch.zeros_like(relevant)
    for n, chance in ((None, 10 / 233), (100, 10 / 101)):
        by_number = case.sampled_hit_rate(constant, relevant, exclude, 10, n, ties=None)
        at_random = [case.sampled_hit_rate(constant, relevant, exclude, 10, n, ties=t) for t in range(60)]
        assert by_number == pytest.approx(100) and np.mean(at_random) == pytest.approx(100 * chance, abs=4)
    assert case.sampled_hit_rate(constant, relevant) == case.sampled_hit_rate(constant, relevant, ties=0) < 60
    unique = torch.argsort(torch.rand(constant.shape, generator=torch.Generator().manual_seed(1)), 1).float()
    assert case.sampled_hit_rate(unique, relevant, exclude, ties=None) == pytest.approx(case.sampled_hit_rate(unique, relevant, exclude, ties=5), abs=1e-9)


def test_a_trial_does_not_count_ties_by_number():
    "A model of equal scores on a catalogue whose wanted items come first."
    log = case.ratings("toy_ratings")
    order = np.argsort(-np.bincount(log.item, minlength=len(log.catalogue)), kind="stable")
    place = np.argsort(order)
    classics = case.Log(log.user, place[log.item], log.rating, log.time, log.users, case.Catalogue(*(tuple(np.array(x)[order]) for x in (log.catalogue.titles, log.catalogue.texts)), log.catalogue.tags[order], log.catalogue.tag_names))
    t = case.make_task(classics, "test")
    constant = torch.zeros(len(t.queries), len(t.cold))
    relevant, seen = torch.from_numpy(t.relevant), t.history.bool()
    assert case.judge(t, constant)["hit_full"] == case.sampled_hit_rate(constant, relevant, seen, 10, None, ties=0) < 0.8 * case.sampled_hit_rate(constant, relevant, seen, 10, None, ties=None)


def test_flipped_pairs():
    assert case.flipped([1, 2, 3], [10, 20, 30]) == 0 and case.flipped([1, 2, 3], [3, 2, 1]) == 100
    assert case.flipped([1, 2, 3], [2, 1, 3]) == pytest.approx(100 / 3) and case.flipped([1, 2], [5, 5]) == 50
    for bad in (([1], [1]), ([1, 2], [1, 2, 3])):
        with pytest.raises(ValueError, match="two or more models"):
            case.flipped(*bad)


def test_gini_and_exposure():
    assert case.gini([5, 5, 5, 5]) == pytest.approx(0) and case.gini([0, 0, 0, 8]) == pytest.approx(.75) and math.isnan(case.gini([0, 0]))
    x = np.array([3., 1., 4., 1., 5.])
    assert case.gini(x) == pytest.approx(np.abs(x[:, None] - x).sum() / (2 * len(x) ** 2 * x.mean()))
    assert case.exposure(np.array([[0, 1], [1, -1]]), 4) == {"coverage": .5, "gini": pytest.approx(case.gini([1, 2, 0, 0]))}


def test_list_measures_at_their_limits():
    v = torch.eye(4)
    same, history = torch.tensor([[0, 0, 0]]), torch.tensor([[1., 0, 0, 0]])
    got = case.beyond_accuracy(same, history, v, v, torch.tensor([7., 3, 1, 0]))
    assert got["diversity"].item() == pytest.approx(0) and got["novelty"].item() == 0 and got["calibration"].item() == pytest.approx(0, abs=1e-6)
    far = case.beyond_accuracy(torch.tensor([[1, 2, 3]]), history, v, v, torch.tensor([7., 3, 1, 0]))
    assert far["diversity"].item() == pytest.approx(1) and far["novelty"].item() == pytest.approx((1 + 2 + 3) / 3) and far["calibration"].item() == pytest.approx(math.log(100), rel=1e-4)
    short = case.beyond_accuracy(torch.tensor([[1, -1, -1]]), history, v, v, torch.tensor([7., 3, 1, 0]))
    assert short["diversity"].item() == 0 and short["novelty"].item() == 1
    none = case.calibration(torch.zeros(1, 4), torch.tensor([[0, 1, 2, 3]]), v)
    assert none.item() == pytest.approx(0, abs=1e-6)


def test_ties_by_number_are_not_neutral(task):
    constant = torch.zeros(len(task.queries), len(task.cold))
    v = case.tag_vectors(task.train.catalogue)
    first = case.evaluate(task, constant, v, ties=None)
    assert len(np.unique(first.items)) < len(np.unique(case.evaluate(task, constant, v, ties=1).items)) + 400
    unique = torch.argsort(torch.rand(constant.shape, generator=torch.Generator().manual_seed(1)), 1).float()
    a, b = (case.evaluate(task, unique, v, ties=t) for t in (None, 3))
    assert np.array_equal(a.items, b.items) and np.allclose(a.per_user["ndcg"], b.per_user["ndcg"], equal_nan=True)


def test_evaluation_intervals(task):
    e = case.evaluate(task, case.popularity(task), case.tag_vectors(task.train.catalogue))
    for metric in ("ndcg", "coverage", "gini"):
        i = e.interval(metric, n_boot=200)
        assert i.low <= e.mean(metric) <= i.high and i.low < i.high
    assert set(e.to_pandas().index) == {*e.per_user, *e.totals}
    rows = np.arange(len(task.queries)) < 5
    part = case.evaluate(task, case.popularity(task), case.tag_vectors(task.train.catalogue), rows=rows)
    assert np.allclose(part.per_user["ndcg"], e.per_user["ndcg"][:5], equal_nan=True) and np.array_equal(part.items, e.items[:5])


def test_cold_evaluation_shows_cold_items_only(task):
    e = case.evaluate(task, case.popularity(task), case.tag_vectors(task.train.catalogue), cold=True)
    assert task.cold[e.items].all() and not task.cold[case.evaluate(task, case.popularity(task), case.tag_vectors(task.train.catalogue)).items].any()


# ------------------------------------------------------------------------------------------------------------ models

def test_ease_is_one_constrained_ridge_per_item(task):
    x, j = task.x.double(), 11
    others = [i for i in range(x.shape[1]) if i != j]
    w = torch.linalg.solve(x[:, others].T @ x[:, others] + 50 * torch.eye(len(others), dtype=x.dtype), x[:, others].T @ x[:, j])
    assert torch.allclose(case.ease(task, 50.)[:, j].double(), task.history.double()[:, others] @ w, atol=1e-4)
    with pytest.raises(ValueError, match="l2 must be positive"):
        case.ease(task, 0)


def test_als_lowers_its_objective_and_solves_its_side():
    g = torch.Generator().manual_seed(0)
    x, q = (torch.rand(9, 14, generator=g) < .3).float(), torch.randn(14, 3, generator=g)
    p, alpha, l2 = case._solve_side(x, q, 2., 4.), 4., 2.
    weight = 1 + alpha * x[0]
    want = torch.linalg.solve((q * weight[:, None]).T @ q + l2 * torch.eye(3), q.T @ (weight * x[0]))
    assert torch.allclose(p[0], want, atol=1e-4)


def test_item_knn_by_hand():
    log = make([0, 0, 1, 1, 2], [0, 1, 0, 1, 2])
    t = case.Task(log, (np.array([0]),), np.zeros((1, 4), bool), np.zeros(1, bool), np.zeros(1, int), np.zeros(4, bool), 99)
    assert case.item_knn(t, neighbours=2, shrink=0)[0].tolist() == pytest.approx([0, 1, 0, 0])
    assert case.item_knn(t, neighbours=2, shrink=2)[0, 1].item() == pytest.approx(2 / 4)


def test_recent_popularity_looks_back_only():
    log = make([0, 1, 2], [0, 1, 1], time=[0, 86400 * 5, 86400 * 9])
    t = case.Task(log, (np.array([0]),), np.zeros((1, 4), bool), np.zeros(1, bool), np.zeros(1, int), np.zeros(4, bool), 86400. * 10)
    assert case.recent_popularity(t, 3)[0].tolist() == [0, 1, 0, 0]
    with pytest.raises(case.FutureLeak):
        case.recent_popularity(case.Task(log, t.queries, t.relevant, t.new, t.users, t.cold, 86400. * 7))


def test_windows_predict_every_action_once():
    for n in (1, 2, 5, 6, 11, 12, 13):
        w = case.windows([np.arange(n)], 5)
        targets = [int(v) for row in w for v in row[row >= 0][1:]]
        assert sorted(targets) == list(range(1, n))
    assert case.windows([np.array([3])], 5).shape == (0, 6)


@pytest.mark.parametrize("name", case.SEQUENCE_EDITS)
def test_sequence_edits_keep_their_promises(name):
    rng = np.random.default_rng(0)
    for n in (2, 3, 9, 40):
        for _ in range(20):
            row = rng.permutation(50)[:n]
            before = row.copy()
            x, y = case.SEQUENCE_EDITS[name](row, rng, .4, 99)
            assert np.array_equal(row, before) and len(x) == len(y) >= 1
            if name == "crop":
                assert "," + ",".join(map(str, [*x, y[-1]])) + "," in "," + ",".join(map(str, row)) + "," and np.array_equal(x[1:], y[:-1])
            if name == "mask":
                assert np.array_equal(y, row[1:]) and all(a == b or a == 99 for a, b in zip(x, row[:-1]))
            if name == "reorder":
                assert sorted([*x, y[-1]]) == sorted(row) and np.array_equal(x[1:], y[:-1])


def test_sequence_rows_count_pad_and_complain():
    s = [np.arange(9), np.array([1]), np.array([4, 5])]
    plain, copied, edited = (case.sequence_rows(s, 5, 20, c, e) for c, e in ((0, ()), (2, ()), (2, tuple(case.SEQUENCE_EDITS))))
    assert len(copied[0]) == len(edited[0]) == 3 * len(plain[0])
    assert all(np.array_equal(copied[k][::3], plain[k]) and np.array_equal(copied[k][1::3], plain[k]) and np.array_equal(edited[k][::3], plain[k]) for k in (0, 1))
    assert not np.array_equal(edited[0], copied[0]) and np.array_equal(edited[0], case.sequence_rows(s, 5, 20, 2, tuple(case.SEQUENCE_EDITS))[0])
    for bad, message in (({"edits": ("swap",)}, "unknown edit swap"), ({"edits": ("crop",), "rate": 1}, "rate must lie")):
        with pytest.raises(ValueError, match=message):
            case.sequence_rows(s, 5, 20, 1, **bad)


def test_sasrec_does_not_see_ahead_and_serves_an_empty_history():
    torch.manual_seed(0)
    model = case.SASRec(30, 16, 8).eval()
    a = torch.arange(8)[None]
    b = a.clone()
    b[0, 5:] = 29
    assert torch.allclose(model(a)[0, :5], model(b)[0, :5], atol=1e-5) and not torch.allclose(model(a)[0, 5:], model(b)[0, 5:], atol=1e-3)
    s = model.score([np.array([], int), np.arange(3), np.arange(25)])
    assert s.shape == (3, 30) and torch.isfinite(s).all()
    assert torch.allclose(s[1], model(torch.arange(3)[None])[0, 2], atol=1e-5)
    with pytest.raises(ValueError, match="nothing to train on"):
        case.fit_sasrec(*case.sequence_rows([np.array([1])], 5, 30), 30, 2)


def test_sasrec_learns_a_chain():
    rows = case.sequence_rows([np.arange(k, k + 10) % 12 for k in range(12)], 9, 12)
    model = case.fit_sasrec(*rows, 12, 120, lr=1e-2, dim=16, batch=12)
    assert (model.score([np.array([k, (k + 1) % 12]) for k in range(12)]).argmax(1) == torch.tensor([(k + 2) % 12 for k in range(12)])).float().mean() > .8


def test_items_without_text_are_neutral():
    v = case.text_vectors(["red fox", "", "blue sky", "  "], "words")
    assert np.linalg.norm(v, axis=1) == pytest.approx([1, 0, 1, 0], abs=1e-5)
    model = case.TextTower(v.shape[1], 4)
    scores = case.tower_scores(model, [np.array([0]), np.array([], int)], torch.from_numpy(v))
    assert scores[0, 1] == 0 and (scores[1] == 0).all()


def test_chinese_titles_are_read_by_character():
    v = case.text_vectors(["太空行星", "太空火箭", "爱情婚礼"], "words")
    assert v[0] @ v[1] > v[0] @ v[2]
    assert EDA(.3, case._toy_words())(["太空 行星"], seed=1, ids=[0]) and "太空" in case.ratings("toy_ratings_zh").catalogue.titles[0] + "太空"


def test_the_tower_never_trains_on_a_closed_item_and_reads_variants():
    rng = np.random.default_rng(0)
    v = torch.from_numpy(rng.normal(size=(2, 20, 6)).astype(np.float32))
    with pytest.raises(ValueError, match="nothing to train on"):
        case.fit_tower([np.array([1])], v, torch.ones(20, dtype=bool), 2)
    a, b = (case.fit_tower([rng.permutation(20)[:6]] * 4, x, torch.ones(20, dtype=bool), 5, batch=4) for x in (v, v[:1]))
    assert not torch.allclose(a.item.weight, b.item.weight)


def test_prefixes_never_hold_their_label():
    rows, lengths = case.padded([np.arange(30), np.array([40, 41]), np.array([7])])
    assert rows.shape == (2, 30) and lengths.tolist() == [30, 2]
    for d in (0., .3, .999999):
        items, real, label = case._prefixes(rows, lengths, torch.tensor([d, d]))
        assert label[1] == 41 and items[1][real[1]].tolist() == [40]
        assert items[0][real[0]].tolist() == list(range(label[0] - 1, max(-1, label[0].item() - 1 - case.RECENT), -1))


def test_finetuning_moves_scores_without_network(log):
    t = case.task_of(BASE, "test", 0)
    config = {**BASE, "model": "finetuned", "encoder": "random", "steps": 2, "batch": 4}
    got = {a: case.trial({**config, "arm": a}, 0) for a in ("copies", "augmented")}
    assert got["copies"] != got["augmented"] and all(math.isfinite(v) for v in got["copies"].values())
    assert case.history_text([0, 1, 2, 3], ("a", "b", "", "d")) == "d; b; a" and len(t.queries)


def test_reranker_recovers_its_weights():
    g = torch.Generator().manual_seed(0)
    f = torch.randn(400, 60, 3, generator=g)
    true = torch.tensor([2., 0., -1.])
    choice = torch.multinomial((f @ true).softmax(1), 1, generator=g)
    relevant = torch.zeros(400, 60, dtype=bool).scatter(1, choice, True)
    w = case.fit_reranker(f, relevant, torch.zeros_like(relevant), l2=0.)
    assert torch.allclose(w, true, atol=.25)
    with pytest.raises(ValueError, match="no query has a relevant candidate"):
        case.fit_reranker(f, torch.zeros_like(relevant), torch.zeros_like(relevant))


def test_standardised_is_over_candidates():
    s, out = torch.tensor([[1., 2., 3., 100.], [5., 5., 5., 5.]]), torch.tensor([[False, False, False, True]] * 2)
    z = case.standardised(s, out)
    assert z[0, :3].mean().item() == pytest.approx(0, abs=1e-6) and z[0, :3].square().mean().item() == pytest.approx(1) and (z[1] == 0).all()


@pytest.mark.parametrize("f", [case.mmr, case.dpp])
def test_diversifiers(f):
    g = torch.Generator().manual_seed(2)
    v = F.normalize(torch.rand(40, 6, generator=g).square(), dim=1)                 # like tags: no negative cosine
    s, out = torch.rand(7, 40, generator=g), torch.rand(7, 40, generator=g) < .2
    plain, spread = (f(s, v @ v.T, out, 5, t, pool=20) for t in (0., .8))
    assert torch.equal(plain, case.top(s, out, 5))
    ild = lambda items: case.beyond_accuracy(items, torch.ones(7, 40), v, v.abs(), torch.ones(40))["diversity"].mean().item()
    assert ild(spread) > ild(plain) and not out.gather(1, spread).any() and all(len(set(r)) == 5 for r in spread.tolist())
    left = torch.ones(1, 40, dtype=bool)
    left[0, :2] = False
    assert sorted(f(s[:1], v @ v.T, left, 4, .5)[0].tolist()) == [-1, -1, 0, 1]
    with pytest.raises(ValueError, match="trade must lie"):
        f(s, v @ v.T, trade=1.5)


def test_dpp_gains_are_ratios_of_determinants():
    g = torch.Generator().manual_seed(3)
    v = F.normalize(torch.randn(12, 5, generator=g), dim=1)
    S, s, theta = v @ v.T, torch.rand(1, 12, generator=g), .4
    r, K, chosen = (s[0] - s.min()) / (s.max() - s.min()), (1 - 1e-4) * S + 1e-4 * torch.eye(12), []
    for _ in range(4):
        det = lambda rows: torch.linalg.det(K[rows][:, rows].double()).item() if rows else 1.
        value = {i: (1 - theta) * r[i].item() + theta * math.log(det([*chosen, i]) / det(chosen)) for i in range(12) if i not in chosen}
        chosen.append(max(value, key=value.get))
    assert case.dpp(s, S, k=4, trade=theta)[0].tolist() == chosen


def test_ridge_rows_and_star_models():
    rng = np.random.default_rng(0)
    known, fixed, y = rng.random((5, 9)) < .6, rng.normal(size=(9, 3)), rng.normal(size=(5, 9))
    m = known[2]
    assert np.allclose(case._row_ridge(known.astype(float), fixed, y, 2.)[2], np.linalg.solve(fixed[m].T @ fixed[m] + 2 * np.eye(3), fixed[m].T @ y[2, m]))
    known = rng.random((30, 20)) < .5
    known[:, 0] = False
    content = rng.normal(size=(20, 2))
    stars = np.clip(3 + content @ [1., -.5] + rng.normal(0, .1, (30, 20)), 1, 5)
    got = case.rating_models(known, np.where(known, stars, 0), content)
    rmse = {k: np.sqrt(np.mean((v[:, 0] - stars[:, 0]) ** 2)) for k, v in got.items()}
    assert rmse["content"] < rmse["mf"] and np.allclose(got["mf"][:, 0], got["bias"][:, 0])
    mean = stars[known].mean()
    deviation = (known * (stars - mean)).sum(1) / (known.sum(1) + 5)
    assert got["user"].shape == stars.shape and np.allclose(got["user"], np.clip(mean + deviation, 1, 5)[:, None]) and not np.allclose(got["user"][:, 0], got["bias"][:, 0])       # two fallbacks, not one
    with pytest.raises(ValueError, match="no test rating of a cold item"):
        case.stars_trial({"data": "toy_ratings", "encoder": "words", "cold": 0}, 0)


# ------------------------------------------------------------------------------------------------------------ trials and use

def test_the_simulator_and_its_oracle():
    world = case.simulate(users=60, items=80, actions=12)
    t = case.make_task(world.log, "test", first=4)
    v = case.tag_vectors(world.log.catalogue)
    ndcg = lambda s: case.evaluate(t, s, v).mean("ndcg")
    assert ndcg(torch.from_numpy(world.truth[t.users]).float()) > ndcg(case.popularity(t)) > ndcg(torch.zeros(len(t.queries), 80))
    assert np.array_equal(world.log.item, case.simulate(users=60, items=80, actions=12).log.item)
    for bad in ({"language": "fr"}, {"items": 10, "actions": 10}):
        with pytest.raises(ValueError):
            case.simulate(**bad)


def test_text_ranks_cold_items_and_shuffling_takes_it_away():
    got = {m: np.mean([case.trial({**BASE, "model": m, "text_steps": 60}, s)["cold_ndcg"] for s in range(3)]) for m in ("text", "text_shuffled", "ease")}
    assert got["text"] > 1.3 * got["text_shuffled"] and got["text"] > 1.3 * got["ease"]


@pytest.mark.parametrize("model", ["sasrec", "text"])
def test_arms_differ_and_repeat(model):
    got = {a: case.trial({**BASE, "model": model, "arm": a, "extra": .5}, 1) for a in ("base", "copies", "augmented", "more_real")}
    assert len({v["ndcg"] for v in got.values()}) >= 3
    case._scores.cache_clear()
    assert case.trial({**BASE, "model": model, "arm": "augmented", "extra": .5}, 1) == got["augmented"]


def test_fusion_learns_on_validation_only(monkeypatch):
    seen = []
    fit = case.fit_reranker
    monkeypatch.setattr(case, "fit_reranker", lambda f, *a, **k: seen.append(len(f)) or fit(f, *a, **k))
    case._scores.cache_clear()
    case.trial({**BASE, "model": "fused", "tuned": {}}, 0)
    assert seen == [len(case.task_of(BASE, "validation", 0).queries)] != [len(case.task_of(BASE, "test", 0).queries)]
    case._scores.cache_clear()


def test_unknown_models_and_methods(task):
    with pytest.raises(ValueError, match="unknown model 'bert4rec'"):
        case.trial({**BASE, "model": "bert4rec"}, 0)
    with pytest.raises(ValueError, match="mmr or dpp"):
        case.reranked_lists(task, case.popularity(task), "xquad")


def test_tuning_takes_the_best_and_never_the_test_stage(monkeypatch):
    stages = []
    inner = case.scores_of
    monkeypatch.setattr(case, "scores_of", lambda c, stage="test", seed=0: stages.append(stage) or inner(c, stage, seed))
    best, got = case.tune({**BASE, "model": "ease"}, [{"l2": 10.}, {"l2": 300.}])
    assert set(stages) == {"validation"} and got[f'{{"l2": {best["l2"]}}}'] == max(got.values())


def test_deciles_add_up(task):
    items = case.top(case.popularity(task), task.history.bool() | torch.from_numpy(task.cold)).numpy()
    got = case.by_popularity(task, items)
    assert got["actions"].sum() == pytest.approx(1)
    relevant = task.relevant & ~task.cold & ~(task.history.numpy() > 0)
    hits = sum(relevant[q, i] for q, row in enumerate(items) for i in row)
    assert np.nansum(got["found"] * got["actions"]) * relevant.sum() == pytest.approx(hits)


def test_recommender_in_use(log):
    model = case.fit_recommender(log)
    got = model.recommend([3, 5], k=4)
    assert len(got) == 4 and not {3, 5} & set(got["item"]) and got["score"].is_monotonic_decreasing
    assert model.recommend([], 1)["item"][0] == np.bincount(log.item).argmax()
    assert len(model.recommend([0], k=10_000)) == len(log.catalogue) - 1
    for bad in ([-1], [len(log.catalogue)], ["Heat"]):
        with pytest.raises(ValueError, match="unknown item"):
            model.recommend(bad)


def test_items_without_training_actions_fall_back_to_popularity():
    "Five items; 0 and 4 are never acted on. Their numbers must not decide what is shown."
    c = case.Catalogue(tuple("abcde"), tuple("abcde"), np.eye(5, dtype=np.float32), tuple("vwxyz"))
    model = case.fit_recommender(case.action_log([0, 0, 1, 1, 2, 2, 3], [1, 3, 1, 3, 3, 2, 3], [3] * 7, range(7), c), 1.)
    popular = model.recommend([], k=3)
    assert popular["item"].tolist() == [3, 1, 2] and model.recommend([4], k=3).equals(popular) and model.recommend([0, 4], k=3).equals(popular)
    assert model.recommend([4, 3], k=3)["score"].tolist() != popular["score"].tolist()          # one known item is enough for the model
    flat = case.Recommender(torch.zeros(5, 5), torch.tensor([1., 2, 5, 3, 4]), c)
    assert flat.recommend([0], k=4)["item"].tolist() == [2, 4, 3, 1]                            # equal scores: the more popular first


def test_known_actions_of_new_users():
    got = case.cold_user_trial({**{k: v for k, v in BASE.items() if k != "cold"}, "model": "ease", "known": [1, 10]}, 0)
    assert set(got) == {"h1", "h10"} and got["h10"] > got["h1"]
    users = case.cold_user_values({**{k: v for k, v in BASE.items() if k != "cold"}, "model": "ease", "known": [1, 10]}, 0)
    assert {h: 100 * np.nanmean(v) for h, v in users.items()} == pytest.approx(got) and len(users["h1"]) == case.task_of({k: v for k, v in BASE.items() if k != "cold"}, "test", 0).new.sum()


def test_titles_say_how_diverse_lists_are_without_the_tags():
    config = {**BASE, "model": "ease", "params": {"l2": 50.}, "titles": "words"}
    plain, spread = case.trial(config, 0), case.trial({**config, "rerank": {"method": "mmr", "trade": .5}}, 0)
    task = case.task_of(BASE, "test", 0)
    items = case.reranked_lists(task, case.scores_of({**BASE, "model": "ease", "params": {"l2": 50.}, "extra": 0.0}, "test", 0), "mmr", .5)
    v = case.title_vectors("toy_ratings", "words")
    cos = [np.mean([v[a] @ v[b] for k, a in enumerate(row) for b in row[:k]]) for row in items.tolist()]
    assert spread["diversity_titles"] == pytest.approx(1 - np.mean(cos), abs=1e-5) and spread["diversity_titles"] != plain["diversity_titles"]
    assert "diversity_titles" not in case.trial({k: v for k, v in config.items() if k != "titles"}, 0)
