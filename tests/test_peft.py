"""learn.peft: counts, identity at the start, merge, rank pruning, equality with the peft library, and the faults."""
import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from diversity_kit.learn import peft as tuning
from diversity_kit.learn.peft import (METHODS, AdaLoRALinear, Adapter, LoRALinear, MeanClassifier, PrefixTuned, PromptTuned, RankAllocator, adapter_state, find, formula, inject, library,
                                      load_adapter, merge, orthogonality, prefix_attention, rows, save_adapter, size, unmerge)

IDS = torch.randint(1, 60, (4, 12), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(12) < torch.tensor([12, 9, 5, 2])[:, None]).long()
LOW = ("lora", "adalora")


def bert(seed=0, width=32, layers=2, positions=40):
    torch.manual_seed(seed)
    config = transformers.BertConfig(vocab_size=60, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=2 * width, max_position_embeddings=positions, num_labels=3)
    return MeanClassifier(config).double().eval()


@torch.no_grad()
def logits(model, ids=IDS, mask=MASK):
    return model.eval()(input_ids=ids, attention_mask=mask).logits


def gap(a, b):
    return float((a - b).detach().abs().max())


def stirred(model, seed=1):
    "The model with all its trained matrices away from zero."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return model


# ------------------------------------------------------------------------------------------------ counts and the start

@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("r, m, p", [(1, 1, 1), (4, 6, 5)])
def test_count_is_the_formula_plus_the_head(method, r, m, p):
    model = inject(bert(), method, rank=r, bottleneck=m, length=p)
    s = size(model, method)
    assert s.trainable == formula(method, model.config, r, m, p) + 3 * 32 + 3
    assert s.total == size(bert()).total + formula(method, model.config, r, m, p) and s.share == s.trainable / s.total
    assert s.to_pandas()["optimizer_bytes"] == 8 * s.trainable and method in s._repr_html_()


