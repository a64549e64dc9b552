"""learn.finetune: the loss, the views, the Trainer's promises (accumulation, resume, guards) and its faults."""
import math
import os
import signal

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers

from diversity_kit.augment.words import Delete, Swap
from diversity_kit.learn import finetune
from diversity_kit.learn.finetune import AugmentedTrainer, SourceSampler, ViewCollator, arguments, check_checkpoint, consistency_loss, encode_labels, fit_views, label_shuffle, overfit_one_batch, view_loss

WORDS = "good bad fine poor warm cold plot cast film story long short really very not a the".split()


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    t = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=t, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def bert(seed=0, labels=2, vocabulary=32, dropout=0.1):
    torch.manual_seed(seed)
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=vocabulary, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
                                                                            num_labels=labels, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout))


def rows(n=40, seed=0, split="train"):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).tolist()
    labels[:2] = [0, 1]
    texts = [" ".join([*rng.choice(WORDS[6:], 5), WORDS[0 if y else 1], WORDS[2 if y else 3]]) for y in labels]
    return Dataset.from_dict({"id": [f"r{i}" for i in range(n)], "text": texts, "label": labels, "source": ["big" if i % 5 else "small" for i in range(n)]}, split=split)


def trainer(tmp_path, tokenizer, model=None, data=None, max_steps=6, batch=8, args=None, **more):
    own = dict(batch=batch, lr=1e-2, max_steps=max_steps, save_strategy="no", eval_strategy="no", load_best_model_at_end=False, seed=3) | (args or {})
    return AugmentedTrainer(model or bert(), arguments(tmp_path, **own), data if data is not None else rows(), tokenizer=tokenizer, max_length=16, **more)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ------------------------------------------------------------------------------------------------ the loss

def test_one_view_is_cross_entropy():
    z, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    loss, tie = view_loss(z, y, 1, consistency=5)
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(z, y, reduction="sum").item(), abs=1e-5) and tie == 0


def test_equal_views_cost_what_one_costs():
    z, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss, tie = view_loss(z.repeat_interleave(3, 0), y, 3, consistency=1)
    assert loss.item() == pytest.approx(view_loss(z, y, 1)[0].item(), abs=1e-5) and abs(tie) < 1e-6


def test_weight_zero_switches_a_view_off():
    z, y = torch.randn(8, 2), torch.tensor([0, 1, 1, 0])
    assert view_loss(z, y, 2, weights=[1, 0])[0].item() == pytest.approx(view_loss(z[::2], y, 1)[0].item(), abs=1e-5)


def test_unlabelled_rows_have_only_the_consistency_term():
    z = torch.randn(4, 2, requires_grad=True)
    loss, tie = view_loss(z, torch.tensor([-100, -100]), 2, consistency=1)
    assert loss == 0 and tie > 0
    (g,) = torch.autograd.grad(tie, z)
    assert (g[0::2] == 0).all() and (g[1::2] != 0).any()


def test_loss_refuses_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="5, 2.*are not 2 views of 3"):
        view_loss(torch.zeros(5, 2), torch.zeros(3, dtype=torch.long), 2)


# ------------------------------------------------------------------------------------------------ consistency on unlabelled rows

def logits(*shape, seed=0, scale=2.):
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).requires_grad_(True)


def test_consistency_is_torchs_kl_of_the_sharpened_target():
    z, v = logits(5, 3), logits(5, 2, 3, seed=1)
    target = torch.distributions.Categorical(logits=z / .4)
    each = torch.stack([torch.distributions.kl_divergence(target, torch.distributions.Categorical(logits=v[:, k])) for k in (0, 1)])
    assert torch.allclose(consistency_loss(z, v, sharpen=.4), each.mean(0), atol=1e-5)


def test_the_teacher_gets_no_gradient_and_the_views_get_p_minus_q():
    z, v = logits(4, 3), logits(4, 1, 3, seed=1)
    to_teacher, to_views = torch.autograd.grad(consistency_loss(z, v, sharpen=.5).sum(), (z, v), allow_unused=True)
    assert to_teacher is None and torch.allclose(to_views[:, 0], v[:, 0].softmax(-1) - (z / .5).softmax(-1), atol=1e-6)


