"""The sentiment case: arms, step budgets, features, training loop, leakage; on the synthetic world, without network."""
import numpy as np
import pytest
import torch
from torch import nn

from diversity_kit.cases import sentiment as case

C = {"data": "toy_sentiment", "model": "fasttext", "n": 120, "copies": 3, "epochs": 2}


def rows(arm, seed=0, **kw):
    return case.training_rows({**C, "arm": arm, **kw}, seed)


def test_arms_share_their_real_rows_and_differ_as_declared():
    base, copies, augmented, more = (rows(a) for a in ("base", "copies", "augmented", "more_real"))
    assert len(base) == 120 and len(copies) == len(augmented) == 480 and len(more) == 180
    assert sorted(copies.texts) == sorted(base.texts * 4)
    assert set(base.texts) <= set(augmented.texts) and set(base.texts) <= set(more.texts)
    assert len(set(augmented.texts)) > 1.5 * len(set(base.texts))
    assert more.texts[:120] == base.texts and not set(more.ids[120:]) & set(base.ids)
    assert rows("base_epochs").texts == base.texts == rows("base").texts
    assert rows("base", seed=1).texts != base.texts


def test_augmented_rows_keep_the_label_of_their_origin():
    augmented, base = rows("augmented"), rows("base")
    assert augmented.texts[::4] == base.texts
    assert np.array_equal(augmented.labels.reshape(-1, 4), np.repeat(base.labels[:, None], 4, 1))


def test_no_training_row_comes_from_another_split():
    held_out = set(case.pool("toy_sentiment")["test"].ids) | set(case.pool("toy_sentiment")["validation"].ids)
    assert not held_out & set(rows("more_real").ids)


def test_equal_steps_for_all_arms_but_base_epochs():
    budget = {a: case.steps({**C, "arm": a}) for a in case.ARMS}
    assert len({budget[a] for a in case.ARMS if a != "base_epochs"}) == 1
    assert budget["base"] == -(-2 * 120 * 4 // case.BATCH) and budget["base_epochs"] == -(-2 * 120 // case.BATCH)


@pytest.mark.parametrize("change, message", [({"arm": "augmentd"}, "unknown arm"), ({"arm": "base", "n": 10**6}, "more real rows do not fit"), ({"arm": "base", "n": 1}, "one class only"),
                                             ({"arm": "base", "data": "toy_sentiment/nowhere"}, "no source 'nowhere'")])
def test_bad_configs_say_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        case.training_rows({**C, **change}, 0)


def test_unknown_model():
    with pytest.raises(ValueError, match="unknown model 'lstm'"):
        case.trial({**C, "arm": "base", "model": "lstm"}, 0)


def test_units_need_no_spaces_and_survive_anything():
    assert case.units("这部电影不好") == list("这部电影不好")
    assert case.units("It isn't bad!") == ["it", "isn", "'", "t", "bad", "!"]
    for odd in ("", "   ", "🙂🙂", "שלום עולם", "\ud800 x", "a" * 10**6):
        assert case.FastText.encode([odd]).shape == (1, max(1, 2 * len(case.units(odd)) - 1))


def test_hashing_is_fixed_and_leaves_zero_for_padding():
    ids = case.hashed(["good film", ""], buckets=1000, orders=(1, 2), length=5)
    assert (ids[0] > 0).tolist() == [True, True, True, False, False] and ids[1].sum() == 0
    assert torch.equal(ids, case.hashed(["good film", ""], 1000, (1, 2), 5)) and ids.max() < 1000
    assert case.hashed(["good"], 2**15, (1,), 1).item() == 1 + 1820610194 % (2**15 - 1)       # crc32(b'good'): the same in every process


def test_a_fasttext_input_is_as_wide_as_its_batch_and_never_wider_than_512():
    import torch
    torch.manual_seed(0)
    model, long = case.FastText(), " ".join(f"w{i}" for i in range(300))
    assert case.FastText.encode(["a b", "a"]).shape == (2, 3) and case.FastText.encode([""]).shape == (1, 1) and case.FastText.encode(["a", long]).shape == (2, 512)
    alone, beside = model(case.FastText.encode(["not good"])), model(case.FastText.encode(["not good", long]))
    assert torch.allclose(alone[0], beside[0])                              # padding has no say
    assert not torch.allclose(beside[1], model(case.FastText.encode([long[:200]]))[0])



def test_batches_pass_over_all_rows_before_repeating():
    seen = np.concatenate(list(case.batches(100, 25, seed=0, size=16)))
    for k in range(4):
        assert sorted(seen[100 * k:100 * (k + 1)]) == list(range(100))
    assert not np.array_equal(seen[:100], seen[100:200])


def test_no_rows_and_no_steps_are_refused_not_waited_for():
    m, x, y = case.FastText(), case.FastText.encode(["a b", "c"]), torch.tensor([0, 1])
    for n, total in ((0, 1), (2, 0), (2, -1)):
        with pytest.raises(ValueError, match="at least 1"):
            case.fit(m, x[:n], y[:n], (x, y), total=total, lr=0.1, seed=0)


@pytest.mark.parametrize("model", [case.FastText, case.TextCNN])
def test_models_overfit_one_batch_and_ignore_padding(model):
    torch.manual_seed(0)
    m, texts = model(), case.pool("toy_sentiment")["train"].texts[:32]
    x, y = m.encode(texts), torch.arange(32) % 2
    best = case.fit(m, x, y, (x, y), total=150, lr=1e-2, seed=0)
    assert best >= 95 and case.accuracy(m, x, y) == pytest.approx(best)
    m.eval()
    assert torch.allclose(m(x), m(torch.cat([x, torch.zeros(32, 3, dtype=torch.long)], 1)), atol=1e-5) or model is case.TextCNN


def test_shuffled_labels_teach_nothing():
    r = rows("base", n=600)
    y = torch.from_numpy(np.random.default_rng(0).permutation(r.labels))
    torch.manual_seed(0)
    m, test = case.FastText(), case.pool("toy_sentiment")["test"]
    case.fit(m, m.encode(r.texts), y, (m.encode(r.texts), y), total=60, lr=1e-2, seed=0)
    share = 100 * max(test.labels.mean(), 1 - test.labels.mean())
    assert case.accuracy(m, m.encode(test.texts), torch.from_numpy(test.labels)) < share + 5


def test_fit_restores_the_best_development_weights():
    class Fixed(nn.Module):                                            # one parameter that training can only make worse on dev
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.0]))

        def forward(self, x):
            return torch.cat([self.w.expand(len(x), 1), -self.w.expand(len(x), 1) + 0.05], 1)

    m, x = Fixed(), torch.zeros(64, 1)
    best = case.fit(m, x, torch.zeros(64, dtype=torch.long), (x, torch.ones(64, dtype=torch.long)), total=100, lr=1e-2, seed=0)
    assert best == 0.0 and m.w.item() < 0.2                            # every look ties at 0 %, the first is kept: not the last