def test_optimizer_bytes_are_measured():
    model = inject(bert(), "lora").float()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(IDS, MASK, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    held = sum(v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values() if v.dim())
    assert held == size(model).optimizer_bytes


@pytest.mark.parametrize("method", ["full", "head", "adapter", *LOW])
def test_starts_at_the_base_model(method):
    assert torch.equal(logits(inject(bert(), method)), logits(bert()))


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_vectors_do_not_start_at_the_base_model(method):
    assert gap(logits(inject(bert(), method)), logits(bert())) > 1e-4


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_step_moves_what_is_trained_and_nothing_else(method):
    model = inject(bert(), method)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(3):
        model.zero_grad()
        model(input_ids=IDS, attention_mask=MASK, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p -= 0.5 * p.grad
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in model.named_parameters() if p.requires_grad} and moved


def test_adapter_by_hand_and_its_dead_start():
    a, h = Adapter(3, 2, torch.float64), torch.randn(4, 3, dtype=torch.float64)
    nn.init.normal_(a.up.weight), nn.init.normal_(a.up.bias)
    want = h + F.gelu(h @ a.down.weight.T + a.down.bias) @ a.up.weight.T + a.up.bias
    assert gap(a(h), want) < 1e-12 and size(a).trainable == 2 * 3 * 2 + 3 + 2
    dead = Adapter(3, 2, torch.float64)
    nn.init.zeros_(dead.down.weight), nn.init.zeros_(dead.down.bias)
    dead(h).sum().backward()
    assert dead.down.weight.grad.abs().sum() == 0 == dead.up.weight.grad.abs().sum()


# ------------------------------------------------------------------------------------------------ merging

@pytest.mark.parametrize("method", LOW)
def test_merged_equals_apart_and_unmerge_restores(method):
    model = stirred(inject(bert(), method, rank=4, alpha=6))
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    apart = logits(model)
    assert gap(apart, logits(bert())) > 1e-3
    assert merge(model) == 4 and gap(logits(model), apart) < 1e-12
    assert unmerge(model) == 4 and gap(logits(model), apart) < 1e-12
    assert max(gap(p, weights[n]) for n, p in model.named_parameters()) < 1e-14


def test_delta_has_rank_r_and_scale_alpha_over_r():
    layer = LoRALinear(nn.Linear(20, 12, dtype=torch.float64), rank=3, alpha=6)
    nn.init.normal_(layer.B)
    assert torch.linalg.matrix_rank(layer.delta()) == 3 and gap(layer.delta(), 2 * layer.B @ layer.A) < 1e-14


def test_merging_twice_and_unmerging_twice_are_refused():
    model = inject(bert(), "lora")
    with pytest.raises(RuntimeError, match="no layer of the model is merged"):
        unmerge(model)
    merge(model)
    frozen = logits(model)
    with pytest.raises(RuntimeError, match="merged already"):
        merge(model)
    layer = next(m for m in model.modules() if isinstance(m, LoRALinear))
    with pytest.raises(RuntimeError, match="add the update twice"):
        layer.merge()
    assert torch.equal(logits(model), frozen)
    layer.unmerge()
    with pytest.raises(RuntimeError, match="not merged"):
        layer.unmerge()
    with pytest.raises(RuntimeError):                                                    # one of the others is merged still: none is touched
        merge(model)
    assert not layer.merged
    with pytest.raises(ValueError, match="cannot be merged"):
        merge(inject(bert(), "adapter"))


# ------------------------------------------------------------------------------------------------ AdaLoRA

def test_orthogonality_by_hand():
    P = torch.eye(4, dtype=torch.float64)[:, :2]
    assert float(orthogonality([(P, P.T)])) == 0
    assert float(orthogonality([(2 * P, P.T)])) == pytest.approx(np.sqrt(2) * 3 / 2)      # P'P - I = 3I of size 2, norm 3 sqrt 2, over 2 matrices
    with pytest.raises(ValueError, match="no AdaLoRA layer"):
        orthogonality([])


def ada(seed=0, rank=6):
    model = stirred(inject(bert(), "adalora", rank=rank, alpha=6), seed)
    return model, [m for m in model.modules() if isinstance(m, AdaLoRALinear)]


def test_sensitivity_is_the_first_order_change_of_the_loss():
    model, layers = ada()
    with torch.no_grad():
        for m in layers:
            m.E.mul_(1e-4)
    y = torch.tensor([0, 1, 2, 0])
    loss = model(IDS, MASK, labels=y).loss
    loss.backward()
    s = (layers[0].E * layers[0].E.grad).detach().abs()
    for k in range(3):
        with torch.no_grad():
            kept = layers[0].E[k].item()
            layers[0].E[k] = 0
            assert abs(float(model(IDS, MASK, labels=y).loss - loss)) == pytest.approx(float(s[k]), rel=.02)
            layers[0].E[k] = kept


def test_scores_of_one_observation_by_hand():
    model, layers = ada()
    model(IDS, MASK, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    allocator = RankAllocator(model, 2, 10, beta1=.8, beta2=.6)
    allocator.observe()
    smooth = lambda p: (.2 * (p * p.grad).abs()) * (.4 * .8 * (p * p.grad).abs())
    want = smooth(layers[0].E) + smooth(layers[0].B).mean(0) + smooth(layers[0].A).mean(1)
    assert torch.allclose(next(iter(allocator.scores().values())), want.detach(), rtol=1e-12, atol=0)                  # they are tiny


def test_pruning_keeps_the_most_important_of_all_layers():
    model, layers = ada()
    model(IDS, MASK, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    allocator = RankAllocator(model, 2, 10)
    allocator.observe()
    scores = torch.cat(list(allocator.scores().values()))
    kept = allocator.prune(9)
    on = torch.cat([m.E != 0 for m in layers])
    assert int(on.sum()) == 9 == sum(kept.values()) and scores[on].min() >= scores[~on].max() and len(set(kept.values())) > 1
    assert all(torch.linalg.matrix_rank(m.delta()) == int((m.E != 0).sum()) for m in layers)


def test_budget_falls_and_prunes_on_schedule():
    model, layers = ada()
    a = RankAllocator(model, 2, 20, warm=4, final=5, every=3)
    curve = [a.budget(t) for t in range(21)]
    assert curve[:5] == [24] * 5 and curve[16:] == [8] * 5 and curve == sorted(curve, reverse=True)
    model(IDS, MASK, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    pruned = [t for t in range(1, 21) if a.step(t) is not None]
    assert pruned == [6, 9, 12, 15, 16, 17, 18, 19, 20] and sum(int((m.E != 0).sum()) for m in layers) == 8


def test_allocator_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="0 AdaLoRA layers"):
        RankAllocator(inject(bert(), "lora"), 2, 10)
    with pytest.raises(ValueError, match="target rank of 9"):
        RankAllocator(ada()[0], 9, 10)
    with pytest.raises(ValueError, match="no step of 10"):
        RankAllocator(ada()[0], 2, 10, warm=5, final=5)


# ------------------------------------------------------------------------------------------------ prefix and prompt

def test_prefix_attention_is_attention_over_both():
    g = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 3, 5, 8, generator=g, dtype=torch.float64) for _ in range(3))
    pk, pv = (torch.randn(2, 3, 4, 8, generator=g, dtype=torch.float64) for _ in range(2))
    out, gate = prefix_attention(q, k, v, pk, pv)
    assert gap(out, F.scaled_dot_product_attention(q, torch.cat([pk, k], -2), torch.cat([pv, v], -2))) < 1e-12 and ((gate > 0) & (gate < 1)).all()
    assert gap(prefix_attention(0 * q, k, v, pk, pv)[1], torch.tensor(4 / 9, dtype=torch.float64)) < 1e-12           # equal scores: p / (p + n)
    with pytest.raises(ValueError, match="do not belong together"):
        prefix_attention(q, k, v, pk[..., :4], pv)


def test_prefix_model_is_attention_over_both():
    "One layer, by hand from the model's own weights."
    model = bert(layers=1)
    tuned = stirred(PrefixTuned(model, 3))
    seen = {}
    hook = model.bert.encoder.layer[0].attention.self.register_forward_hook(lambda m, a, out: seen.update(x=a[0] if a else None, out=out[0]), with_kwargs=False)
    logits(tuned, IDS[:1], MASK[:1])
    hook.remove()
    a = model.bert.encoder.layer[0].attention.self
    heads = lambda x: x.view(1, 12, 2, 16).transpose(1, 2)
    q, k, v = (heads(f(seen["x"])) for f in (a.query, a.key, a.value))
    out, _ = prefix_attention(q, k, v, *(t[None] for t in tuned.prefix[0]))
    assert gap(out.transpose(1, 2).reshape(1, 12, 32), seen["out"]) < 1e-12


@pytest.mark.parametrize("kind", [PrefixTuned, PromptTuned])
def test_padding_changes_nothing(kind):
    tuned = kind(bert(), 4)
    short = logits(tuned, IDS[2:3, :5], MASK[2:3, :5])
    assert gap(short, logits(tuned)[2:3]) < 1e-12


def test_too_long_a_prompt_names_the_room():
    for kind in (PromptTuned, PrefixTuned):
        with pytest.raises(ValueError, match="40"):
            kind(bert(), 40, **{"shift": True} if kind is PrefixTuned else {})
        with pytest.raises(ValueError, match="at least 1"):
            kind(bert(), 0)
    with pytest.raises(ValueError, match="30 vectors before 12 tokens need 42 positions, the model has 40.*to 28"):
        logits(PromptTuned(bert(), 30))
    with pytest.raises(ValueError, match="need 42"):
        logits(PrefixTuned(bert(), 30, shift=True))
    whole = torch.randint(1, 60, (2, 40))
    for ids in (IDS, whole):                                                              # positions stay: the prefix needs none
        assert torch.isfinite(logits(PrefixTuned(bert(), 30), ids, torch.ones_like(ids))).all()
    with pytest.raises(ValueError, match="41 tokens need as many positions, the model has 40"):
        logits(PrefixTuned(bert(), 30), torch.ones(1, 41, dtype=torch.long), None)
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match="30 vectors before 12 tokens"):
        library(bert(), "prompt", length=30, max_length=12)


