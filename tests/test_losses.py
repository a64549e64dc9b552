"""foundations.losses: equal to torch and transformers, gradients, floors, corruption statistics, faults, exercises."""
import contextlib
import io
import json
import math
import random
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.foundations import losses as ls
from diversity_kit.foundations.losses import IGNORE

V, NAN, INF = 30, math.nan, math.inf


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ints(*shape, low=5, high=V, seed=0):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


# ---- softmax

@pytest.mark.parametrize("scale", [1, 300, 1e5])
def test_log_softmax_is_torchs_and_shift_invariant(scale):
    z = scale * rand(3, 4, 7)
    assert torch.allclose(ls.log_softmax(z), F.log_softmax(z, -1), rtol=1e-14, atol=1e-14)
    assert torch.allclose(ls.softmax(z + 77 * scale), F.softmax(z, -1), rtol=1e-9, atol=1e-12)
    assert torch.allclose(ls.softmax(z).sum(-1), torch.ones(3, 4, dtype=torch.float64))


def test_log_softmax_gradient_with_ties_and_impossible_classes():
    z = torch.tensor([[2.0, 2.0, -INF, 0.0]], dtype=torch.float64, requires_grad=True)
    ours, = torch.autograd.grad(ls.cross_entropy(z, torch.tensor([1])), z)
    want, = torch.autograd.grad(F.cross_entropy(z, torch.tensor([1])), z)
    assert torch.allclose(ours, want, atol=1e-15) and ls.softmax(z)[0, 2] == 0
    assert torch.autograd.gradcheck(ls.log_softmax, rand(2, 5).requires_grad_())


@pytest.mark.parametrize("bad, error, message", [
    (torch.tensor([1, 2]), TypeError, "int64"), ([1.0, 2.0], TypeError, "list"), (torch.zeros(2, 0), ValueError, "empty"),
    (torch.tensor([[1.0, NAN]]), ValueError, "1 of 2"), (torch.tensor([[1.0, INF]]), ValueError, "inf"), (torch.full((1, 3), -INF), ValueError, "throughout")])
def test_logits_faults(bad, error, message):
    with pytest.raises(error, match=message):
        ls.log_softmax(bad)


# ---- cross-entropy

@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_is_torchs(reduction, smoothing):
    z, y = rand(4, 6, V), ints(4, 6)
    y[1, 2:] = y[3] = IGNORE
    want = F.cross_entropy(z.flatten(0, 1), y.flatten(), reduction=reduction, label_smoothing=smoothing)
    got = ls.cross_entropy(z, y, reduction, smoothing)
    assert torch.allclose(got, want.view_as(got), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradient_is_p_minus_q(smoothing):
    z, y = rand(5, 4).requires_grad_(), torch.tensor([0, 3, IGNORE, 2, 2])
    auto, = torch.autograd.grad(ls.cross_entropy(z, y, smoothing=smoothing), z)
    hand = ls.cross_entropy_gradient(z, y, smoothing)
    assert torch.allclose(auto, hand, atol=1e-15) and (hand[2] == 0).all() and hand.abs().sum() > .1
    assert hand.sum(-1).abs().max() < 1e-15                             # shift invariance: no force along (1, ..., 1)
    assert torch.autograd.gradcheck(lambda t: ls.cross_entropy(t, y, smoothing=smoothing), z)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.floats(0, .9))
@settings(max_examples=60, deadline=None)
def test_no_constant_beats_the_label_entropy(labels, smoothing):
    y = torch.tensor(labels)
    best, floor = ls.constant_optimum(y, 5)
    z = rand(5, seed=len(labels)).expand(len(y), -1)
    assert ls.cross_entropy(z, y) >= floor - 1e-12
    assert float(ls.cross_entropy(best.double().expand(len(y), -1), y)) == pytest.approx(floor, abs=1e-6)
    q = (1 - smoothing) * F.one_hot(y, 5).double() + smoothing / 5
    entropy = -torch.special.xlogy(q, q).sum(-1).mean()
    assert ls.cross_entropy(z, y, smoothing=smoothing) >= entropy - 1e-12


def test_constant_optimum_ignores_and_refuses():
    assert ls.constant_optimum(torch.tensor([0, 1, IGNORE, IGNORE]), 2)[1] == pytest.approx(math.log(2), abs=1e-7)
    assert ls.constant_optimum(torch.tensor([1, 1]), 3)[1] == 0
    with pytest.raises(ValueError, match="entropy"):
        ls.constant_optimum(torch.tensor([IGNORE]), 2)