def test_a_trial_is_a_pure_function_of_config_and_seed():
    config = {**C, "arm": "augmented"}
    a = case.trial(config, 3)
    torch.rand(7), np.random.rand(3)
    assert case.trial(config, 3) == a != case.trial(config, 4)


def test_more_rows_help_in_the_synthetic_world():
    few, many = (np.mean([case.trial({**C, "arm": "base", "n": n, "epochs": 4}, s)["accuracy"] for s in range(3)]) for n in (60, 1500))
    assert many > few + 5


def test_leak_inflates_only_what_leaked():
    config = {**C, "arm": "base", "n": 400, "copies": 1, "epochs": 8}
    clean, leaky = ({k: np.mean([case.leak_trial({**config, "leak": q}, s)[k] for s in range(4)]) for k in ("accuracy", "clean_part")} for q in (0.0, 0.4))
    assert leaky["accuracy"] > clean["accuracy"] + 2
    assert abs(leaky["clean_part"] - clean["clean_part"]) < 6
    with pytest.raises(ValueError, match="between 0 and 0.5"):
        case.leak_trial({**config, "leak": 0.6}, 0)
    with pytest.raises(ValueError, match="do not fit"):
        case.leak_trial({**config, "n": 100, "leak": 0.5}, 0)


def test_matched_copies_identity():
    r = rows("base")
    matched, unmatched = case.matched_copies(r.texts, r.labels, 3)
    assert matched < 1e-4 and unmatched > 0.05


def test_frozen_and_finetuned_encoders_run_on_a_tiny_bert():
    for model in ("minilm-head", "minilm"):
        out = case.trial({**C, "arm": "augmented", "model": model, "encoder": "random", "n": 40, "copies": 1, "epochs": 1}, 0)
        assert 30 < out["accuracy"] < 80
    a, b = case.embed(["ab cd", "ab", "ab cd"], "random"), case.embed(["ab"], "random")
    assert np.allclose(a[0], a[2]) and np.allclose(a[1], b[0], atol=1e-5) and np.allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)


def test_finetuning_starts_from_the_pretrained_weights_every_time():
    r, dev = rows("base", n=32), case.pool("toy_sentiment")["validation"][range(40)]
    first = case.finetune("random", r, dev, total=3, lr=1e-3, seed=5, batch=8)[0].state_dict()
    first = {k: v.clone() for k, v in first.items()}
    second = case.finetune("random", r, dev, total=3, lr=1e-3, seed=5, batch=8)[0].state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_scores_leave_whole_articles_out():
    rows, group = case.pool("vader/nyt")["test"], case._group_of("vader/nyt")
    article = [group[i] for i in rows.ids]
    assert len(set(article)) < len(rows) / 4
    first = np.array(article) == article[0]                                      # the only rows that are right: what their block is worth shows where they lie
    got = case.score_rows(first, rows, "vader/nyt")
    assert got.pop("accuracy") == pytest.approx(100 * first.mean()) and len(got) == 20
    assert sorted(got.values())[0] == 0 and sorted(got.values())[1] > 0          # all of them in one block