# ------------------------------------------------------------------------------------------------ faults of injecting, saving, loading

@pytest.mark.parametrize("rank", [0, -1, 33, 2.5, True])
def test_ranks_that_cannot_be(rank):
    model = bert()
    with pytest.raises(ValueError, match="from 1 to 32"):
        inject(model, "lora", rank=rank)
    assert not any(isinstance(m, LoRALinear) for m in model.modules()) and all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="from 1 to 12"):
        LoRALinear(nn.Linear(20, 12), rank=13)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_alphas_that_cannot_be(alpha):
    with pytest.raises(ValueError, match="alpha"):
        inject(bert(), "adalora", alpha=alpha)
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match="alpha"):
        library(bert(), "lora", alpha=alpha)


def test_names_that_match_nothing_list_what_there_is():
    with pytest.raises(ValueError, match="'q_proj'.*self.key, self.query, self.value"):
        inject(bert(), "lora", names=("query", "q_proj"))
    with pytest.raises(ValueError, match="'uery'"):                                       # an ending of a name is not a name
        find(bert(), ["uery"])
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match="'q_proj'"):
        library(bert(), "lora", names=("q_proj",))


def test_unknown_methods_and_second_injections():
    with pytest.raises(ValueError, match="'bitfit' is unknown.*lora"):
        inject(bert(), "bitfit")
    with pytest.raises(ValueError, match="no formula"):
        formula("full", bert().config)
    with pytest.raises(ValueError, match="changed already"):
        inject(inject(bert(), "lora"), "lora")
    for first in ("prefix", "prompt"):
        for second in ("lora", "prefix", "full"):
            with pytest.raises(ValueError, match="changed already"):
                inject(inject(bert(), first), second)
    with pytest.raises(ValueError, match="no layer is named"):
        inject(bert(), "lora", names=[])
    with pytest.raises(ValueError, match="at least 1"):
        Adapter(8, 0)
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match="library has no 'adapter'"):
        library(bert(), "adapter")


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_task_comes_back(method, tmp_path):
    taught = stirred(inject(bert(), method))
    written = save_adapter(taught, tmp_path / "task.safetensors")
    assert written >= 8 * size(taught).trainable
    other = load_adapter(inject(bert(), method), tmp_path / "task.safetensors")
    assert torch.equal(logits(other), logits(taught)) and gap(logits(taught), logits(bert())) > 1e-3