def test_rows_below_the_threshold_contribute_nothing():
    z, v = torch.tensor([[2., 0.], [.1, 0.], [0., 3.]]), logits(3, 2, 2, seed=1)
    loss = consistency_loss(z, v, confidence=.8)
    (g,) = torch.autograd.grad(loss.sum(), v)
    assert loss[1] == 0 and (g[1] == 0).all() and (loss[[0, 2]] > 0).all() and (g[[0, 2]] != 0).any()
    assert torch.equal(loss[[0, 2]], consistency_loss(z, v)[[0, 2]])                        # the mask does not rescale the others


def test_the_threshold_looks_at_the_prediction_before_sharpening():
    z, v = torch.tensor([[1., 0.]]), torch.zeros(1, 1, 2)                                     # p = 0.73, sharpened 0.92
    assert consistency_loss(z, v, sharpen=.4, confidence=.8) == 0 and consistency_loss(z, v, sharpen=.4, confidence=.7) > 0


def test_temperature_zero_is_a_pseudo_label():
    z, v = logits(6, 3), logits(6, 1, 3, seed=1)
    assert torch.allclose(consistency_loss(z, v, sharpen=0), torch.nn.functional.cross_entropy(v[:, 0], z.argmax(-1), reduction="none"), atol=1e-6)


def test_unchanged_views_of_an_unsharpened_teacher_teach_nothing():
    z = logits(6, 3)
    (g,) = torch.autograd.grad(consistency_loss(z, z[:, None]).sum(), z)
    assert abs(g).max() < 1e-6
    (g,) = torch.autograd.grad(consistency_loss(z, z[:, None], sharpen=.5).sum(), z)
    assert abs(g).max() > 1e-2


@pytest.mark.parametrize("kw, words", [({"confidence": 1.2}, "between 0 and 1"), ({"confidence": -.1}, "between 0 and 1"), ({"confidence": math.nan}, "between 0 and 1"), ({"sharpen": -1}, "temperature"),
                                      ({"sharpen": math.nan}, "temperature")])
def test_a_teacher_that_cannot_be_is_refused_everywhere(tmp_path, tokenizer, kw, words):
    z, v = torch.zeros(2, 2), torch.zeros(2, 1, 2)
    with pytest.raises(ValueError, match=words):
        consistency_loss(z, v, **kw)
    with pytest.raises(ValueError, match=words):
        fit_views(torch.nn.Linear(3, 2), torch.zeros(2, 1, 3), torch.tensor([0, 1]), **kw)
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path, tokenizer, copies=1, consistency=1., **kw)


def test_consistency_refuses_shapes_and_nothing():
    with pytest.raises(ValueError, match="no texts"):
        consistency_loss(torch.zeros(0, 2), torch.zeros(0, 1, 2))
    for views in (torch.zeros(3, 1, 2), torch.zeros(2, 1, 3), torch.zeros(2, 0, 2), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="are needed"):
            consistency_loss(torch.zeros(2, 2), views)


def clusters(n, seed=0, d=6):
    "Two clouds on the first axis, a label-free view that moves a point along the others."
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.normal(0, 1, (n, d))
    x[:, 0] += np.where(y, 2.5, -2.5)
    view = x + np.concatenate([np.zeros((n, 1)), rng.normal(0, 2, (n, d - 1))], 1)
    return torch.tensor(np.stack([x, view], 1), dtype=torch.float32), torch.tensor(y)


def linear(seed=0, d=6):
    torch.manual_seed(seed)
    return torch.nn.Linear(d, 2)


def test_lambda_zero_is_training_on_the_labels_to_the_bit():
    (x, y), (u, _) = clusters(6), clusters(50, 1)
    dropped = [torch.nn.Sequential(torch.nn.Dropout(.3), linear()) for _ in range(2)]
    fits = []
    for model, more in zip(dropped, ({}, {"unlabelled": u, "consistency": 0.})):
        torch.manual_seed(5)
        fits.append(flat(fit_views(model, x, y, **more)))
    assert torch.equal(*fits)
    assert not torch.allclose(fits[0], flat(fit_views(torch.nn.Sequential(torch.nn.Dropout(.3), linear()), x, y, u, consistency=1.)))