@pytest.mark.parametrize("labels, error, message", [
    (torch.tensor([0, 3]), ValueError, "label 3"), (torch.tensor([0, -1]), ValueError, "label -1"), (torch.tensor([0.0, 1.0]), TypeError, "float"),
    (torch.tensor([True, False]), TypeError, "bool"), (["positive", "negative"], TypeError, "list"), (torch.tensor([0]), ValueError, "shape"),
    (torch.tensor([IGNORE, IGNORE]), ValueError, "mean over nothing")])
def test_label_faults(labels, error, message):
    with pytest.raises(error, match=message):
        ls.cross_entropy(torch.zeros(2, 3), labels)


@pytest.mark.parametrize("options", [{"reduction": "avg"}, {"smoothing": 1.0}, {"smoothing": -.1}, {"smoothing": NAN}])
def test_cross_entropy_option_faults(options):
    with pytest.raises(ValueError, match="reduction"):
        ls.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), **options)


def test_nothing_to_count_is_a_zero_sum():
    z = rand(2, 3).requires_grad_()
    total = ls.cross_entropy(z, torch.tensor([IGNORE, IGNORE]), "sum")
    assert total == 0 and (torch.autograd.grad(total, z)[0] == 0).all()


# ---- two classes

@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_is_torchs_and_the_difference_of_two_logits(reduction):
    z, y = 30 * rand(50, 2), ints(50, low=0, high=2)
    d = z[:, 1] - z[:, 0]
    got = ls.binary_cross_entropy(d, y, reduction)
    assert torch.allclose(got, F.binary_cross_entropy_with_logits(d, y.double(), reduction=reduction), rtol=1e-13, atol=1e-14)
    assert torch.allclose(got, ls.cross_entropy(z, y, reduction), rtol=1e-12, atol=1e-12)


def test_a_logit_of_minus_infinity_is_a_right_answer_for_class_0():
    z = torch.tensor([-math.inf, -800.0, 2.0], requires_grad=True)
    loss = ls.binary_cross_entropy(z, torch.tensor([0.0, 0.0, 1.0]), "none")
    assert loss[:2].tolist() == [0.0, 0.0] and loss[2].item() == pytest.approx(math.log1p(math.exp(-2.0)))
    loss.sum().backward()
    assert torch.isfinite(z.grad).all()
    assert ls.binary_cross_entropy(torch.tensor([-math.inf]), torch.tensor([1.0])).item() == math.inf


def test_the_gradient_refuses_what_the_loss_refuses():
    z = torch.zeros(2, 3)
    for labels, smoothing in ((torch.tensor([-100, -100]), 0.0), (torch.tensor([0, 1]), 2.0), (torch.tensor([0, 3]), 0.0)):
        for f in (ls.cross_entropy_gradient, lambda z, y, smoothing: ls.cross_entropy(z, y, smoothing=smoothing)):
            with pytest.raises(ValueError):
                f(z, labels, smoothing=smoothing)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        ls.constant_optimum(torch.tensor([0, 5, 5]), 3)


def test_binary_extremes_and_soft_labels():
    z = torch.tensor([-1e4, 1e4, 0.0], dtype=torch.float64)
    assert ls.binary_cross_entropy(z, torch.tensor([1.0, 0.0, .5]), "none").tolist() == pytest.approx([1e4, 1e4, math.log(2)])
    z = torch.tensor([0.0, 0.0, 0.0, 40.0, -40.0], requires_grad=True)                     # zero is where a head begins
    ls.binary_cross_entropy(z, torch.tensor([1.0, 0.0, .3, 1.0, 0.0]), "sum").backward()
    assert z.grad.tolist() == pytest.approx([-.5, .5, .2, 0, 0])
    assert torch.autograd.gradcheck(lambda t: ls.binary_cross_entropy(t, torch.tensor([1.0, .3])), rand(2).requires_grad_())


@pytest.mark.parametrize("z, y, error, message", [
    (torch.tensor([0, 1]), torch.tensor([1, 0]), TypeError, "decision"), (torch.zeros(2), torch.tensor([1, -1]), ValueError, "recode"),
    (torch.zeros(2), torch.tensor([1.0, NAN]), ValueError, "recode"), (torch.zeros(2), torch.zeros(2, 1), ValueError, "one shape"), (torch.zeros(0), torch.zeros(0), ValueError, "empty")])
def test_binary_faults(z, y, error, message):
    with pytest.raises(error, match=message):
        ls.binary_cross_entropy(z, y)


# ---- pretraining and fine-tuning