def test_tasks_are_switched_on_one_base():
    model = inject(bert(), "lora")
    start, tasks = adapter_state(model), [adapter_state(stirred(inject(bert(), "lora"), s)) for s in (1, 2)]
    first, second = (logits(load_adapter(model, t)) for t in tasks)
    assert gap(first, second) > 1e-3 and torch.equal(logits(load_adapter(model, tasks[0])), first) and torch.equal(logits(load_adapter(model, start)), logits(bert()))


def test_a_file_holds_the_scale_that_it_was_trained_for(tmp_path):
    save_adapter(stirred(inject(bert(), "lora", rank=4, alpha=16.0)), tmp_path / "a")
    other = inject(bert(), "lora", rank=4, alpha=4.0)
    with pytest.raises(ValueError, match=r"scale is 4 in the file and 1 in the model.*alpha"):
        load_adapter(other, tmp_path / "a")
    assert torch.equal(logits(other), logits(bert()))
    with pytest.raises(ValueError, match="shift is 1 in the file and 0"):
        load_adapter(PrefixTuned(bert(), 4), adapter_state(PrefixTuned(bert(), 4, shift=True)))


@pytest.mark.parametrize("method", LOW)
def test_torchs_own_state_says_whether_it_is_merged_and_at_what_scale(method):
    model = stirred(inject(bert(), method, rank=4))
    apart = logits(model)
    merge(model)
    other = inject(bert(), method, rank=4, alpha=2.0)
    other.load_state_dict(model.state_dict())
    assert gap(logits(other), apart) < 1e-12 and unmerge(other) == 4
    assert gap(logits(other), apart) < 1e-12
    model.load_state_dict(other.state_dict())
    assert gap(logits(model), apart) < 1e-12 and not any(m.merged for m in model.modules() if isinstance(m, LoRALinear))


