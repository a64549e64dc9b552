"""foundations.losses: equality with torch and transformers in double precision, corruption round trips, and refusals."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.foundations.losses import (IGNORE, bert_loss, binary_cross_entropy, causal_lm_loss, cross_entropy, log_softmax, mask_tokens,
                                              next_sentence_pairs, perplexity, shift_right, softmax, span_corruption, splice)

V, SENTINELS = 40, list(range(-300, 0))
NAN, INF = float("nan"), float("inf")


def rand(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ids(*shape, seed=0, low=5, high=V):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def model(kind, config, **more):
    torch.manual_seed(0)
    return kind(config(vocab_size=V, **more)).double().eval()


BERT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32)


# ---- softmax and cross-entropy

@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 99), st.floats(0, 1), st.sampled_from([1e-3, 1.0, 300.0]))
@settings(max_examples=60, deadline=None)
def test_cross_entropy_is_torchs(rows, classes, seed, smoothing, scale):
    z, y = rand(rows, classes, seed=seed, scale=scale), torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))
    y[1:][torch.rand(rows - 1, generator=torch.Generator().manual_seed(seed)) < 0.3] = IGNORE
    for how in ("mean", "sum", "none"):
        torch.testing.assert_close(cross_entropy(z, y, smoothing, how), F.cross_entropy(z, y, label_smoothing=smoothing, reduction=how), rtol=1e-12, atol=1e-12)
    assert (softmax(z).sum(-1) - 1).abs().max() < 1e-12
    assert (log_softmax(z + 123.0) - log_softmax(z)).abs().max() < 1e-10 * max(1, scale)


def test_cross_entropy_golden_and_gradient():
    assert cross_entropy(torch.tensor([[0.0, math.log(3)]]), torch.tensor([1])).item() == pytest.approx(math.log(4 / 3), abs=1e-7)
    z, y = rand(4, 3).requires_grad_(), torch.tensor([0, 2, IGNORE, 1])
    assert torch.autograd.gradcheck(lambda t: cross_entropy(t, y, 0.2), z)
    grad, = torch.autograd.grad(cross_entropy(z, y, reduction="sum"), z)
    torch.testing.assert_close(grad[[0, 1, 3]], softmax(z)[[0, 1, 3]] - F.one_hot(y[[0, 1, 3]], 3))
    assert grad[2].abs().max() == 0


def test_forbidden_classes_and_extremes():
    z = torch.tensor([[0.0, -INF, 0.0], [1000.0, 999.0, -INF]])
    assert cross_entropy(z[:1], torch.tensor([2])).item() == pytest.approx(math.log(2))
    assert softmax(z)[1].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), 0])
    assert cross_entropy(z[:1], torch.tensor([1])).item() == INF                                             # as torch: a forbidden label


def test_a_single_class_has_loss_zero():
    assert cross_entropy(rand(3, 1), torch.zeros(3, dtype=torch.long)).item() == 0


@pytest.mark.parametrize("logits, labels, error, words", [
    (torch.ones(2, 3, dtype=torch.long), torch.tensor([0, 1]), TypeError, "scores"),
    ([[1.0, 2.0]], torch.tensor([0]), TypeError, "list"),
    (rand(2, 3), torch.tensor([0.0, 1.0]), TypeError, "whole numbers"),
    (rand(2, 3), torch.tensor([True, False]), TypeError, "whole numbers"),
    (rand(2, 3), ["good", "bad"], TypeError, "list"),
    (rand(2, 3), torch.tensor([0, 3]), ValueError, "3 classes"),
    (rand(2, 3), torch.tensor([0, -1]), ValueError, "from -1"),
    (rand(2, 3), torch.tensor([0]), ValueError, "one label for each"),
    (rand(2, 3), torch.tensor([IGNORE, IGNORE]), ValueError, "nothing to score"),
    (torch.tensor([[NAN, 1.0]]), torch.tensor([0]), ValueError, "NaN"),
    (torch.tensor([[INF, 1.0]]), torch.tensor([0]), ValueError, "inf"),
    (torch.tensor([[-INF, -INF]]), torch.tensor([0]), ValueError, "-inf"),
    (torch.ones(0, 3), torch.ones(0, dtype=torch.long), ValueError, "at least one row"),
])
def test_cross_entropy_refuses(logits, labels, error, words):
    with pytest.raises(error, match=words):
        cross_entropy(logits, labels)


@pytest.mark.parametrize("options", [{"smoothing": -0.1}, {"smoothing": 1.1}, {"reduction": "avg"}])
def test_cross_entropy_refuses_options(options):
    with pytest.raises(ValueError, match="smoothing"):
        cross_entropy(rand(2, 3), torch.tensor([0, 1]), **options)


@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(0, 1)), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_binary_cross_entropy_is_torchs_and_the_two_logit_loss(pairs):
    z, y = (torch.tensor(v, dtype=torch.float64) for v in zip(*pairs))
    torch.testing.assert_close(binary_cross_entropy(z, y), F.binary_cross_entropy_with_logits(z, y), rtol=1e-12, atol=1e-12)
    two, hard = torch.stack([torch.zeros_like(z), z], -1), (y > 0.5).long()
    torch.testing.assert_close(binary_cross_entropy(z, hard), cross_entropy(two, hard), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("z, y, error", [
    (torch.tensor([0, 1]), torch.tensor([0, 1]), TypeError), (rand(2), torch.tensor([0.0, 1.5]), ValueError), (rand(2), torch.tensor([0.0, NAN]), ValueError),
    (rand(2), torch.tensor([1.0]), ValueError), (torch.tensor([INF]), torch.tensor([1.0]), ValueError), (rand(0), torch.ones(0), ValueError)])
def test_binary_cross_entropy_refuses(z, y, error):
    with pytest.raises(error):
        binary_cross_entropy(z, y)


# ---- the libraries' own models

def test_masked_lm_and_bert_equal_transformers():
    x, attention = ids(4, 12), torch.ones(4, 12, dtype=torch.long)
    attention[1, 5:] = 0
    shown, asked = mask_tokens(x.masked_fill(attention == 0, 0), 3, V, special_ids=(0,), rate=0.5, generator=torch.Generator().manual_seed(1))
    m = model(transformers.BertForMaskedLM, transformers.BertConfig, **BERT)
    out = m(input_ids=shown, attention_mask=attention, labels=asked)
    assert out.loss.item() == pytest.approx(cross_entropy(out.logits, asked).item(), abs=1e-13)
    both, follows = model(transformers.BertForPreTraining, transformers.BertConfig, **BERT), torch.tensor([0, 1, 1, 0])
    out = both(input_ids=shown, attention_mask=attention, labels=asked, next_sentence_label=follows)
    assert out.loss.item() == pytest.approx(bert_loss(out.prediction_logits, out.seq_relationship_logits, asked, follows).item(), abs=1e-13)
    pair = model(transformers.BertForNextSentencePrediction, transformers.BertConfig, **BERT)(input_ids=shown, labels=follows)
    assert pair.loss.item() == pytest.approx(cross_entropy(pair.logits, follows).item(), abs=1e-13)


def test_causal_loss_equals_torch_and_gpt2():
    x = ids(3, 9)
    m = model(transformers.GPT2LMHeadModel, transformers.GPT2Config, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    labels = x.clone()
    labels[0, 4:] = IGNORE
    out = m(input_ids=x, labels=labels)
    ours = causal_lm_loss(out.logits, labels)
    assert ours.item() == pytest.approx(F.cross_entropy(out.logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1)).item(), abs=1e-13)
    assert ours.item() == pytest.approx(out.loss.item(), abs=1e-6)                                          # transformers casts to float32
    assert causal_lm_loss(out.logits, labels, "none").shape == (3, 8)
    assert abs(ours - cross_entropy(out.logits, labels)) > 1e-4                                             # the shift matters


def test_causal_loss_refuses():
    for z, y in ((rand(2, 1, V), ids(2, 1)), (rand(4, V), ids(4)), (rand(2, 5, V), ids(2, 4))):
        with pytest.raises(ValueError):
            causal_lm_loss(z, y)


def test_seq2seq_loss_and_shift_equal_t5():
    m = model(transformers.T5ForConditionalGeneration, transformers.T5Config, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    x, y = ids(2, 10), ids(2, 6, seed=1)
    y[1, 4:] = IGNORE
    out = m(input_ids=x, labels=y)
    assert out.loss.item() == pytest.approx(cross_entropy(out.logits, y).item(), abs=1e-13)
    by_hand = m(input_ids=x, decoder_input_ids=shift_right(y, 0, 0)).logits
    assert (by_hand - out.logits).abs().max() < 1e-13
    assert shift_right(y, 7, 0)[:, 0].tolist() == [7, 7] and shift_right(y, 7, 0)[1, -1] == 0


# ---- corruption

@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 99), st.floats(0.05, 1))
@settings(max_examples=50, deadline=None)
def test_masking_can_be_undone_and_spares_special_tokens(rows, width, seed, rate):
    x = ids(rows, width, seed=seed, low=0)
    before = x.clone()
    shown, asked = mask_tokens(x, 3, V, special_ids=(0, 1, 2), rate=rate, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(x, before) and torch.equal(torch.where(asked != IGNORE, asked, shown), x)
    assert (asked[x < 3] == IGNORE).all()
    again = mask_tokens(x, 3, V, special_ids=(0, 1, 2), rate=rate, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(shown, again.input_ids)


def shares(shown, asked, x):
    chosen = asked != IGNORE
    return np.array([chosen.double().mean(), (shown == 3)[chosen].double().mean(), (shown == x)[chosen].double().mean()])


def test_shares_are_berts_and_those_of_the_librarys_collator():
    x = ids(500, 200)
    ours = shares(*mask_tokens(x, 3, V, generator=torch.Generator().manual_seed(0)), x)
    expected = np.array([0.15, 0.8 + 0.1 / V, 0.1 + 0.1 / V])
    se = (expected * (1 - expected) / np.array([x.numel(), 0.15 * x.numel(), 0.15 * x.numel()])) ** 0.5
    assert (abs(ours - expected) < 4.5 * se).all()
    from tokenizers import Tokenizer, models
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3, "[UNK]": 4} | {f"w{i}": i for i in range(5, V)}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "[UNK]")), pad_token="[PAD]", cls_token="[CLS]",
                                                     sep_token="[SEP]", mask_token="[MASK]", unk_token="[UNK]")
    torch.manual_seed(0)
    made = transformers.DataCollatorForLanguageModeling(tokenizer)([{"input_ids": row} for row in x])
    theirs = shares(made["input_ids"], made["labels"], x)
    assert (abs(ours - theirs) < 6 * se).all()


def test_all_and_only_masks():
    x = ids(20, 50)
    shown, asked = mask_tokens(x, 3, V, rate=1.0, masked=1.0, random=0.0)
    assert (shown == 3).all() and torch.equal(asked, x)
    shown, asked = mask_tokens(x, 3, V, rate=1.0, masked=0.0, random=0.0)
    assert torch.equal(shown, x) and torch.equal(asked, x)


@pytest.mark.parametrize("options", [{"rate": 0}, {"rate": 1.5}, {"masked": -0.1}, {"masked": 0.8, "random": 0.3}, {"vocab_size": 10}, {"mask_id": V}])
def test_masking_refuses(options):
    with pytest.raises(ValueError):
        mask_tokens(ids(2, 5, low=20), **{"mask_id": 3, "vocab_size": V, **options})


@given(st.integers(2, 120), st.integers(0, 10**6), st.floats(0.01, 0.99), st.floats(1, 8))
@settings(max_examples=150, deadline=None)
def test_span_corruption_can_be_spliced_back(length, seed, rate, mean_span):
    x = np.random.default_rng(seed).integers(0, 9, length).tolist()
    given_, asked = span_corruption(x, SENTINELS, rate, mean_span, seed)
    assert splice(given_, asked, SENTINELS) == x
    hidden = min(max(round(length * rate), 1), length - 1)
    used = [t for t in asked if t < 0]
    assert len(asked) - len(used) == hidden and used == SENTINELS[:len(used)] and [t for t in given_ if t < 0] == used[:-1]
    assert not any(a < 0 and b < 0 for a, b in zip(given_, given_[1:]))                                     # spans do not touch


def test_every_arrangement_of_spans_is_equally_likely():
    seen = [tuple(span_corruption(range(5), SENTINELS, 0.4, 1.0, seed)[0]) for seed in range(6000)]             # 2 single tokens of 5, apart: 6 ways
    counts = {k: seen.count(k) for k in set(seen)}
    assert len(counts) == 6 and all(abs(c - 1000) < 5 * (1000 * 5 / 6) ** 0.5 for c in counts.values())


@pytest.mark.parametrize("x, options", [([1], {}), ([1, 2, 3], {"rate": 0}), ([1, 2, 3], {"rate": 1}), ([1, 2, 3], {"mean_span": 0.5}), ([1, -300, 3], {}),
                                        ([1, 2, 3], {"sentinels": [-1]}), ([1, 2, 3], {"sentinels": [-1, -1, -2]})])
def test_span_corruption_refuses(x, options):
    with pytest.raises(ValueError):
        span_corruption(x, **{"sentinels": SENTINELS, **options})


def test_splice_refuses_targets_that_do_not_fit():
    with pytest.raises(ValueError, match="start with a sentinel"):
        splice([-3, 5], [5, -3], [-3, -2])
    with pytest.raises(ValueError, match="no span for sentinel -2"):
        splice([-3, 5, -2], [-3, 7], [-3, -2])


# ---- next sentence

DOCS = [["a1", "a2", "a3"], ["b1", "b2"], [], ["天气很好。", "我们走吧。"]]


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_pairs_are_half_and_half_and_true(seed):
    made, home = next_sentence_pairs(DOCS, seed), {s: k for k, d in enumerate(DOCS) for s in d}
    follows = {(a, b) for d in DOCS for a, b in zip(d, d[1:])}
    assert [a for a, _, _ in made] == ["a1", "a2", "b1", "天气很好。"] and sum(c for *_, c in made) == 2
    assert all(((a, b) in follows) == (c == 0) and (home[a] == home[b]) == (c == 0) for a, b, c in made)
    assert made == next_sentence_pairs(DOCS, seed)


@pytest.mark.parametrize("docs", [[], [["a", "b"]], [["a"], ["b"]], ["a text", "another"], [["a", "b", "b"], ["b"]]])
def test_pairs_refuse(docs):
    with pytest.raises(ValueError):
        for seed in range(20):
            next_sentence_pairs(docs, seed)


# ---- perplexity

def test_perplexity():
    assert perplexity(10 * math.log(7), 10) == pytest.approx(7)
    assert perplexity(torch.tensor(0.0), torch.tensor(3)) == 1 and perplexity(1e9, 1) == INF
    for bad in ((1.0, 0), (-1.0, 3), (NAN, 3)):
        with pytest.raises(ValueError):
            perplexity(*bad)
