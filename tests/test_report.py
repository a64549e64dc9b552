"""cases.report: temperature, calibration error, the ladder's models, the error browser."""
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from diversity_kit.cases import report
from diversity_kit.cases.sentiment import Rows

RNG = np.random.default_rng(0)
Z = RNG.normal(0, 2, 4000)
Y = (RNG.random(4000) < 1 / (1 + np.exp(-Z))).astype(int)


def config(model="tfidf", arm="base", **more):
    return {"data": "toy_sentiment/toy_a", "model": model, "arm": arm, "n": 100, "copies": 1, "epochs": 2, "limit": 200, "encoder": "random", **more}


def test_sigmoid_and_log_loss_agree_with_torch():
    z = np.array([-800.0, -3, 0, 2, 800])
    assert np.allclose(report.sigmoid(z), torch.sigmoid(torch.tensor(z)).numpy())
    want = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(Z), torch.tensor(Y, dtype=torch.float64)).item()
    assert report.log_loss(Z, Y) == pytest.approx(want, abs=1e-12)


@given(st.floats(0.2, 5), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_temperature_undoes_a_scale(scale, seed):
    "Log-odds multiplied by a number need a temperature multiplied by it."
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, 400)
    y = (rng.random(400) < report.sigmoid(z)).astype(int)
    assert report.temperature(scale * z, y) == pytest.approx(scale * report.temperature(z, y), rel=1e-6)


def test_temperature_is_the_minimum():
    T = report.temperature(3 * Z, Y)
    losses = [report.log_loss(3 * Z / t, Y) for t in (0.99 * T, T, 1.01 * T)]
    assert min(losses) == losses[1] and T == pytest.approx(3, rel=0.1)


def test_temperature_of_a_perfect_model_stops_at_its_bound():
    with pytest.warns(UserWarning, match=r"at its bound 0.02.*no limit"):
        assert report.temperature(np.array([1.0, -1, 2]), np.array([1, 0, 1]), most=50) == pytest.approx(1 / 50, rel=1e-6)
    with pytest.warns(UserWarning, match="at its bound 100.*chance"):
        assert report.temperature(np.array([1.0, -1, 2]), np.array([0, 1, 0])) == 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")                                          # inside the bounds nothing is said
        report.temperature(Z, Y)
    with pytest.raises(ValueError, match="above 1"):
        report.temperature(Z, Y, most=1)