def test_loading_what_does_not_fit_changes_nothing(tmp_path):
    model = stirred(inject(bert(), "lora", rank=4))
    before = logits(model)
    with pytest.raises(ValueError, match="in the file and .* in the model.*another base model"):
        load_adapter(model, adapter_state(inject(bert(width=16), "lora", rank=4)))
    with pytest.raises(ValueError, match="in the file and"):
        load_adapter(model, adapter_state(inject(bert(), "lora", rank=5)))
    with pytest.raises(ValueError, match="names do not agree"):
        load_adapter(model, adapter_state(inject(bert(layers=1), "lora", rank=4)))
    with pytest.raises(ValueError, match="was the same method"):
        load_adapter(model, adapter_state(inject(bert(), "adapter")))
    save_adapter(model, tmp_path / "a")
    (tmp_path / "half").write_bytes((tmp_path / "a").read_bytes()[:-50])
    with pytest.raises(ValueError, match="cut short"):
        load_adapter(model, tmp_path / "half")
    assert torch.equal(logits(model), before)
    merge(model)
    with pytest.raises(RuntimeError, match="unmerge it first"):
        load_adapter(model, tmp_path / "a")
    with pytest.raises(ValueError, match="nothing is trainable"):
        save_adapter(bert().requires_grad_(False), tmp_path / "none")
    assert not (tmp_path / "none").exists()


# ------------------------------------------------------------------------------------------------ the library

def twins(method, rank, theirs_rank, **more):
    pytest.importorskip("peft")
    ours, theirs = stirred(inject(bert(), method, rank=rank, alpha=6)), library(bert(), method, rank=theirs_rank, alpha=6, **more).eval()
    pairs = []
    for name, layer in ours.named_modules():
        if isinstance(layer, LoRALinear):
            twin = theirs.base_model.model.get_submodule(name)
            a, b = (twin.lora_A["default"], twin.lora_B["default"])
            for mine, its in ((layer.A, getattr(a, "weight", a)), (layer.B, getattr(b, "weight", b))):
                its.data = mine.data.clone()
            pairs.append((layer, twin))
    head = theirs.base_model.model.classifier.modules_to_save["default"]
    head.load_state_dict(ours.classifier.state_dict())
    return ours, theirs, pairs


def test_lora_is_pefts_lora():
    ours, theirs, _ = twins("lora", 4, 4)
    apart = logits(ours)
    assert gap(apart, logits(bert())) > 1e-3 and gap(apart, logits(theirs)) < 1e-12
    merge(ours)
    assert gap(logits(theirs.merge_and_unload()), logits(ours)) < 1e-12


def test_adalora_is_pefts_adalora():
    ours, theirs, pairs = twins("adalora", 6, 4, total=20)
    for layer, twin in pairs:
        twin.lora_E["default"].data = layer.E.data[:, None].clone()
        layer.scale = twin.scaling["default"] / (twin.ranknum["default"].item() + 1e-5)
    y = torch.tensor([0, 1, 2, 0])
    a, b = ours(IDS, MASK, labels=y), theirs(input_ids=IDS, attention_mask=MASK, labels=y)
    assert gap(a.logits, b.logits) < 1e-12
    assert (b.loss - a.loss).item() == pytest.approx(.5 * orthogonality([(m.B, m.A) for m, _ in pairs]).item(), rel=1e-9)
    mine, other = RankAllocator(ours, 4, 20, warm=4, final=5), theirs.base_model.rankallocator
    assert [mine.budget(t) for t in range(1, 21)] == [other.budget_schedule(t)[0] for t in range(1, 21)]
    for step in range(3):
        for m in (ours, theirs):
            m.zero_grad()
            F.cross_entropy(m(input_ids=IDS, attention_mask=MASK).logits, (y + step) % 3).backward()
        mine.observe()
        other.update_ipt(theirs.base_model.model)
    kept = mine.prune(mine.budget(12))
    other.mask_to_budget(theirs.base_model.model, other.budget_schedule(12)[0])
    assert all(torch.equal(m.E != 0, t.lora_E["default"][:, 0] != 0) for m, t in pairs) and len(set(kept.values())) > 1


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_vectors_are_pefts(method):
    pytest.importorskip("peft")
    theirs = library(bert(), method, length=4, max_length=12).double()
    table = theirs.prompt_encoder["default"].embedding.weight.detach()
    ours = PrefixTuned(bert(), 4, shift=True) if method == "prefix" else PromptTuned(bert(), 4)
    with torch.no_grad():
        getattr(ours, method).copy_(table.view(4, 2, 2, 2, 16).permute(1, 2, 3, 0, 4) if method == "prefix" else table)
    assert gap(logits(ours), logits(theirs)) < 1e-12 and gap(logits(ours), logits(bert())) > 1e-4


