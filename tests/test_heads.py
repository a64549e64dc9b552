"""learn.heads: equality with transformers' heads, padding, spans, ranking, and the convex model's matched regularisation."""
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.augment.base import Delete
from diversity_kit.foundations.losses import IGNORE
from diversity_kit.learn.heads import Head, align_labels, best_span, convex, convex_trial, pairwise_loss, pool, span_loss


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BERT = dict(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32)
TOKENS = torch.randint(1, 40, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(9) < torch.tensor([9, 4, 1])[:, None]).long()


def bert(kind, **more):
    torch.manual_seed(0)
    return kind(transformers.BertConfig(**BERT, **more)).double().eval()


def same(head, model, encoder, parts, pick=lambda o: o.logits, tokens=TOKENS):
    head = head.double().eval()
    for mine, theirs in parts:
        mine.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        return (head(encoder(input_ids=tokens, attention_mask=MASK).last_hidden_state, MASK) - pick(model(input_ids=tokens, attention_mask=MASK))).abs().max() < 1e-12


# ---- heads

@pytest.mark.parametrize("labels", [1, 3])
def test_bert_classifier_and_ranker(labels):
    m, h = bert(transformers.BertForSequenceClassification, num_labels=labels), Head(16, labels, dense=True)
    assert same(h, m, m.bert, [(h.out, m.classifier), (h.dense, m.bert.pooler.dense)])


def test_bert_tagger_and_spans():
    m, h = bert(transformers.BertForTokenClassification, num_labels=5), Head(16, 5, "every")
    assert same(h, m, m.bert, [(h.out, m.classifier)])
    m, h = bert(transformers.BertForQuestionAnswering), Head(16, 2, "every")
    assert same(h, m, m.bert, [(h.out, m.qa_outputs)], pick=lambda o: torch.stack([o.start_logits, o.end_logits], -1))


def test_gpt2_classifier_and_generator():
    config = dict(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2, pad_token_id=0)
    torch.manual_seed(0)
    m, h = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**config, num_labels=3)).double().eval(), Head(16, 3, "last", bias=False)
    padded = TOKENS * MASK                                                                      # GPT-2 finds the last token by its padding id
    assert same(h, m, m.transformer, [(h.out, m.score)], tokens=padded)
    m = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config)).double().eval()
    h = Head(16, 40, "every", tied=m.transformer.wte.weight)
    assert same(h, m, m.transformer, [], tokens=padded) and h.out.weight is m.transformer.wte.weight and h.out.bias is None


def test_dropout_acts_in_training_only():
    h, x = Head(8, 2, "mean", dropout=0.5).double(), rand(4, 3, 8)
    assert not torch.equal(h.train()(x), h(x)) and torch.equal(h.eval()(x), h(x))


@pytest.mark.parametrize("options", [{"size": 0}, {"outputs": 0}, {"pooling": "max"}, {"tied": torch.nn.Parameter(torch.zeros(7, 8))}])
def test_head_refuses(options):
    with pytest.raises(ValueError):
        Head(**{"size": 8, "outputs": 2, **options})


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from(["first", "last", "mean"]), st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_pooling_does_not_see_padding(lengths, how, left, seed):
    width, x = max(lengths) + 2, rand(len(lengths), max(lengths) + 2, 4, seed=seed)
    place = torch.arange(width).expand(len(lengths), -1)
    n = torch.tensor(lengths)[:, None]
    mask = (place >= width - n if left else place < n).long()
    want = torch.stack([{"first": r[m.bool()][0], "last": r[m.bool()][-1], "mean": r[m.bool()].mean(0)}[how] for r, m in zip(x, mask)])
    x[mask == 0] = float("nan")
    torch.testing.assert_close(pool(x, mask, how), want, rtol=1e-12, atol=1e-12)


def test_pool_without_mask_and_refusals():
    x = rand(2, 3, 4)
    assert torch.equal(pool(x, None, "last"), x[:, -1]) and torch.equal(pool(x, None, "every"), x)
    for bad in ((x, torch.tensor([[1, 1, 1], [0, 0, 0]]), "mean"), (x, torch.ones(2, 2), "mean"), (x[0], None, "mean"), (x, None, "sum")):
        with pytest.raises(ValueError):
            pool(*bad)