def test_pretraining_loss_pools_tokens_over_draws():
    table, ids, plan = rand(V, V), ints(2, 6), [torch.zeros(2, 6, dtype=torch.bool) for _ in range(3)]
    plan[0][0, 1] = plan[2][:, 2:5] = True                             # 1, 0 and 6 targets
    draws = iter(plan)
    got = ls.pretraining_loss(lambda x: table[x], ids, lambda x: (lambda m: (x.masked_fill(m, 4), x.masked_fill(~m, IGNORE)))(next(draws)), draws=3)
    nll = -table.log_softmax(-1)[4][ids]                               # every predicted position shows the mask
    assert got == pytest.approx((nll[plan[0]].sum() + nll[plan[2]].sum()).item() / 7)


def test_pretraining_faults():
    hide_nothing = lambda x: (x, torch.full_like(x, IGNORE))
    with pytest.raises(ValueError, match="hid no token"):
        ls.pretraining_loss(lambda x: rand(V, V)[x], ints(2, 3), hide_nothing)
    with pytest.raises(ValueError, match="draws"):
        ls.pretraining_loss(None, ints(2, 3), hide_nothing, draws=0)


def test_finetuning_starts_at_log_classes_and_trains_the_head_only_when_frozen():
    body, head = torch.nn.Linear(4, 4).double().requires_grad_(False), torch.nn.Linear(4, 5).double()
    torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    loss = ls.finetuning_loss(body, head, rand(7, 4), ints(7, low=0, high=5))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5)) and body.weight.grad is None and head.weight.grad.abs().sum() > 0


# ---- masking

def test_mask_tokens_shares_and_untouched_positions():
    ids, candidates = ints(400, 128), torch.arange(5, V)
    frozen = torch.zeros_like(ids, dtype=torch.bool)
    frozen[:, 0] = frozen[:, 100:] = True
    before, g = ids.clone(), torch.Generator().manual_seed(1)
    inputs, labels = ls.mask_tokens(ids, 4, candidates, frozen, generator=g)
    chosen = labels != IGNORE
    assert torch.equal(ids, before) and not (chosen & frozen).any() and torch.equal(inputs[~chosen], ids[~chosen]) and torch.equal(labels[chosen], ids[chosen])
    n = int(chosen.sum())
    for k, total, p in ((n, int((~frozen).sum()), .15), (int((inputs[chosen] == 4).sum()), n, .8), (int((inputs[chosen] == ids[chosen]).sum()), n, .1 + .1 / 25)):
        assert abs(k / total - p) < 4.5 * math.sqrt(p * (1 - p) / total)
    assert set(inputs[chosen].tolist()) <= {4, *range(5, V)}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_mask_tokens_limits(share):
    ids = ints(3, 8)
    inputs, labels = ls.mask_tokens(ids, 4, torch.arange(5, V), share=share, random_share=0, kept_share=0)
    assert torch.equal(inputs, ids if share == 0 else torch.full_like(ids, 4)) and torch.equal(labels != IGNORE, torch.full_like(ids, share == 1, dtype=torch.bool))


def test_whole_words_are_chosen_together_at_the_same_rate():
    groups = torch.tensor([[0, 0, 1, 2, 2, 2, 3, 4]]).repeat(5000, 1)
    ids = ints(5000, 8)
    _, labels = ls.mask_tokens(ids, 4, torch.arange(5, V), groups=groups, generator=torch.Generator().manual_seed(0))
    chosen = labels != IGNORE
    assert torch.equal(chosen[:, 0], chosen[:, 1]) and torch.equal(chosen[:, 3], chosen[:, 4]) and torch.equal(chosen[:, 3], chosen[:, 5])
    assert not torch.equal(chosen[:, 1], chosen[:, 2])
    assert (chosen.double().mean(0) - .15).abs().max() < 4.5 * math.sqrt(.15 * .85 / 5000)


def test_masking_has_the_collators_statistics():
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(V - 5))]
    tok = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="[UNK]")),
                                  pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    ids = ints(600, 64)
    frozen = torch.zeros_like(ids, dtype=torch.bool)
    frozen[:, :1] = True
    theirs = DataCollatorForLanguageModeling(tok, seed=0).torch_mask_tokens(ids.clone(), special_tokens_mask=frozen)
    ours = ls.mask_tokens(ids, 4, torch.arange(V), frozen, generator=torch.Generator().manual_seed(0))      # they draw from the whole vocabulary
    rates = [[(y != IGNORE).double().sum() / (~frozen).sum(), *((x == t)[y != IGNORE].double().mean() for t in (4, ids))] for x, y in (ours, theirs)]
    for a, b, p, n in zip(*rates, (.15, .8, .1), (ids.numel(), .15 * ids.numel(), .15 * ids.numel())):
        assert abs(a - b) < 4.5 * math.sqrt(2 * p * (1 - p) / n)