# ------------------------------------------------------------------------------------------------ a run

CONFIG = dict(encoder="random", data="toy_sentiment/toy_a", longest=64, n=24, steps=4, batch=8, rank=2, bottleneck=4, length=3, on="validation", limit=30)


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_runs_and_counts(method):
    if method in ("lora", "adalora", "prefix", "prompt"):
        pytest.importorskip("peft")
    out = tuning.trial(CONFIG | {"method": method, "lr": tuning.RATES[method]}, 0)
    want = size(tuning.base_model("random")).total if method == "full" else formula(method, tuning.base_model("random").config, 3 if method == "adalora" else 2, 4, 3) + 2 * 32 + 2
    assert out["trainable"] == want and out["optimizer_bytes"] == 8 * want and 0 <= out["accuracy"] <= 100


def train_without_dropout(model):
    "The penalty is part of the training loss alone; dropout would blur the comparison."
    model.train()
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.eval()


def test_adalora_prunes_and_is_penalised_in_the_run():
    pytest.importorskip("peft")
    trainer = tuning.tune(CONFIG | {"method": "adalora", "lr": 1e-2, "steps": 12}, 0)
    on = [int((p != 0).sum()) for n, p in trainer.model.named_parameters() if "lora_E" in n]
    assert sum(on) == 2 * 4                                                               # from 3 * 4
    batch = trainer.collator([dict(r) for r in rows("toy_sentiment/toy_a", "train", "random", 64).select(range(4))])
    loss = lambda: float(trainer.compute_loss(trainer.model, dict(batch)).detach())
    train_without_dropout(trainer.model)
    penalised = loss()
    trainer.model.eval()
    assert penalised > loss() + 1e-3


def own_rows(n=40, seed=0):
    from datasets import Dataset
    labels = [i % 2 for i in range(n)]
    rng = np.random.default_rng(seed)
    return Dataset.from_dict({"text": [" ".join([*rng.choice(["plot", "cast", "film", "story"], 4), "good" if y else "bad"]) for y in labels], "label": labels})


def fit(model, where, method="sgd", batch=8, steps=1, parts=1, lr=.1, kind=tuning.PeftTrainer, data=None, **more):
    from diversity_kit.learn.finetune import arguments
    args = arguments(where, batch=batch, lr=lr, max_steps=steps, seed=0, save_strategy="no", eval_strategy="no", load_best_model_at_end=False, optim=method, gradient_accumulation_steps=parts, warmup_steps=0,
                     max_grad_norm=0., weight_decay=0.)
    trainer = kind(model, args, data or own_rows(), tokenizer=tuning.tokenizer("random"), max_length=32, **more)
    trainer.train()
    return trainer


@pytest.mark.parametrize("method", METHODS)
def test_an_injected_model_trains_and_predicts_on_rows_of_ones_own(method, tmp_path):
    from diversity_kit.learn.finetune import AugmentedTrainer
    model = inject(tuning.base_model("random"), method, rank=4, bottleneck=4, length=3)
    trainer = fit(model, tmp_path, "adamw_torch", steps=3, lr=1e-2, kind=AugmentedTrainer)
    assert 0 <= trainer.predict(own_rows(10, 1)).metrics["test_accuracy"] <= 100 and trainer.predict(own_rows(10, 1)).predictions.shape == (10, 2)


def test_injected_adalora_is_pruned_and_penalised(tmp_path):
    model = inject(tuning.base_model("random"), "adalora", rank=6)
    trainer = fit(model, tmp_path, "adamw_torch", steps=15, lr=1e-2)
    on = [int((m.E != 0).sum()) for m in model.modules() if isinstance(m, AdaLoRALinear)]
    assert sum(on) == 4 * 4                                                               # two thirds of 4 * 6
    assert sum(int((m.E != 0).sum()) for m in fit(inject(tuning.base_model("random"), "adalora", rank=6), tmp_path, "adamw_torch", steps=15, lr=1e-2, target=2).model.modules() if isinstance(m, AdaLoRALinear)) == 4 * 2
    batch = trainer.collator([dict(r) for r in own_rows().select(range(4))])
    loss = lambda: float(trainer.compute_loss(trainer.model, dict(batch)).detach())
    train_without_dropout(trainer.model)
    penalised = loss()
    trainer.orthogonal = 0.
    assert penalised - loss() == pytest.approx(.5 * orthogonality([(m.B, m.A) for m in model.modules() if isinstance(m, AdaLoRALinear)]).item(), rel=1e-4)
    with pytest.raises(ValueError, match="target rank of 7"):
        fit(inject(tuning.base_model("random"), "adalora", rank=6), tmp_path, target=7)