def test_a_trial_takes_no_temperature_from_rows_that_settle_none(monkeypatch):
    "A model that is right on every development row and wrong on some test rows: dividing by 0.01 would cost a hundred nats."
    held = report.held_out("toy_sentiment/toy_a", 200)
    z = {s: np.where(r.labels == 1, 1.0, -1.0) for s, r in held.items()}
    z["test"][:10] *= -1
    monkeypatch.setattr(report, "log_odds", lambda c, seed: z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = report.trial(config(), 0)
    assert out["temperature"] == 1 and out["no_temperature"] == 1 and out["log_loss_scaled"] == out["log_loss"] < 1
    z["validation"][:10] *= -1
    assert report.trial(config(), 0)["no_temperature"] == 0


@pytest.mark.parametrize("z, y, words", [([1.0, 2], [1], "equally long"), ([np.nan, 1], [1, 0], "finite"), ([1.0, 2], [1, 2], "0 or 1"), ([0.0, 0], [1, 0], "all log-odds are 0"), ([], [], "equally long")])
def test_temperature_refuses(z, y, words):
    with pytest.raises(ValueError, match=words):
        report.temperature(np.array(z), np.array(y))


def test_reliability_agrees_with_sklearn():
    "scikit-learn bins the probability of class 1; with log-odds above 0 that is the confidence."
    z = abs(Z)
    accuracy, confidence = calibration_curve(Y, report.sigmoid(z), n_bins=10, strategy="quantile")
    got = report.reliability(z, Y, 10)
    assert np.allclose(got[:, 0], confidence, atol=2e-3) and np.allclose(got[:, 1], accuracy, atol=5e-3) and got[:, 2].sum() == len(z)


def test_ece_by_hand():
    z, y = np.log([3.0, 3, 3, 3]), np.array([1, 1, 1, 0])                    # says 75 %, right in 75 %
    assert report.ece(z, y, 1) == pytest.approx(0) and report.ece(z, np.zeros(4, int), 1) == pytest.approx(75)


def test_ece_of_a_calibrated_model_is_its_floor():
    many = [report.ece(Z[i:i + 400], Y[i:i + 400]) for i in range(0, 4000, 400)]
    assert abs(np.mean(many) - report.ece_floor(Z[:400])) < 1 and report.ece(4 * Z, Y) > report.ece_floor(4 * Z) + 5


@given(st.lists(st.tuples(st.sampled_from([-2.0, -1e-4, 0.0, 1e-4, 0.5, 2.0]), st.integers(0, 1)), min_size=15, max_size=80), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_order_of_rows_with_equal_confidence_does_not_matter(rows, seed):
    z, y = (np.array(v) for v in zip(*rows))
    i = np.random.default_rng(seed).permutation(len(z))
    assert np.allclose(report.reliability(z, y), report.reliability(z[i], y[i]), rtol=0, atol=1e-12)


def test_ece_of_one_confidence_for_all_rows():
    z, y = np.full(1500, 1e-4), np.r_[np.zeros(750, int), np.ones(750, int)]
    assert report.ece(z, y) < .01 and report.ece(np.full(1500, np.log(3)), y) == pytest.approx(25)


@pytest.mark.parametrize("call", [report.reliability, report.ece, report.log_loss, report.temperature])
@pytest.mark.parametrize("z, y, words", [(Z[:100], ["pos"] * 100, "number the two classes"), (Z[:100], np.ones(1), "equally long"), (np.full(100, 5.0), np.full(100, 2), "0 or 1"), (Z[:2], [1, 2], "0 or 1"),
                                         (np.full(100, np.nan), np.ones(100), "finite"), (["a"], [1], "numbers"), ([], [], "not empty")])
def test_what_is_no_label_or_no_number_is_refused(call, z, y, words):
    with pytest.raises(ValueError, match=words):
        call(z, y)


def test_ece_needs_rows():
    with pytest.raises(ValueError, match="at least 1"):
        report.ece(Z, Y, 0)
    with pytest.raises(ValueError, match="do not fill"):
        report.ece(Z[:5], Y[:5])


def test_scaling_changes_no_decision():
    out = report.trial(config(), 0)
    assert out["log_loss_scaled"] <= out["log_loss"] + .05 and 0 < out["temperature"] <= 100 and 50 < out["accuracy"] <= 100


def test_majority_knows_nothing_of_the_text():
    z = report.log_odds(config("majority"), 0)["test"]
    assert np.ptp(z) == 0
    labels = report.held_out("toy_sentiment/toy_a", 200)["test"].labels
    assert report.trial(config("majority"), 0)["accuracy"] == pytest.approx(100 * np.mean(labels == (z[0] > 0)))


def test_copies_change_nothing_for_the_matched_logistic_model(monkeypatch):
    score = lambda arm: report.log_odds(config(arm=arm, copies=3), 1)["test"]
    base, copies = score("base"), score("copies")
    monkeypatch.setattr(report, "_extra", lambda c: 0)                          # the same without matching
    assert abs(base - copies).max() < 1e-2 < abs(base - score("copies")).max()


def test_models_and_arms_are_named_in_errors():
    with pytest.raises(ValueError, match="unknown model 'gru'.*tfidf"):
        report.log_odds(config("gru"), 0)
    with pytest.raises(ValueError, match="unknown arm"):
        report.log_odds(config(arm="more"), 0)


def test_a_trial_repeats_itself():
    for model in ("tfidf", "cnn"):
        a, b = (report.trial(config(model), 3) for _ in range(2))
        assert a == b and a != report.trial(config(model), 4)


def test_worst_errors_are_wrong_sorted_and_near():
    train = Rows(("a", "b", "c"), ("good phone", "bad phone", "warm film"), np.array([1, 0, 1]), "train")
    rows = Rows(("d", "e", "f"), ("bad film", "bad bad phone", "good film"), np.array([0, 0, 1]), "test")
    z = np.array([2.0, 3.0, 1.0])                                               # says positive throughout: two are wrong
    got = report.worst_errors(z, rows, train)
    assert list(got["text"]) == ["bad bad phone", "bad film"] and list(got["nearest training text"])[0] == "bad phone"
    assert got["confidence"].is_monotonic_decreasing and set(got["label"]) == {"negative"} and set(got["said"]) == {"positive"}
    assert len(report.worst_errors(-abs(z) * [1, 1, -1], rows, train)) == 0
    with pytest.raises(ValueError, match="2 log-odds for 3 rows"):
        report.worst_errors(z[:2], rows, train)


def test_grams_need_no_spaces():
    assert report.grams("不好 ok") == ["不", "好", "ok", "不 好", "好 ok"]


BERT = {"pretrain_on": ["toy_sentiment/toy_a"], "vocabulary": 300, "width": 32, "pretrain_steps": 4, "pretrain_lr": 2e-3}


@pytest.mark.parametrize("model, more", [("bert", BERT), ("minilm-lora", {}), ("minilm-views", {"consistency": 0.0}), ("minilm", {})])
def test_trained_models_learn_the_toy_world_and_repeat_themselves(model, more, monkeypatch, tmp_path):
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path))
    cell = config(model, **more, limit=64) | {"n": 64, "epochs": 1}
    a, b, other = report.log_odds(cell, 3), report.log_odds(cell, 3), report.log_odds(cell, 4)
    assert {s: v.shape for s, v in a.items()} == {"validation": (64,), "test": (64,)}
    assert all(np.array_equal(a[s], b[s]) and not np.array_equal(a[s], other[s]) and np.isfinite(a[s]).all() for s in a)