@pytest.mark.parametrize("options", [{"share": 1.5}, {"share": NAN}, {"random_share": .6, "kept_share": .6}, {"random_share": -.1}, {"candidates": torch.tensor([], dtype=torch.long)},
                                     {"frozen": torch.zeros(2, 3)}, {"groups": torch.zeros(2, 3, dtype=torch.long)}, {"ids": ints(8)}])
def test_mask_faults(options):
    with pytest.raises(ValueError):
        ls.mask_tokens(**({"ids": ints(2, 8), "mask_id": 4, "candidates": torch.arange(5, V)} | options))


# ---- the library's models, in double precision

@pytest.fixture(scope="module")
def nets():
    import transformers as tr
    torch.manual_seed(0)
    bert = tr.BertConfig(vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32)
    gpt = tr.GPT2Config(vocab_size=V, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    t5 = tr.T5Config(vocab_size=V, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0, pad_token_id=0)
    made = {"mlm": tr.BertForMaskedLM(bert), "pre": tr.BertForPreTraining(bert), "gpt": tr.GPT2LMHeadModel(gpt), "t5": tr.T5ForConditionalGeneration(t5)}
    return {k: m.double().eval() for k, m in made.items()}


def test_bert_losses_are_the_librarys(nets):
    ids = ints(3, 10)
    inputs, labels = ls.mask_tokens(ids, 4, torch.arange(5, V), share=.4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mlm, pre = nets["mlm"](inputs, labels=labels), nets["pre"](inputs, labels=labels, next_sentence_label=torch.tensor([0, 1, 1]))
    assert abs(ls.mlm_loss(mlm.logits, labels) - mlm.loss) < 1e-14
    assert abs(ls.bert_loss(pre.prediction_logits, labels, pre.seq_relationship_logits, torch.tensor([0, 1, 1])) - pre.loss) < 1e-14
    with pytest.raises(ValueError, match="two classes"):
        ls.nsp_loss(mlm.logits[:, 0], torch.tensor([0, 1, 1]))


def test_causal_loss_is_the_librarys_and_shifts(nets):
    ids = ints(3, 10)
    labels = ids.clone()
    labels[1, 4:] = IGNORE
    with torch.no_grad():
        out = nets["gpt"](ids, labels=labels)
    got = ls.causal_loss(out.logits, labels)
    assert abs(got - F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())) < 1e-14
    assert abs(got - out.loss) < 1e-5 and abs(ls.cross_entropy(out.logits, labels) - out.loss) > 1e-3        # the library's is float32
    assert ls.causal_loss(out.logits, labels, smoothing=.1) != got


@pytest.mark.parametrize("z, y", [(rand(2, 1, V), ints(2, 1)), (rand(2, 5, V), ints(2, 4)), (rand(5, V), ints(5))])
def test_causal_faults(z, y):
    with pytest.raises(ValueError):
        ls.causal_loss(z, y)


def test_span_loss_and_shift_are_t5s(nets):
    labels = ints(2, 7)
    labels[1, 4:] = IGNORE
    with torch.no_grad():
        out = nets["t5"](input_ids=ints(2, 9, seed=1), labels=labels)
        forced = nets["t5"](input_ids=ints(2, 9, seed=1), decoder_input_ids=ls.shift_right(labels, 0, 0)).logits
    assert torch.equal(ls.shift_right(labels, 0, 0), nets["t5"]._shift_right(labels))
    assert abs(ls.seq2seq_loss(forced, labels) - out.loss) < 1e-14


# ---- next sentences

def test_nsp_pairs_properties():
    documents = [[(d, s) for s in range(40)] for d in range(50)] + [[], [("single", 0)]]
    pairs = ls.nsp_pairs(documents, random.Random(0))
    assert len(pairs) == 50 * 39
    for a, b, label in pairs:
        assert (b == (a[0], a[1] + 1)) if label == 0 else (b[0] != a[0])
    share = sum(label for *_, label in pairs) / len(pairs)
    assert abs(share - .5) < 4.5 * math.sqrt(.25 / len(pairs))
    assert {b[0] for _, b, label in pairs if label} == {*range(50), "single"}
    assert ls.nsp_pairs(documents, random.Random(1)) != pairs == ls.nsp_pairs(documents, random.Random(0))


@pytest.mark.parametrize("documents", [[], [["a", "b"]], [["a", "b"], []], [["a"], ["b"]]])
def test_nsp_faults(documents):
    with pytest.raises(ValueError, match="two documents"):
        ls.nsp_pairs(documents, random.Random(0))


# ---- spans

@given(st.integers(2, 120), st.floats(.02, .9), st.floats(1, 6), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_spans_round_trip(n, density, length, seed):
    ids, marks = list(range(n)), list(range(1000, 1130))
    inputs, targets = ls.corrupt_spans(ids, marks, density, length, torch.Generator().manual_seed(seed))
    assert ls.restore_spans(inputs, targets, marks) == ids
    gone = min(max(round(n * density), 1), n - 1)
    used = [t for t in inputs if t >= 1000]
    assert len([t for t in targets if t < 1000]) == gone == n - len([t for t in inputs if t < 1000])
    assert used == marks[:len(used)] and [t for t in targets if t >= 1000] == marks[:len(used) + 1] and targets[-1] == marks[len(used)]
    assert all(a < 1000 or b < 1000 for a, b in zip(inputs, inputs[1:]))                # no two spans touch


def test_spans_vary_and_have_the_mean_length():
    marks = list(range(1000, 1020))
    drawn = [ls.corrupt_spans(list(range(100)), marks, .15, 3, torch.Generator().manual_seed(s))[1] for s in range(50)]
    assert len({tuple(d) for d in drawn}) == 50 and all(len(d) == 15 + 6 for d in drawn)           # 15 tokens, 5 spans, a closing sentinel


@pytest.mark.parametrize("ids, options", [([1], {}), ([1, 2], {"density": 0}), ([1, 2], {"density": 1}), ([1, 2], {"density": NAN}), ([1, 2], {"length": .5}), ([1, 900], {}),
                                          (list(range(100)), {"density": .5, "length": 1}), (list(range(6)), {"density": .5, "length": 1})])   # 3 spans need 4 sentinels
def test_span_faults(ids, options):
    with pytest.raises(ValueError):
        ls.corrupt_spans(ids, [900, 901, 902], **options)


def test_restore_names_the_lost_sentinel():
    with pytest.raises(ValueError, match="901"):
        ls.restore_spans([1, 900, 2, 901], [900, 5], [900, 901])


# ---- perplexity, bits per byte

def test_perplexity_and_bits_per_byte():
    assert ls.perplexity(math.log(50)) == pytest.approx(50) and ls.perplexity(0) == 1 and ls.perplexity(1e4) == INF
    assert ls.bits_per_byte(math.log(2) * 9, ["数据", "abc"]) == 1                        # 6 + 3 bytes
    for bad in (-1, NAN):
        with pytest.raises(ValueError):
            ls.perplexity(bad)
    for total, texts in ((1, []), (1, [""]), (-1, ["a"]), (NAN, ["a"])):
        with pytest.raises(ValueError):
            ls.bits_per_byte(total, texts)


# ---- exercises: stub and plausible wrong answers fail, the folded solution passes

NOTEBOOK = Path(__file__).parents[1] / "nbs/foundations/22_losses.ipynb"


def folded_solution(name):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    blocks, space = re.findall(r"<details><summary>Solution</summary>\s*```python\n(.*?)```", prose, re.S), {}
    exec(next(b for b in blocks if f"def {name}(" in b), space)
    return space[name]


def _others(logp, y, eps):
    right, classes = logp.gather(1, y[:, None])[:, 0], logp.shape[1]
    return -((1 - eps) * right + eps / (classes - 1) * (logp.sum(1) - right)).mean()


WRONG = {
    "smoothed": (ls.check_smoothed, {"NoneType": lambda *a: None, "wrong value": _others,
                                     "wrong shape": lambda logp, y, eps: -((1 - eps) * logp.gather(1, y[:, None])[:, 0] + eps * logp.mean(1)),
                                     "n=5.*wrong value": lambda logp, y, eps: -logp.gather(1, y[:, None]).mean()}),
    "answer_labels": (ls.check_answer_labels, {
        "NoneType": lambda *a: None, "right: right shape, wrong value": lambda ids, mask, n: ids.masked_fill(torch.arange(6) < n[:, None], -100),
        "left: right shape, wrong value": lambda ids, mask, n: ids.masked_fill((torch.arange(6) < n[:, None]) | (mask == 0), -100),
        "wrong shape": lambda ids, mask, n: ids.masked_fill(mask == 0, -100)[:, 1:],
        "right: .*value": lambda ids, mask, n: ids.masked_fill((mask.cumsum(1) <= n[:, None] + 1) | (mask == 0), -100)}),
}


@pytest.mark.parametrize("name", WRONG)
def test_exercise(name):
    check, wrong = WRONG[name]
    for message, answer in wrong.items():
        with pytest.raises(AssertionError, match=message):
            check(answer)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        check(folded_solution(name))
    assert "all checks pass" in out.getvalue()
