"""Mixture search: the law is recovered, held-out fit is honest, the search finds a planted optimum and reports its optimism, faults."""
import numpy as np
import pytest

from diversity_kit.study.mixture_search import MixingLaw, draw_mixtures, fit_law, held_out_r2, search

TRUTH = MixingLaw("exponential", np.array([2., 3.]), np.array([[-1.5, .3, .1], [.2, -2., .4]]))
R = draw_mixtures(3, 40, seed=1)


def test_an_exact_law_is_recovered_and_a_line_is_not_enough():
    y = TRUTH.predict(R)
    law = fit_law(R, y)
    fresh = draw_mixtures(3, 200, seed=2)
    assert np.allclose(law.predict(fresh), TRUTH.predict(fresh), atol=1e-4) and np.allclose(law.c, TRUTH.c, atol=.02)
    assert held_out_r2(R, y).min() > .999 and held_out_r2(R, y, "linear").max() < .995
    line = MixingLaw("linear", np.zeros(1), np.array([[1., 2., 4.]]))
    assert np.allclose(fit_law(R, line.predict(R), "linear").t, line.t) and held_out_r2(R, line.predict(R), "linear")[0] == pytest.approx(1)


def test_held_out_fit_of_noise_is_not_above_zero():
    noise = np.random.default_rng(0).normal(5, 1, (40, 3))
    assert held_out_r2(R, noise, "linear").mean() < .05 and held_out_r2(R, noise).mean() < .05


def test_best_is_a_mixture_and_no_grid_point_beats_it():
    best = TRUTH.best()
    grid = draw_mixtures(3, 50_000, seed=3)
    assert best.sum() == pytest.approx(1) and (best >= 0).all() and TRUTH.predict(best)[0].mean() <= TRUTH.predict(grid).mean(1).min() + 1e-6
    only = TRUTH.best([0, 1])                                        # the second domain alone: all of its own source
    assert only[1] > .99


def test_search_finds_a_planted_optimum_and_reports_what_it_measured():
    calls = []

    def run(shares, seed, final):
        calls.append((dict(shares), seed, final))
        noise = np.random.default_rng([seed, int(final)]).normal(0, .003, 2)
        return dict(zip(("p", "q"), TRUTH.predict(list(shares.values()))[0] + noise))
    found = search(("x", "y", "z"), run, 32, seed=4)
    assert len(calls) == 34 and [c[2] for c in calls] == [False] * 32 + [True] * 2 and calls[-1][1] == calls[-2][1]
    assert sum(found.best.values()) == pytest.approx(1) and found.best["z"] < .15 and found.gain > 0
    assert found.optimism == pytest.approx(found.actual - found.predicted) and abs(found.optimism) < .02
    assert found.stratified == pytest.approx(TRUTH.predict([1 / 3] * 3)[0].mean(), abs=.01) and set(found.r2) == {"p", "q"} and min(found.r2.values()) > .95
    assert len(found.to_pandas()) == 32 and "optimism" in str(found)
    again = search(("x", "y", "z"), run, 32, seed=4)
    assert again.best == found.best


def test_a_law_that_is_wrong_in_the_middle_is_told_from_the_choice_of_its_minimum():
    "Losses follow the law but for a bump at even mixtures of the last runs: the error is there without any choosing, so it is bias and no curse."
    def run(shares, seed, final):
        loss = TRUTH.predict(list(shares.values()))[0]
        return dict(zip(("p", "q"), loss + .5 * final))
    found = search(("x", "y", "z"), run, 32, seed=1)
    assert found.optimism == pytest.approx(.5, abs=1e-3) and found.bias == pytest.approx(.5, abs=1e-3) and abs(found.curse) < 1e-3
    assert found.bias == found.stratified - found.predicted_stratified and "+0.5000 also at the" in str(found).replace("+0.4999", "+0.5000").replace("+0.5001", "+0.5000")


def test_choosing_the_minimum_of_noise_is_a_curse_and_no_bias():
    noise = lambda shares, seed, final: {"p": float(3 + np.random.default_rng([seed, int(final)]).normal(0, .3))}
    found = [search(("x", "y", "z"), noise, 12, seed=s, kind="linear") for s in range(40)]
    assert np.mean([f.curse for f in found]) > .15 and abs(np.mean([f.bias for f in found])) < .15


def test_draws_are_shares_and_depend_on_the_seed():
    assert np.allclose(R.sum(1), 1) and (R >= 0).all() and not np.array_equal(R, draw_mixtures(3, 40, seed=2))
    for bad in ((0, 3), (3, 0), (3, 3, 0, 0.)):
        with pytest.raises(ValueError):
            draw_mixtures(*bad)


@pytest.mark.parametrize("r, y, match", [(R * 2, R, "shares"), (-R + 2 / 3, R, "shares"), (R[:4], R[:4], "5 runs at least"), (R, R[:9], "same R"), (R, R * np.nan, "finite")])
def test_faults(r, y, match):
    with pytest.raises(ValueError, match=match):
        fit_law(r, y)


def test_more_faults():
    with pytest.raises(ValueError, match="'exponential' or 'linear'"):
        fit_law(R, R, "cubic")
    with pytest.raises(ValueError, match="two or more"):
        search(("a", "a"), lambda *a: {}, 8)
    with pytest.raises(ValueError, match="same domains"):
        search(("a", "b"), lambda s, k, f: {"p": 1.} if k % 2 else {"q": 1.}, 8)


@pytest.mark.parametrize("folds", [0, 1, -2, 2.5, True])
def test_folds_that_are_none(folds):
    with pytest.raises(ValueError, match="at least 2 parts"):
        held_out_r2(R, R[:, 0], folds=folds)


def test_a_domain_that_does_not_vary_has_no_r2():
    got = held_out_r2(R, np.c_[np.full(len(R), .1), 3 - R[:, 0]], "linear")
    assert np.isnan(got[0]) and abs(got[1] - 1) < 1e-9


@pytest.mark.parametrize("weights", [[0, 0], [1, -1], [1, np.nan], [1]])
def test_weights_of_domains(weights):
    law = fit_law(R, np.c_[3 - R[:, 0], 3 - R[:, 1]], "linear")
    assert law.best([1, 0])[0] > .9 and law.best([0, 2])[1] > .9
    with pytest.raises(ValueError, match="one for each domain"):
        law.best(weights)