def test_fit_views_repeats_itself_and_hears_its_seed():
    (x, y), (u, _) = clusters(6), clusters(50, 1)
    one, two, other = (flat(fit_views(linear(), x, y, u, consistency=1., batch=8, seed=s)) for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_unlabelled_rows_below_the_threshold_do_not_train():
    (x, y), (u, _) = clusters(6), clusters(50, 1)
    assert torch.equal(flat(fit_views(linear(), x, y)), flat(fit_views(linear(), x, y, 1e-3 * u, consistency=5., confidence=.999)))


def test_views_that_keep_the_label_teach_what_few_labels_do_not():
    "Two labels, and views that move along every direction but the one that matters."
    test, truth = clusters(400, 9)
    score = lambda model: float((model(test[:, 0]).argmax(-1) == truth).float().mean())
    gains = []
    for seed in range(8):
        (x, y), (u, _) = clusters(2, 10 + seed), clusters(300, 50 + seed)
        gains.append(score(fit_views(linear(seed), x[:, :1], y, u, consistency=3., sharpen=.4, lr=1e-2)) - score(fit_views(linear(seed), x[:, :1], y, lr=1e-2)))
    assert np.mean(gains) > .03


def test_fit_views_faults():
    x, y = clusters(6)
    for unlabelled in (None, x[:0]):
        with pytest.raises(ValueError, match="without unlabelled rows"):
            fit_views(linear(), x, y, unlabelled, consistency=1.)
    for unlabelled in (x[:, :1], x[..., :3], x[:, 0]):
        with pytest.raises(ValueError, match="at least one view"):
            fit_views(linear(), x, y, unlabelled, consistency=1.)
    with pytest.raises(ValueError, match=r"labelled vectors \(n, K\+1, d\)"):
        fit_views(linear(), x, y[:3])
    with pytest.raises(ValueError, match=r"labelled vectors \(n, K\+1, d\)"):
        fit_views(linear(), x[:0], y[:0])


def test_the_trainer_hands_the_teacher_on(tmp_path, tokenizer):
    "A threshold that nobody passes leaves the supervised loss; a low one does not. Half of the rows have no label, half of each batch is theirs."
    data = rows(40)
    mixed = Dataset.from_dict({"id": data["id"][:], "text": data["text"][:], "label": [v if i < 8 else None for i, v in enumerate(data["label"][:])], "source": ["labelled" if i < 8 else "rest" for i in range(40)]})
    run = lambda name, **kw: trainer(tmp_path / name, tokenizer, bert(dropout=0), mixed, 4, transform=Delete(.4), copies=1, weights=(1, 0), temperature=math.inf, **kw)
    fits = {name: run(name, **kw) for name, kw in {"none": {}, "nobody": {"consistency": 5., "confidence": 1.}, "all": {"consistency": 5.}, "sharp": {"consistency": 5., "sharpen": .2}}.items()}
    for t in fits.values():
        t.train()
    assert torch.allclose(flat(fits["none"].model), flat(fits["nobody"].model), atol=1e-6)
    assert not torch.allclose(flat(fits["none"].model), flat(fits["all"].model), atol=1e-6) and not torch.allclose(flat(fits["sharp"].model), flat(fits["all"].model), atol=1e-6)
    first = list(fits["all"].sampler)[:8]
    assert 3 <= sum(i < 8 for i in first) <= 5


def test_consistency_needs_a_copy(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="consistency needs at least one copy"):
        trainer(tmp_path, tokenizer, consistency=1.)


# ------------------------------------------------------------------------------------------------ views

def test_views_are_new_each_epoch_and_the_same_in_any_batch(tokenizer):
    c, r = ViewCollator(tokenizer, Swap(.5), copies=2, max_length=16), [*rows(12)]
    texts, ids = [x["text"] for x in r], [x["id"] for x in r]
    first = c.views(texts, ids)
    assert first[0] != first[1] and [v[3:5] for v in first] == c.views(texts[3:5], ids[3:5])
    c.epoch = 1
    assert c.views(texts, ids) != first
    fixed = ViewCollator(tokenizer, Swap(.5), copies=2, fresh=False)
    before = fixed.views(texts, ids)
    fixed.epoch = 7
    assert fixed.views(texts, ids) == before == first


def test_collator_puts_the_views_beside_the_original(tokenizer):
    c = ViewCollator(tokenizer, Delete(.5), copies=1, max_length=16)
    out = c([{"id": "a", "text": "good film", "label": 1}, {"id": "b", "text": "bad plot", "label": None}])
    assert out["input_ids"].shape[0] == 4 and out["labels"].tolist() == [1, -100]
    assert tokenizer.decode(out["input_ids"][0], skip_special_tokens=True) == "good film" and tokenizer.decode(out["input_ids"][2], skip_special_tokens=True) == "bad plot"


def test_cut_share_is_reported(tokenizer):
    c = ViewCollator(tokenizer, max_length=4)
    c([{"text": "good film", "label": 0}, {"text": "good film long plot story", "label": 1}, {"text": "a the good film", "label": 1}, {"text": "a", "label": 1}])
    assert c.cut_share == pytest.approx(.25)


def test_source_sampler_mixes_and_goes_on():
    names = ["a"] * 90 + ["b"] * 10
    s = SourceSampler(names, temperature=float("inf"), seed=1)
    one = list(s)
    s.set_epoch(1)
    two = list(s)
    assert len(one) == len(two) == 100 and one != two and 35 <= sum(i >= 90 for i in one) <= 65 and sum(i >= 90 for i in SourceSampler(names, 1.0)) < 25
    every = []
    for epoch in range(41):                                                             # 4100 rows: a block of the schedule and a little
        s.set_epoch(epoch)
        every += list(s)
    small = sum(i >= 90 for i in every[:4096])
    assert abs(small - 2048) <= 1 and set(every[:400]) == set(range(100))


# ------------------------------------------------------------------------------------------------ labels

def test_labels_as_strings_and_missing():
    ds, ids = encode_labels(Dataset.from_dict({"text": list("abc"), "label": ["pos", None, "neg"]}))
    assert ds["label"][:] == [1, None, 0] and ids == {"neg": 0, "pos": 1}


@pytest.mark.parametrize("labels, known, words", [(["a", "b"], {"a": 0}, r"label 'b' \(row 1, 1 rows\)"), (["a", "a"], None, "two classes"), ([None, None], None, "no label in 2 rows")])
def test_labels_refuse(labels, known, words):
    with pytest.raises(ValueError, match=words):
        encode_labels(Dataset.from_dict({"text": ["x", "y"], "label": labels}), known)


def test_what_the_module_calls_unlabelled_is_no_class_and_a_classlabel_keeps_its_names():
    ds, ids = encode_labels(Dataset.from_dict({"text": list("abc"), "label": [-100, 1, 0]}))
    assert ds["label"][:] == [None, 1, 0] and ids == {0: 0, 1: 1}
    named = Features({"text": Value("string"), "label": ClassLabel(names=["pos", "mixed", "neg"])})
    ds, ids = encode_labels(Dataset.from_dict({"text": list("abc"), "label": [2, 0, -1]}, features=named))
    assert ids == {"pos": 0, "mixed": 1, "neg": 2} and ds["label"][:] == [2, 0, None]
    assert encode_labels(Dataset.from_dict({"text": ["a"], "label": [0]}, features=named), {"neg": 0, "pos": 1})[0]["label"][:] == [1]
    with pytest.raises(ValueError, match="two classes"):
        encode_labels(Dataset.from_dict({"text": list("ab"), "label": [1, 1]}, features=named))


# ------------------------------------------------------------------------------------------------ training

def test_a_step_is_the_plain_trainers_without_views(tmp_path, tokenizer):
    ours = trainer(tmp_path / "a", tokenizer, bert(dropout=0), max_steps=3)
    ours.train()
    plain = transformers.Trainer(bert(dropout=0), arguments(tmp_path / "b", batch=8, lr=1e-2, max_steps=3, save_strategy="no", eval_strategy="no", load_best_model_at_end=False, seed=3), train_dataset=rows(),
                                 data_collator=ViewCollator(tokenizer, max_length=16))
    plain.train()
    assert torch.allclose(flat(ours.model), flat(plain.model), atol=1e-6)


def test_unchanged_views_change_nothing(tmp_path, tokenizer):
    one, three = (trainer(tmp_path / str(k), tokenizer, bert(dropout=0), copies=k, max_steps=3) for k in (0, 2))
    one.train(), three.train()
    assert torch.allclose(flat(one.model), flat(three.model), atol=1e-5)


@pytest.mark.parametrize("consistency", [0., 1., 10.])
def test_accumulation_is_exact_with_a_short_batch(tmp_path, tokenizer, consistency):
    "12 rows at once, and as 5 + 5 + 2, some of them unlabelled: both terms of (63.1). A mean of means would differ. SGD, since Adam does not see a factor."
    data = rows(12)
    data = data.remove_columns("label").add_column("label", [None if i in (1, 4, 11) else v for i, v in enumerate(data["label"][:])])
    start = flat(bert(dropout=0))
    steps = []
    for name, batch, parts in (("a", 12, 1), ("b", 5, 3)):
        t = trainer(tmp_path / name, tokenizer, bert(dropout=0), data, 1, batch, {"gradient_accumulation_steps": parts, "optim": "sgd", "lr": .1, "warmup_steps": 0, "max_grad_norm": 0., "weight_decay": 0.},
                    transform=Delete(.4), copies=1, consistency=consistency)
        t.train()
        steps.append(flat(t.model) - start)
    assert steps[0].norm() > 1e-3 and (steps[1] - steps[0]).norm() < 1e-4 * steps[0].norm()


def plain_step(where, tokenizer, processes=1):
    "What one SGD step of 8 rows, shared by so many processes, adds to the weights."
    t = trainer(where, tokenizer, bert(dropout=0), rows(8), 1, 8 // processes, {"optim": "sgd", "lr": .1, "warmup_steps": 0, "max_grad_norm": 0., "weight_decay": 0., "use_cpu": True}, transform=Delete(.4), copies=1, consistency=3.)
    t.train()
    assert t.args.world_size == processes
    return flat(t.model) - flat(bert(dropout=0))


def test_a_step_of_two_processes_is_that_of_one(tmp_path, tokenizer):
    "The divisors count the rows of both, and the averaged gradient is that of one batch."
    import socket
    import subprocess
    import sys
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    words, here = tmp_path / "words", os.path.dirname(__file__)
    tokenizer.save_pretrained(words)
    code = f"import sys, torch, transformers; sys.path.insert(0, {here!r}); import test_finetune as t; torch.save(t.plain_step(sys.argv[1], transformers.AutoTokenizer.from_pretrained({str(words)!r}), 2), sys.argv[1] + '.pt')"
    shared = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / f"r{r}")], env=shared | {"RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True) for r in (0, 1)]
    told = [p.communicate(timeout=120)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], told
    one, two = plain_step(tmp_path / "one", tokenizer), torch.load(tmp_path / "r0.pt")
    assert one.norm() > 1e-3 and (two - one).norm() < 1e-4 * one.norm()


def test_resume_is_exact_to_the_bit(tmp_path, tokenizer):
    torch.set_num_threads(1)
    make = lambda where: trainer(where, tokenizer, bert(), rows(40), 10, args={"save_strategy": "steps", "save_steps": 5}, transform=Swap(.3), copies=1, temperature=2.0)
    whole = make(tmp_path / "whole")
    whole.train()
    first = make(tmp_path / "two")
    first.add_callback(type("Stop", (transformers.TrainerCallback,), {"on_step_end": lambda self, a, s, c, **k: setattr(c, "should_training_stop", s.global_step >= 5) or c})())
    first.train()
    torch.manual_seed(123)
    second = make(tmp_path / "two")
    second.train(resume_from_checkpoint=True)
    assert (flat(whole.model) == flat(second.model)).all() and (flat(whole.model) != flat(first.model)).any()


def test_early_stopping_restores_the_best(tmp_path, tokenizer):
    t = trainer(tmp_path, tokenizer, max_steps=-1, args={"epochs": 20, "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "lr": 0.0}, eval_dataset=rows(20, 1, "validation"), patience=2)
    t.train()
    assert t.state.epoch == 3 and t.state.best_model_checkpoint.endswith("checkpoint-5")


def test_a_resume_remembers_how_long_nothing_got_better(tmp_path, tokenizer):
    "At a rate of 0 the first evaluation is the best: patience 3 ends after epoch 4, with a break after epoch 3 or without."
    more = dict(max_steps=-1, args={"epochs": 9, "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "lr": 0.0}, eval_dataset=rows(20, 1, "validation"), patience=3)
    whole, first, second = (trainer(tmp_path / name, tokenizer, **more) for name in ("whole", "cut", "cut"))
    whole.train()
    first.add_callback(type("Stop", (transformers.TrainerCallback,), {"on_epoch_end": lambda self, a, s, c, **k: setattr(c, "should_training_stop", s.epoch >= 3) or c})())
    first.train()
    assert first.state.epoch == 3
    second.train(resume_from_checkpoint=True)
    assert whole.state.epoch == second.state.epoch == 4


def test_the_schedule_ends_with_the_training(tmp_path, tokenizer):
    t = trainer(tmp_path, tokenizer, max_steps=-1, args={"epochs": 3, "logging_steps": 1})
    t.train()
    rates = [h["learning_rate"] for h in t.state.log_history if "learning_rate" in h]
    assert len(rates) == 15 and all(r > 0 for r in rates[1:]) and rates[-1] < .15 * max(rates)


def test_decay_leaves_biases_and_norms_alone(tmp_path, tokenizer):
    t = trainer(tmp_path, tokenizer)
    t.create_optimizer()
    free = next(g for g in t.optimizer.param_groups if g["weight_decay"] == 0)["params"]
    ids = {id(p) for p in free}
    assert all((id(p) in ids) == (p.ndim < 2) for p in t.model.parameters())


@pytest.fixture
def interruptible():
    "A process that was started in the background ignores Ctrl-C."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_keeps_a_checkpoint_and_the_resume_is_exact(tmp_path, tokenizer, interruptible):
    make = lambda where: trainer(where, tokenizer, bert(), rows(40), 8, transform=Swap(.3), copies=1)
    whole = make(tmp_path / "whole")
    whole.train()
    t = make(tmp_path / "cut")
    t.add_callback(type("Press", (transformers.TrainerCallback,), {"on_step_begin": lambda self, a, s, c, **k: os.kill(os.getpid(), signal.SIGINT) if s.global_step == 3 else None})())
    with pytest.raises(KeyboardInterrupt, match="stopped after step 4.*resume_from_checkpoint"):
        t.train()
    again = make(tmp_path / "cut")
    again.train(resume_from_checkpoint=True)
    assert (flat(whole.model) == flat(again.model)).all()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_tensorboard_by_one_argument(tmp_path, tokenizer, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer(tmp_path, tokenizer, args={"log_to": "tensorboard", "logging_steps": 1}, max_steps=2).train()
    assert any((tmp_path / "board").rglob("events.out*"))


# ------------------------------------------------------------------------------------------------ guards and faults

def test_test_rows_can_be_read_once(tmp_path, tokenizer):
    t, test = trainer(tmp_path, tokenizer), rows(10, 5, "test")
    t.predict(test)
    with pytest.raises(RuntimeError, match="read 1 times"):
        t.evaluate(test)
    assert t.predict(rows(10, 6, "validation")).metrics["test_loss"] > 0


def test_test_rows_among_several_sets_are_counted_too(tmp_path, tokenizer):
    t, test = trainer(tmp_path, tokenizer, eval_dataset={"dev": rows(10, 6)}, max_test_reads=2), rows(10, 5, "test")
    assert "eval_dev_accuracy" in t.evaluate() and t.test_reads == 0
    t.evaluate({"dev": rows(10, 6), "final": test})
    assert t.test_reads == 1
    t.eval_dataset = {"late": test}
    t.evaluate()
    with pytest.raises(RuntimeError, match="read 2 times"):
        t.evaluate("late")


@pytest.mark.parametrize("kw", [{"copies": -1}, {"copies": 1, "consistency": -1.0}, {"copies": 1, "consistency": float("nan")}, {"copies": 1, "consistency": math.inf}])
def test_copies_and_consistency_cannot_be_negative(tmp_path, tokenizer, kw):
    with pytest.raises(ValueError, match="neither can be negative"):
        trainer(tmp_path, tokenizer, **kw)
    if "consistency" in kw:
        with pytest.raises(ValueError, match="must be finite and not negative"):
            view_loss(torch.zeros(4, 2), torch.tensor([0, 1]), 2, consistency=kw["consistency"])


@pytest.mark.parametrize("kw", [{"data": rows(10, split="test")}, {"eval_dataset": rows(10, split="test")}, {"eval_dataset": {"dev": rows(10), "more": rows(10, split="test")}}])
def test_test_rows_do_not_train_or_select(tmp_path, tokenizer, kw):
    with pytest.raises(ValueError, match="marked as a test split"):
        trainer(tmp_path, tokenizer, **kw)


def test_model_tokenizer_and_labels_must_fit(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="21 tokens, the model 10"):
        trainer(tmp_path, tokenizer, bert(vocabulary=10))
    three = rows(9).remove_columns("label").add_column("label", [0, 1, 2] * 3)
    with pytest.raises(ValueError, match="2 classes"):
        trainer(tmp_path, tokenizer, data=three)
    one = rows(9).remove_columns("label").add_column("label", [1] * 9)
    with pytest.raises(ValueError, match="needs two classes"):
        trainer(tmp_path, tokenizer, data=one)
    with pytest.raises(ValueError, match="encode_labels"):
        trainer(tmp_path, tokenizer, data=rows(9).remove_columns("label").add_column("label", ["x"] * 9))
    with pytest.raises(ValueError, match="at least one copy"):
        trainer(tmp_path, tokenizer, transform=Swap(.1))


def test_nan_loss_stops_and_names_the_batch(tmp_path, tokenizer):
    model = bert()
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="step 1 are not finite for 8 of 8 texts, the first is '"):
        trainer(tmp_path, tokenizer, model).train()


def test_out_of_memory_says_what_to_do(tmp_path, tokenizer, monkeypatch):
    def full(*a, **k):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(transformers.Trainer, "training_step", full)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="16 texts of up to 16 tokens.*gradient_accumulation_steps"):
        trainer(tmp_path, tokenizer, transform=Swap(.1), copies=1).train()


def test_a_checkpoint_cut_in_half_is_named(tmp_path, tokenizer):
    trainer(tmp_path, tokenizer, args={"save_strategy": "steps", "save_steps": 3}, max_steps=3).train()
    folder = tmp_path / "checkpoint-3"
    check_checkpoint(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ValueError, match="model.safetensors cannot be read.*cut short"):
        trainer(tmp_path, tokenizer).train(resume_from_checkpoint=True)
    (folder / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match="optimizer.pt is missing"):
        check_checkpoint(folder)
    with pytest.raises(ValueError, match="no checkpoint"):
        trainer(tmp_path / "none", tokenizer).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_every_file_of_a_checkpoint_must_be_there_and_whole(tmp_path, tokenizer, name):
    trainer(tmp_path, tokenizer, args={"save_strategy": "steps", "save_steps": 1}, max_steps=1).train()
    folder = tmp_path / "checkpoint-1"
    check_checkpoint(folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{name} cannot be read.*cut short"):
        check_checkpoint(folder)
    if name == "optimizer.pt":                                                        # both ends intact, the middle not
        half = len(whole) // 2
        (folder / name).write_bytes(whole[:half] + bytes(b ^ 1 for b in whole[half:half + 300]) + whole[half + 300:])
        with pytest.raises(ValueError, match="optimizer.pt cannot be read"):
            check_checkpoint(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match="is missing or empty"):
        check_checkpoint(folder)


def relabelled(data, labels):
    return data.remove_columns("label").add_column("label", labels)


@pytest.mark.parametrize("labels, words", [(["x"] * 4, "'x' in eval_dataset are no whole numbers"), ([0, 1, 3, 0], "of eval_dataset do not fit a model with 2 classes"), ([None] * 4, "no development row has a label")])
def test_development_labels_are_checked_before_anything_trains(tmp_path, tokenizer, labels, words):
    for held in (relabelled(rows(4), labels), {"near": rows(4), "far": relabelled(rows(4), labels)}):
        with pytest.raises(ValueError, match=words.replace("eval_dataset", r"eval_dataset(\['far'\])?")):
            trainer(tmp_path, tokenizer, eval_dataset=held)


def test_rows_without_a_label_are_not_wrong(tmp_path, tokenizer):
    t, half = trainer(tmp_path, tokenizer), rows(20, 7)
    right = t.predict(half).predictions.argmax(-1).tolist()
    some = relabelled(half, [v if i % 2 else None for i, v in enumerate(right)])
    assert t.predict(some).metrics["test_accuracy"] == 100 == t.evaluate(some)["eval_accuracy"]
    none = t.predict(half.remove_columns("label"))
    assert "test_accuracy" not in none.metrics and none.predictions.argmax(-1).tolist() == right


def test_what_is_missing_is_named(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="pass tokenizer="):
        trainer(tmp_path, None)
    with pytest.raises(ValueError, match="train_dataset has no column 'text', only 'id', 'label', 'source', 'sentence'"):
        trainer(tmp_path, tokenizer, data=rows().remove_columns("text").add_column("sentence", rows()["text"][:]))
    with pytest.raises(ValueError, match="eval_dataset has no column 'label'"):
        trainer(tmp_path, tokenizer, eval_dataset=rows().remove_columns("label"))
    with pytest.raises(ValueError, match="test_dataset has no column 'text'"):
        trainer(tmp_path, tokenizer).predict(rows().remove_columns("text"))
    with pytest.raises(ValueError, match="the dataset has no column 'label', only 'text', 'stars'"):
        encode_labels(Dataset.from_dict({"text": ["a"], "stars": [1]}))
    with pytest.raises(ValueError, match="no training row has a label"):
        trainer(tmp_path, tokenizer, data=relabelled(rows(4), [None] * 4))


def test_an_unlabelled_split_can_be_encoded_with_known_labels():
    ds, ids = encode_labels(Dataset.from_dict({"text": list("ab"), "label": [None, None]}), {"neg": 0, "pos": 1})
    assert ds["label"][:] == [None, None] and ids == {"neg": 0, "pos": 1}


# ------------------------------------------------------------------------------------------------ checks

def test_overfitting_one_batch(tokenizer):
    first, last = overfit_one_batch(bert(), tokenizer, rows(8), lr=1e-2, max_length=16)
    assert last < .1 * first
    broken = bert()
    for p in broken.parameters():
        p.requires_grad_(False)
    broken.classifier.bias.requires_grad_(True)                                       # it can only learn the share of the classes
    with pytest.raises(AssertionError, match="could not be learned by heart"):
        overfit_one_batch(broken, tokenizer, rows(8), max_length=16)


def test_shuffled_labels_are_the_same_labels():
    r = rows(40)
    s = label_shuffle(r, 1)
    assert sorted(s["label"][:]) == sorted(r["label"][:]) and s["label"][:] != r["label"][:] and s["text"][:] == r["text"][:]


def test_exports():
    assert {"AugmentedTrainer", "arguments", "encode_labels"} <= set(finetune.__all__)