def test_the_consistency_term_costs_no_extra_sequences_and_counts(monkeypatch):
    from diversity_kit.learn import finetune
    seen, real = [], finetune.AugmentedTrainer.train
    monkeypatch.setattr(finetune.AugmentedTrainer, "train", lambda self: seen.append((self.args.max_steps, self.args.per_device_train_batch_size * (1 + self.copies), self.consistency)) or real(self))
    cells = [config("minilm-views", consistency=w, limit=64) for w in (0.0, 50.0)] + [config("minilm-lora", limit=64)]
    z = [report.log_odds(c, 0)["validation"] for c in cells]
    assert [s[:2] for s in seen] == [seen[0][:2]] * 3 and [s[2] for s in seen] == [0.0, 50.0, 0.0] and not np.array_equal(z[0], z[1])


def test_other_domain_replaces_the_copies():
    cell = config(arm="other_domain", others=["toy_sentiment/toy_a", "toy_sentiment/toy_b"])
    rows, own = report.rows_of(cell, 0), report.rows_of(config(), 0)
    assert rows.texts[:100] == own.texts and len(rows) == len(report.rows_of(config(arm="copies"), 0)) == 200
    assert set(rows.ids[100:]) <= set(report.pool("toy_sentiment/toy_b")["train"].ids) and report.rows_of(cell, 1).ids[100:] != rows.ids[100:]
    heavy = report.rows_of(cell | {"own_times": 3}, 0)
    assert heavy.texts == own.texts * 2 + rows.texts and heavy.labels.tolist() == own.labels.tolist() * 2 + rows.labels.tolist()
    z = report.log_odds(cell | {"own_times": 3, "model": "minilm-head"}, 0)                       # vectors of both sets are found
    assert np.isfinite(z["test"]).all() and not np.allclose(z["test"], report.log_odds(cell | {"model": "minilm-head"}, 0)["test"])
    with pytest.raises(ValueError, match="rows wanted of 'toy_sentiment/toy_b'"):
        report.rows_of(cell | {"copies": 1000}, 0)