@pytest.mark.parametrize("own", [True, False])
def test_the_penalty_counts_once_a_step(own, tmp_path):
    "7 rows at once, and as 3 + 3 + 1; a penalty for every micro-batch would count it thrice."
    if not own:
        pytest.importorskip("peft")
    moves = []
    for batch, parts in ((7, 1), (3, 3)):
        torch.manual_seed(0)
        model = tuning.base_model("random")
        for m in model.modules():
            if isinstance(m, nn.Dropout):
                m.p = 0.
        model = inject(model, "adalora", rank=4) if own else library(model, "adalora", 4, total=100)
        start = {n: q.detach().clone() for n, q in model.named_parameters() if q.requires_grad and "lora_E" not in n and not n.endswith(".E")}
        trainer = fit(model, tmp_path, batch=batch, parts=parts, lr=.01, data=own_rows(7), orthogonal=20.)
        moves.append(torch.cat([(dict(trainer.model.named_parameters())[n] - v).detach().flatten() for n, v in start.items()]))
    assert moves[0].norm() > 1e-3 and (moves[1] - moves[0]).norm() < 1e-3 * moves[0].norm()


def test_a_folder_is_a_base_model_and_another_network_is_none(tmp_path):
    bert = tuning.base_model("random", 3)
    bert.save_pretrained(tmp_path / "mine"), tuning.tokenizer("random").save_pretrained(tmp_path / "mine")
    again = tuning.base_model(tmp_path / "mine")
    assert all(torch.equal(v, again.bert.state_dict()[k]) for k, v in bert.bert.state_dict().items()) and again.config.num_labels == 2
    assert tuning.tokenizer(str(tmp_path / "mine"))("good")["input_ids"] == tuning.tokenizer("random")("good")["input_ids"]
    transformers.RobertaForSequenceClassification(transformers.RobertaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="holds no BERT encoder of this shape"):
        tuning.base_model(tmp_path / "other")


@pytest.mark.parametrize("method", LOW)
def test_an_unwrapped_model_is_the_librarys_again(method, tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3)
    model = stirred(inject(transformers.BertForSequenceClassification(config).double(), method, rank=4))
    before = logits(model)
    assert merge(model, unwrap=True) == 4 and gap(logits(model), before) < 1e-12
    assert set(model.state_dict()) == set(transformers.BertForSequenceClassification(config).state_dict()) and not any(isinstance(m, LoRALinear) for m in model.modules())
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64)
    assert gap(logits(again), before) < 1e-12
    with pytest.raises(ValueError, match="no low-rank layer"):
        merge(model)


def test_ranks_may_be_numpys():
    tuning.check_rank(np.int64(2), nn.Linear(4, 4))
    for rank in (np.float64(2), True, np.int64(5)):
        with pytest.raises(ValueError, match="whole number from 1 to 4"):
            tuning.check_rank(rank, nn.Linear(4, 4))


def test_trials_refuse():
    with pytest.raises(ValueError, match="'loar' is unknown"):
        tuning.tune(CONFIG | {"method": "loar", "lr": 1e-3}, 0)
    with pytest.raises(ValueError, match="rows asked for"):
        tuning.tune(CONFIG | {"method": "head", "lr": 1e-3, "n": 10**6}, 0)
    with pytest.raises(ValueError, match="no row of"):
        rows("toy_sentiment/toy_a", "train", "random", 2)


def test_test_rows_keep_their_mark():
    from diversity_kit.learn.finetune import is_test
    assert is_test(rows("toy_sentiment/toy_a", "test", "random", 64)) and not is_test(rows("toy_sentiment/toy_a", "train", "random", 64))