# ---- tokens, spans, ranking

def test_labels_go_to_the_first_piece():
    assert align_labels([None, 0, 0, 1, None], [3, 4]) == [IGNORE, 3, IGNORE, 4, IGNORE]
    assert align_labels([None, 0, None], [3, 4, 5]) == [IGNORE, 3, IGNORE] and align_labels([], []) == []        # cut off: no token
    with pytest.raises(ValueError, match="word 1, but only 1 labels"):
        align_labels([None, 0, 1, None], [3])


def test_span_loss_is_transformers():
    m, i, j = bert(transformers.BertForQuestionAnswering), torch.tensor([2, 1, 0]), torch.tensor([4, 1, 0])
    out = m(input_ids=TOKENS, attention_mask=MASK, start_positions=i, end_positions=j)
    assert span_loss(torch.stack([out.start_logits, out.end_logits], -1), i, j).item() == pytest.approx(out.loss.item(), abs=1e-13)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_best_span_is_the_best_of_all(length, longest, seed):
    z, mask = rand(1, length, 2, seed=seed), torch.rand(1, length, generator=torch.Generator().manual_seed(seed)) < 0.7
    mask[0, seed % length] = True
    legal = [(float(z[0, i, 0] + z[0, j, 1]), i, j) for i in range(length) for j in range(i, min(length, i + longest)) if mask[0, i] and mask[0, j]]
    got = best_span(z, mask, longest)
    assert (got.score.item(), got.start.item(), got.end.item()) == max(legal)


def test_span_refusals():
    for call in (lambda: best_span(rand(1, 3, 3)), lambda: best_span(rand(1, 3, 2), longest=0), lambda: best_span(rand(1, 3, 2), torch.zeros(1, 3)),
                 lambda: best_span(rand(2, 3, 2), torch.ones(1, 3)), lambda: best_span(rand(2, 3, 2), torch.ones(2, 1)),
                 lambda: span_loss(rand(1, 3), torch.tensor([0]), torch.tensor([0])), lambda: span_loss(rand(1, 3, 2), torch.tensor([3]), torch.tensor([0]))):
        with pytest.raises(ValueError):
            call()


@given(st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_pairwise_loss_by_hand(seed):
    g = torch.Generator().manual_seed(seed)
    z, r, q = rand(8, seed=seed), torch.randint(3, (8,), generator=g), torch.randint(2, (8,), generator=g)
    pairs = [F.softplus(z[j] - z[i]) for i in range(8) for j in range(8) if q[i] == q[j] and r[i] > r[j]]
    if pairs:
        torch.testing.assert_close(pairwise_loss(z, r, q), torch.stack(pairs).mean(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(pairwise_loss(z + 5 * q, r, q), pairwise_loss(z, r, q), rtol=1e-12, atol=1e-12)


def test_pairwise_refuses():
    for z, r, q in ((rand(3), torch.ones(3), torch.zeros(3)), (rand(2), torch.tensor([0, 1]), torch.tensor([0, 1])), (rand(3), torch.ones(2), torch.zeros(3))):
        with pytest.raises(ValueError):
            pairwise_loss(z, r, q)


# ---- the convex model

def sample(n, seed=0, zh=False):
    rng = np.random.default_rng(seed)
    good, bad, rest = ("好棒美", "差烂坏", "的了我们在一个") if zh else ("good fine great".split(), "bad poor awful".split(), "the a food was room and".split())
    y = rng.integers(0, 2, n)
    return [("" if zh else " ").join([*rng.choice(list(rest), 6), rng.choice(list(good if k else bad)), *rng.choice(list(rest), 3)]) for k in y], y


TRAIN, TEST = sample(300), {"accuracy": sample(200, 1)}


@pytest.mark.parametrize("tfidf", [False, True])
def test_copies_are_the_same_problem(tfidf):
    x, y = TRAIN[0][:60], TRAIN[1][:60]
    p = lambda model: model.predict_proba(TEST["accuracy"][0])
    one = convex(x, y, tol=1e-10) if not tfidf else None
    if tfidf:                                                                                  # the same documents thrice: the same frequencies up to smoothing
        assert np.abs(p(convex(x * 3, y, 3, tfidf=True, tol=1e-10)) - p(convex(x, y, tfidf=True, tol=1e-10))).max() < 0.02
        return
    assert np.abs(p(convex(x * 3, y, 3, tol=1e-10)) - p(one)).max() < 1e-4
    assert np.abs(p(convex(x * 3, np.tile(y, 3), 1, tol=1e-10)) - p(one)).max() > 1e-2
    assert np.abs(p(convex(x * 3, np.tile(y, 3), 1, C=10 / 3, tol=1e-10)) - p(one)).max() < 1e-4         # equation (62.4)


def test_labels_may_be_strings_and_more_than_two():
    model = convex(["好", "很好", "坏", "很坏", "中", "一般中"], ["正", "正", "负", "负", "平", "平"], features="chars")
    assert set(model.predict(["好", "坏", "中"])) == {"正", "负", "平"}


@pytest.mark.parametrize("texts, labels, options, words", [
    (["a", "b", "c"], [0, 1, 0], {"views": 2}, "blocks"), ([], [], {}, "blocks"), ("ab", [0, 1], {}, "blocks"), (["a", "b"], [0, 1, 1], {}, "3 labels for 2"),
    (["a", "b"], [1, 1], {}, "nothing to tell apart"), (["a", "b"], ["x", None], {}, "missing"), (["a", "b"], [0.0, float("nan")], {}, "missing"),
    (["a", "b", "c"], ["x", "y", float("nan")], {}, "missing"), (["a", "b", "c"], ["x", "y", pd.NA], {}, "missing"),
    (["a", "b"], [0, 1], {"features": "bytes"}, "unknown"), (["a", "b"], [0, 1], {"views": 0}, "blocks")])
def test_convex_refuses(texts, labels, options, words):
    with pytest.raises(ValueError, match=words):
        convex(texts, labels, **options)


def test_trial_arms():
    run = lambda arm, **more: convex_trial(arm, TRAIN, TEST, 40, Delete(0.2), seed=3, **more)["accuracy"]
    scores = {arm: run(arm) for arm in ("base", "copies", "augmented", "more_real")}
    assert abs(scores["base"] - scores["copies"]) <= 0.5 and scores == {arm: run(arm) for arm in scores}      # null and repeatable
    assert scores["more_real"] >= scores["base"] > 60
    at = np.random.default_rng([3, 62]).permutation(300)[:60].tolist()
    again = convex([TRAIN[0][i] for i in at], TRAIN[1][at])
    assert scores["more_real"] == pytest.approx(100 * again.score(*TEST["accuracy"]))


def test_trial_on_chinese_sees_characters():
    assert convex_trial("augmented", sample(200, zh=True), {"accuracy": sample(100, 1, zh=True)}, 100, Delete(0.2), features="chars")["accuracy"] > 80


def test_trial_refuses():
    for arm, n, t in (("both", 10, Delete(0.1)), ("augmented", 10, None), ("more_real", 250, None), ("base", 301, None)):
        with pytest.raises(ValueError):
            convex_trial(arm, TRAIN, TEST, n, t)


def test_two_classes_minimise_62_5_and_more_minimise_62_4():
    "The derivatives vanish; in (62.5) the bias is penalised, in (62.4) it is not."
    x, y = TRAIN[0][:60], TRAIN[1][:60]
    y = np.where(np.arange(60) < 40, 1, y)                                                       # unbalanced: a bias that is not 0
    model = convex(x, y, tol=1e-10)
    read, fit = model[0], model[-1]
    left = model.predict_proba(x)[:, 1] - y
    assert abs(fit.coef_[0] + 10 * (read.transform(x).T @ left)).max() < 1e-4 and abs(fit.intercept_[0] + 10 * left.sum()) < 1e-4 < .05 < abs(fit.intercept_[0])
    three = np.where(np.arange(60) % 7 == 0, 2, y)
    model = convex(x, three, tol=1e-8)
    left = model.predict_proba(x) - np.eye(3)[three]
    assert abs(model[-1].coef_.T + 10 * (model[0].transform(x).T @ left)).max() < 1e-2 and abs(left.sum(0)).max() < 1e-3
