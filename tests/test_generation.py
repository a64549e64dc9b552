"""The generation case: corpus, tokenizer, mixing, n-gram and GPT-2, writing, memorisation, collapse; on templated styles, without network."""
import collections
import math

import numpy as np
import pytest
import torch

from diversity_kit.cases import generation as case

STYLES = ("letter/toy", "notice/toy", "verse/toy", "note/toy")
C = {"styles": STYLES, "limit": 120, "vocab": 320, "most": 300, "held_out": 20, "rows": (100, 60, 40, 30), "transform": ("swap",), "copies": 2, "length": 32, "batch": 4, "steps": 12,
     "width": 16, "layers": 1, "heads": 2, "lr": 1e-2, "looks": 2, "samples": 3, "new": 12, "model": "ngram", "arm": "tagged"}


@pytest.fixture(scope="module")
def c():
    return case.world(C)


@pytest.fixture(scope="module")
def tiny(c):
    return case.gpt2(320, 32, 16, 1, 2, seed=0).eval()


@pytest.mark.parametrize("text", ["Plain words. And more! 中文也行。好。", "长" * 99, "no sentence " * 40, "🙂" * 33, "line\n\nline\n" * 9, "", "   ", "a\udcff b" * 20])
@pytest.mark.parametrize("limit", [4, 7, 30, 1000])
def test_pieces_lose_only_white_space_and_keep_the_limit(text, limit):
    got = case.pieces(text, limit)
    assert all(0 < len(p.encode()) <= limit for p in got)
    assert "".join("".join(got).split()) == "".join(text.encode("utf-8", "replace").decode().split())


def test_pieces_cut_after_sentences_where_they_can():
    assert case.pieces("One. Two. Three.", 10) == ["One. Two.", "Three."]
    assert case.pieces("1.5 metres at 3.14 and U.S.A. now", 12) == ["1.5 metres a", "t 3.14 and U", ".S.A. now"]      # no sentence ends inside 1.5
    assert case.pieces("版本1.5好！真的?是。“对！”他说", 22) == ["版本1.5好！真的?", "是。“对！”", "他说"]
    with pytest.raises(ValueError, match="room for one character"):
        case.pieces("x", 3)


def test_toy_styles_are_fixed_and_their_splits_disjoint():
    rows = case.style_rows("verse/toy", 200)
    assert case.toy_style("verse") == case.toy_style("verse") and not set(rows["train"]) & set(rows["test"])
    assert not any("{" in t for s in STYLES for t in case.style_rows(s, 200)["train"])


@pytest.mark.parametrize("spec", ["news", "/bbc_news", "news/"])
def test_a_style_is_written_name_slash_card(spec):
    with pytest.raises(ValueError, match="name/card"):
        case.style_rows(spec, 100)


def test_an_empty_style_is_named(monkeypatch):
    monkeypatch.setattr(case, "toy_style", lambda name: [{"text": "  ", "split": s} for s in ("train", "validation", "test")])
    with pytest.raises(ValueError, match="'hollow'.*no text in train, validation, test"):
        case.style_rows("hollow/toy", 100)
    with pytest.raises(ValueError, match="'b' has no text"):
        case.train_bpe({"a": ["x"], "b": []}, 300)


def test_styles_need_different_names():
    for specs in (("verse/toy", "verse/toy"), ("verse/toy",)):
        with pytest.raises(ValueError, match="different names"):
            case.corpus(specs, 100, 320, 10, 10)


@pytest.mark.parametrize("text", ["Hello there", "今天很好。", "🙂 <|note|> \t\n", "<|end|>", "é\u0301\u200d", "a" * 500])
def test_every_text_survives_the_tokenizer_and_none_makes_a_control_token(c, text):
    ids = case.encode(c.tokenizer, [text])[0]
    assert c.tokenizer.decode(ids) == text
    assert not set(ids.tolist()) & {*case.control_tokens(c), case.tag(c.tokenizer, "end")}


def test_tokenizer_has_the_size_asked_for_and_says_if_it_cannot(c):
    assert len(c.tokenizer) == 320 and case.tag(c.tokenizer, "end") == 0 and case.tag(c.tokenizer, "any") == 1
    with pytest.raises(ValueError, match="need at least 259"):
        case.train_bpe({"a": ["text"]}, 200)
    assert case.encode(c.tokenizer, []) == []


def test_unknown_style_names_the_known_ones(c, tiny):
    with pytest.raises(KeyError, match="no style 'sonnet'.*letter, note, notice, verse"):
        case.tag(c.tokenizer, "sonnet")
    for plain in (False, True):
        with pytest.raises(KeyError, match="sonnet"):
            case.write(tiny, c, "sonnet", 1, 4, plain=plain)


def test_corpus_table(c):
    table = c.to_pandas()
    assert list(table.index) == ["letter", "notice", "verse", "note"] and (table["bytes per token"] > 1).all()
    assert table.loc["note", "test kB"] == sum(len(t.encode()) for t in c.texts["note"]["test"]) / 1e3


def test_reading_order_passes_over_each_source_before_it_repeats():
    order = case.reading_order([5, 50], [0.5, 0.5], 4000, seed=3)
    small, large = order[order < 5], order[order >= 5]
    assert abs(len(small) - 2000) <= 2
    for part, n, first in ((small, 5, 0), (large, 50, 5)):
        for k in range(len(part) // n):
            assert sorted(part[k * n:(k + 1) * n]) == list(range(first, first + n))
    assert np.array_equal(order, case.reading_order([5, 50], [0.5, 0.5], 4000, 3)) and not np.array_equal(order, case.reading_order([5, 50], [0.5, 0.5], 4000, 4))
    assert (case.reading_order([5, 50], [0.0, 1.0], 100, 0) >= 5).all()
    for sizes, p in (([5, 0], [0.5, 0.5]), ([5, 5], [1.0])):
        with pytest.raises(ValueError, match="every source needs a block and a share"):
            case.reading_order(sizes, p, 10, 0)
    for p in ([-1., 2.], [math.nan, 1.], [.5, .4], [2, 1]):
        with pytest.raises(ValueError, match="at least 0 and add up to 1"):
            case.reading_order([5, 5], p, 10, 0)


def test_pack_keeps_every_row_whole_behind_its_tag():
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, 99, size=rng.integers(1, 14)) for _ in range(60)]
    got = case.pack(rows, head=1, end=0, length=16)
    assert (got[:, 0] == 1).all() and got.shape[1] == 16
    text = ["".join(f",{t}" for t in block) + "," for block in got.tolist()]
    for r in rows:
        assert any(",".join(map(str, [1, *r, 0])) in t for t in text), r


def test_pack_faults():
    assert case.pack([np.array([7])], 1, 0, 7).tolist() == [[1, 7, 0, 1, 7, 0, 1]]                        # one row fills a block
    long = case.pack([np.arange(2, 50)], 1, 0, 10)
    assert len(long) == 6 and (long[:, 0] == 1).all() and set(range(2, 50)) <= set(long.ravel().tolist())
    for rows in ([], [np.array([], int)]):
        with pytest.raises(ValueError, match="the rows are empty"):
            case.pack(rows, 1, 0, 8)
    with pytest.raises(ValueError, match="a block holds at least"):
        case.pack([np.array([7])], 1, 0, 2)


def test_arms_share_their_rows_and_differ_as_declared(c):
    rows = {a: case.training_rows({**C, "arm": a}, 0) for a in case.ARMS}
    same = lambda a, b: len(a) == len(b) and all(map(np.array_equal, a, b))
    for a in ("untagged", "temperature", "unimax"):
        assert all(same(rows[a][s], rows["tagged"][s]) for s in c.styles)
    assert list(rows["single"]) == ["note"] and same(rows["single"]["note"], rows["tagged"]["note"])
    for a in case.DOUBLED:
        assert all(same(rows[a][s], rows["tagged"][s]) for s in c.styles[:-1]) and len(rows[a]["note"]) == 90 and same(rows[a]["note"][:30], rows["tagged"]["note"])
    assert same(rows["copies"]["note"][30:60], rows["tagged"]["note"]) and same(rows["copies"]["note"][60:], rows["tagged"]["note"])
    text = lambda r: c.tokenizer.decode(r)
    changed = [text(a) != text(b) for a, b in zip(rows["augmented"]["note"][30:], rows["copies"]["note"][30:])]
    assert np.mean(changed) > 0.3
    assert all(sorted(text(a)) == sorted(text(b)) for a, b in zip(rows["shuffled"]["note"][30:], rows["copies"]["note"][30:]))
    assert np.mean([text(a) != text(b) for a, b in zip(rows["shuffled"]["note"][30:], rows["copies"]["note"][30:])]) > 0.9
    assert same(rows["more_real"]["note"][:30], rows["tagged"]["note"]) and len(rows["more_real"]["note"]) == 45
    assert not {text(r) for r in rows["more_real"]["note"][30:]} & {text(r) for r in rows["tagged"]["note"]}
    assert sum(map(len, rows["concat"]["any"])) == 2 * sum(len(r) for x in rows["tagged"].values() for r in x)


def test_training_rows_come_from_the_training_split(c):
    held = {t for s in c.styles for p in ("validation", "test") for t in c.texts[s][p]}
    assert not held & {c.tokenizer.decode(r) for x in case.training_rows({**C, "arm": "more_real"}, 1).values() for r in x}


def test_equal_steps_and_shares_that_copies_do_not_change(c):
    share = {}
    for a in case.ARMS:
        data, order = case.blocks({**C, "arm": a, "steps": 500}, 0)
        assert order.shape == (500 * 4,) and data.shape[1] == 32 and order.max() < len(data)
        share[a] = np.mean(data[order][:, 0] == case.tag(c.tokenizer, "note"))
    assert share["single"] == 1 and share["untagged"] == share["concat"] == 0
    for a in (*case.DOUBLED, "more_real"):
        assert abs(share[a] - share["temperature"]) < 0.06
    assert share["temperature"] > share["tagged"] + 0.05


@pytest.mark.parametrize("change, message", [({"arm": "taged"}, "unknown arm"), ({"rows": (100, 60, 40, 10**6)}, "'note' has .* training rows"), ({"rows": (10**6, 60, 40, 30)}, "'letter' has"), ({"transform": ("rot13",), "arm": "augmented"}, "no transform among")])
def test_bad_configs_say_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        case.training_rows({**C, **change}, 0)


def test_a_trial_says_how_much_of_the_text_it_read(c):
    assert case.coverage(np.array([0, 0, 1, 3, 3, 3]), [3, 2]) == {"passes": 1.2, "read": 60.0, "tail passes": 1.5, "tail read": 50.0}
    for arm, steps in (("tagged", 2), ("tagged", 100), ("temperature", 100)):
        config = {**C, "arm": arm, "steps": steps, "samples": 0}
        data, order = case.blocks(config, 0)
        tail = data[:, 0] == case.tag(c.tokenizer, "note")
        got = case.trial(config, 0)
        assert got["passes"] == pytest.approx(4 * steps / len(data)) and got["read"] == pytest.approx(100 * len(np.unique(order)) / len(data))
        assert got["tail passes"] == pytest.approx(tail[order].sum() / tail.sum()) and got["tail read"] == pytest.approx(100 * len(np.unique(order[tail[order]])) / tail.sum())
        assert (got["read"] < 50) == (steps == 2)


def naive_kneser_ney(blocks, vocab, head, order, D, weights=None):
    "P(w | context) by dictionaries, straight from equation (4), with D off places where blocks have weights; for rows that begin with `head`."
    counts, places = ([collections.Counter() for _ in range(order + 1)] for _ in range(2))
    for b, weight in zip(blocks, weights or [1] * len(blocks)):
        if not weight:
            continue
        for i, w in enumerate(b):
            if w == head:
                continue
            past = b[max(0, i - order + 1):i]
            if head in past:
                past = past[len(past) - 1 - past[::-1].index(head):]
            counts[order][tuple([vocab] * (order - 1 - len(past)) + past + [w])] += weight
            places[order][tuple([vocab] * (order - 1 - len(past)) + past + [w])] += 1
    for k in range(order - 1, 0, -1):
        for g in {g[order - k - 1:] for g in counts[order]}:
            counts[k][g[1:]] += 1
            places[k][g[1:]] += 1

    def p(context, w):
        value = 1 / (vocab - 1)
        for k in range(1, order + 1):
            h = tuple(context[len(context) - k + 1:]) if k > 1 else ()
            seen = {g[-1]: n for g, n in counts[k].items() if g[:-1] == h}
            if seen:
                total, off = sum(seen.values()), {v: n * min(1, D / places[k][(*h, v)]) for v, n in seen.items()}
                value = (seen.get(w, 0) - off.get(w, 0)) / total + sum(off.values()) / total * value
        return value
    return p


@pytest.mark.parametrize("order, D", [(1, 0.75), (2, 0.6), (3, 0.9), (4, 1.2)])
def test_ngram_equals_the_equation_written_with_dictionaries(order, D):
    rng = np.random.default_rng(order)
    blocks = case.pack([rng.integers(2, 7, size=rng.integers(1, 8)) for _ in range(12)], head=1, end=0, length=11)
    model, p = case.NGram(blocks, 8, [1], order, D), naive_kneser_ney(blocks.tolist(), 8, 1, order, D)
    contexts = [[8] * max(0, order - 2) + [1] * (order > 1), *[rng.choice([0, 2, 3, 4, 5, 6, 7], size=order - 1).tolist() for _ in range(6)]]
    for context in contexts:
        grams = np.array([[*context, w] for w in (0, 2, 3, 4, 5, 6, 7)])
        ours = model.prob(grams)
        assert np.allclose(ours, [p(context, w) for w in (0, 2, 3, 4, 5, 6, 7)]) and abs(ours.sum() - 1) < 1e-12


def test_weights_are_readings_and_the_discount_is_taken_off_places():
    rng = np.random.default_rng(4)
    blocks = case.pack([rng.integers(2, 5, size=rng.integers(1, 8)) for _ in range(14)], head=1, end=0, length=11)
    weights = rng.integers(0, 4, len(blocks))
    grams = np.array([[*context, w] for context in ([8, 1], [2, 3], [4, 4], [1, 2]) for w in (0, 2, 3, 4, 5, 6, 7)])
    p = naive_kneser_ney(blocks.tolist(), 8, 1, 3, 0.9, weights.tolist())
    got = case.NGram(blocks, 8, [1], 3, 0.9, weights).prob(grams)
    assert np.allclose(got, [p(g[:-1].tolist(), g[-1]) for g in grams]) and np.allclose(got.reshape(4, 7).sum(1), 1)
    plain = case.NGram(blocks, 8, [1], 3, 0.9).prob(grams)
    assert np.allclose(case.NGram(blocks, 8, [1], 3, 0.9, np.full(len(blocks), 7)).prob(grams), plain)          # all read seven times: nothing new was seen
    assert not np.allclose(case.NGram(np.repeat(blocks, 7, 0), 8, [1], 3, 0.9).prob(grams), plain, atol=1e-3)
    assert not np.allclose(got, plain, atol=1e-3)
    for bad in (weights[1:], -np.ones(len(blocks))):
        with pytest.raises(ValueError, match="one for each block"):
            case.NGram(blocks, 8, [1], 3, weights=bad)
    with pytest.raises(ValueError, match="source is empty"):
        case.NGram(blocks, 8, [1], 3, weights=np.zeros(len(blocks)))


def test_ngram_row_scores_samples_and_faults():
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, 6, size=4) for _ in range(200)]
    model = case.NGram(case.pack(rows, 1, 0, 12), 8, [1], 3)
    grams = lambda r: np.array([[8, 1, r[0]], [1, r[0], r[1]], [r[0], r[1], 0]])
    assert np.allclose(model.row_nll([np.array([2, 3]), np.array([5, 5])], 1, 0), [-np.log(model.prob(grams(r))).sum() for r in ([2, 3], [5, 5])])
    first = model.complete(np.full((20000, 1), 1), 1, 0, seed=1)[:, 0]
    expected = model.prob(np.array([[8, 1, w] for w in range(8)]))
    assert np.allclose(np.bincount(first, minlength=8)[[0, *range(2, 8)]] / 20000, expected[[0, *range(2, 8)]], atol=0.015) and (first != 1).all()
    greedy = model.complete(np.array([[1, 2], [1, 2]]), 6, 0, None)
    assert np.array_equal(greedy[0], greedy[1])
    ended = model.complete(np.full((50, 1), 1), 40, 0)
    assert all((r[np.argmax(r == 0):] == 0).all() for r in ended if (r == 0).any())
    for bad, message in ((lambda: case.NGram(np.empty((0, 4), int), 8, [1]), "source is empty"), (lambda: case.NGram(np.ones((2, 4), int), 2**16, [1], 4), "63 bits"), (lambda: model.set_discount(0), "discount must be positive")):
        with pytest.raises(ValueError, match=message):
            bad()


def test_row_nll_is_the_librarys_loss_also_in_padded_batches_and_windows(c, tiny):
    rows = [c.rows[s]["test"][0][:n] for s, n in zip(c.styles, (3, 20, 9, 14))]
    ours = case.row_nll(tiny, rows, 2, 0)
    for r, nats in zip(rows, ours):
        ids = torch.tensor([[2, *r, 0]])
        assert nats == pytest.approx(tiny(input_ids=ids, labels=ids).loss.item() * (len(r) + 1), rel=1e-4)
    long = np.concatenate(rows * 3)
    windows = [np.concatenate([long, [0]])[k:k + 31] for k in range(0, len(long) + 1, 31)]
    by_hand = sum(tiny(input_ids=(t := torch.tensor([[2, *w]])), labels=t).loss.item() * len(w) for w in windows)
    assert case.row_nll(tiny, [long], 2, 0)[0] == pytest.approx(by_hand, rel=1e-4)


def test_training_learns_repeats_itself_and_never_predicts_control_tokens(c):
    config = {**C, "steps": 60, "model": "gpt2"}
    data, order = case.blocks(config, 0)
    start = np.mean(list(case.scores(case.gpt2(320, 32, 16, 1, 2, seed=0).eval(), c, "test").values()))
    run = case.fit(config, data, order, case.control_tokens(c), 0)
    once = case.scores(run.model, c, "test")
    assert np.mean(list(once.values())) < 0.8 * start and run.tokens_per_s > 0 and run.compiled == "no"
    assert case.scores(case.fit(config, data, order, case.control_tokens(c), 0).model, c, "test") == once
    assert case.scores(case.fit(config, data, order, case.control_tokens(c), 1).model, c, "test") != once
    with torch.no_grad():
        after_end = run.model(input_ids=torch.tensor([[2, 10, 0]])).logits[0, -1].softmax(-1)
    assert after_end[case.control_tokens(c)].sum() < 0.05                # in the data a control token always follows an end: predicting them too gives 0.13
    with pytest.raises(ValueError, match="less than one batch"):
        case.fit(config, data, order[:3], [], 0)


def test_the_best_look_is_restored(c):
    config, looks = {**C, "steps": 8, "looks": 4}, iter([3.0, 1.0, 2.0, 4.0])
    kept = []

    def dev(model):
        kept.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(looks)
    run = case.fit(config, *case.blocks(config, 0), case.control_tokens(c), 0, dev)
    assert [h for _, h in run.history] == [3.0, 1.0, 2.0, 4.0] and [s for s, _ in run.history] == [2, 4, 6, 8]
    assert all(torch.equal(v, kept[1][k]) for k, v in run.model.state_dict().items())


def test_writing_always_ends_and_never_writes_control_tokens(c, tiny):
    for model in (tiny, case.NGram(case.blocks(C, 0)[0], 320, case.control_tokens(c))):
        rows = case.write(model, c, "verse", 8, 20, seed=1)
        assert len(rows) == 8 and all(len(r) <= 20 and not set(r.tolist()) & {0, *case.control_tokens(c)} for r in rows)
        assert all(map(np.array_equal, rows, case.write(model, c, "verse", 8, 20, seed=1)))
        assert not all(map(np.array_equal, rows, case.write(model, c, "verse", 8, 20, seed=2)))
        for n, new in ((0, 5), (3, 0)):
            with pytest.raises(ValueError, match="at least 1"):
                case.write(model, c, "verse", n, new)


@pytest.mark.parametrize("how, message", [({"new": 32}, "room for 1 to 31"), ({"new": 10**6}, "room for 1 to 31"), ({"temperature": 0}, "temperature must be positive"), ({"top_p": 0}, "top_p in"), ({"top_p": 1.5}, "top_p in")])
def test_decoding_that_could_not_end_is_refused(c, tiny, how, message):
    how = {"new": 5, **how}
    with pytest.raises(ValueError, match=message):
        case.complete(tiny, np.array([[2]]), how.pop("new"), 0, [1], **how)


def test_sampling_leaves_the_global_generator_alone(c, tiny):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    case.write(tiny, c, "verse", 2, 5)
    assert torch.equal(torch.rand(1), expected)


def test_longest_copied_equals_brute_force():
    rng = np.random.default_rng(1)
    training = [rng.integers(0, 4, size=rng.integers(0, 12)) for _ in range(20)]
    samples = [rng.integers(0, 5, size=rng.integers(0, 12)) for _ in range(30)]
    has = lambda g: any(np.array_equal(g, t[i:i + len(g)]) for t in training for i in range(len(t) - len(g) + 1))
    brute = [max((n for n in range(1, len(s) + 1) if any(has(s[i:i + n]) for i in range(len(s) - n + 1))), default=0) for s in samples]
    assert case.longest_copied(samples, training).tolist() == brute
    assert case.longest_copied(samples, []).tolist() == [0] * 30 and case.longest_copied(training, training).tolist() == [len(t) for t in training]


def test_the_judge_knows_the_styles():
    assert case.style_accuracy(C) > 95


@pytest.mark.parametrize("model", case.MODELS)
def test_a_trial_gives_finite_numbers_and_repeats_itself(c, model):
    out = case.trial({**C, "model": model}, 0)
    assert all(map(math.isfinite, out.values())) and out["bits"] == pytest.approx(np.mean([out[f"bits {s}"] for s in c.styles])) and out["worst"] == max(out[f"bits {s}"] for s in c.styles)
    assert 0 <= out["self_bleu"] <= 100 and 1 <= out["vendi"] <= C["samples"] + 1e-9 and 0 <= out["style"] <= 100 and 0 < out["distinct_2"] <= 100 and 0 <= out["ended"] <= 100
    again = case.trial({**C, "model": model}, 0)
    assert {k: v for k, v in out.items() if k != "tokens_per_s"} == {k: v for k, v in again.items() if k != "tokens_per_s"}
    assert set(case.trial({**C, "model": model, "arm": "single", "samples": 0}, 0)) >= {"bits", "bits note"}


def test_unknown_model():
    with pytest.raises(ValueError, match="unknown model 'lstm'"):
        case.trial({**C, "model": "lstm"}, 0)


def test_repetition_law_gives_the_published_values():
    assert case.repetition_law(6.34e9, 242e9, 25e9) == pytest.approx(2.2256440889984477, abs=1e-12) and case.repetition_law(8.67e9, 178e9, 25e9) == pytest.approx(2.2269634075087867, abs=1e-12)
    assert case.effective_data(4) == pytest.approx(3.73, abs=0.005) and case.effective_data(1) == 1
    assert case.repetition_law(1e9, 1e10, 1e10) > case.repetition_law(1e9, 2e10, 1e10) > case.repetition_law(1e9, 2e10, 2e10)
    with pytest.raises(ValueError, match="repeats nothing"):
        case.effective_data(0.5)


def test_repetition_rows(c):
    config = {**C, "style": "letter", "repeats": 4, "steps": 6}
    every = [r.tolist() for r in c.rows["letter"]["train"]]
    rows = {a: [r.tolist() for r in case.repetition_rows({**config, "arm": a}, 3)] for a in ("fresh", "prefix", "spread")}
    size = {a: sum(len(r) + 2 for r in x) for a, x in rows.items()}
    assert abs(size["fresh"] - 768) < 60 and abs(size["prefix"] - 192) < 60 and abs(size["spread"] - 192) < 60
    at = every.index(rows["prefix"][0])
    assert rows["prefix"] == (every + every)[at:at + len(rows["prefix"])] and rows["spread"] == rows["fresh"][:len(rows["spread"])]
    assert math.isfinite(case.repetition_trial({**config, "arm": "spread"}, 0)["bits"])
    for change, message in (({"arm": "suffix"}, "unknown arm"), ({"arm": "fresh", "steps": 10**4}, "take fewer steps")):
        with pytest.raises(ValueError, match=message):
            case.repetition_rows({**config, **change}, 0)


def test_reading_again_is_no_evidence_for_a_counting_model(c):
    config = {**C, "style": "letter", "repeats": 4, "steps": 96}
    got = {a: case.repetition_trial({**config, "arm": a}, 0) for a in ("spread", "recounted")}
    rows = case.repetition_rows({**config, "arm": "spread"}, 0)
    assert [r.tolist() for r in rows] == [r.tolist() for r in case.repetition_rows({**config, "arm": "recounted"}, 0)]
    data = case.pack([rows[i] for i in np.random.default_rng([0, 8]).permutation(len(rows))], case.tag(c.tokenizer, "letter"), 0, C["length"])
    once, _ = case.trained(config, 0, data, np.arange(len(data)), ["letter"])
    assert got["spread"]["bits"] == pytest.approx(case.scores(once, c, "test", styles=["letter"])["letter"], abs=2e-3)      # the last pass is not whole
    assert got["recounted"]["bits"] != pytest.approx(got["spread"]["bits"], abs=1e-3) and got["spread"]["passes"] == got["recounted"]["passes"] > 2


def test_many_copies_are_extracted_and_single_rows_are_not(c, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [rng.integers(10, 19, size=16) for _ in range(1000)]                # ambiguous after any three tokens: only copies make a row known
    noise = case.Corpus(c.tokenizer, {s: {"validation": ["x" * 40] * 9} for s in c.styles}, {s: {"train": rows, "validation": rows[:9]} for s in c.styles})
    monkeypatch.setattr(case, "world", lambda config: noise)
    config = {**C, "style": "letter", "planted": 4, "span": 6, "rows_around": 900}
    many, once = (case.duplication_trial({**config, "arm": a}, 0) for a in ("duplicated", "deduplicated"))
    assert many["extracted 64"] >= 75 and once["extracted 64"] <= 25 and many["extracted 1"] <= 25 and many["extracted 1"] <= many["extracted 16"] <= many["extracted 64"]
    for change, message in (({"arm": "twice"}, "unknown arm"), ({"arm": "duplicated", "planted": 10**4}, "plant fewer")):
        with pytest.raises(ValueError, match=message):
            case.duplication_trial({**config, **change}, 0)


def test_collapse_follows_its_law_and_real_text_stops_it():
    chain = case.gaussian_chain(50, 30, 4000, seed=0)
    assert np.allclose(chain, (49 / 50) ** np.arange(1, 31), rtol=0.04)
    assert case.gaussian_chain(50, 30, 500, seed=0, real=1.0)[-1] == pytest.approx(49 / 50, rel=0.03)
    left = [case.collapse_trial({**C, "real": r, "generations": 4, "rows_each": 30}, 0) for r in (0.0, 0.5)]
    assert left[0]["bigrams"] < left[1]["bigrams"] and left[0]["types"] < left[1]["types"] and left[0]["bigrams"] < 70


def test_types_are_counted_against_as_many_real_tokens(monkeypatch):
    "A writer that repeats the beginnings of the rows it read has lost nothing of as many tokens."
    now = {}
    monkeypatch.setattr(case, "pack", lambda rows, head, end, length: now.setdefault(head, list(rows)) and np.zeros((1, length), np.int32))
    monkeypatch.setattr(case, "NGram", lambda *a, **k: None)
    monkeypatch.setattr(case, "write", lambda model, corpus, styles, n, *a: {s: [r for r in map(np.array, case._first_tokens(now[case.tag(corpus.tokenizer, s)], 50)) if len(r)] for s in styles})
    got = case.collapse_trial({**C, "real": 0.0, "generations": 1, "rows_each": 30}, 0)
    assert got["types"] == got["bigrams"] == 100 and got["tokens"] < 50 and got["kept bigrams"] < 90


def test_types_are_counted_in_what_the_model_wrote(c, monkeypatch):
    "A model that writes one token over and over has lost all others, however much real text stands beside it."
    monkeypatch.setattr(case, "write", lambda model, corpus, styles, n, *a: {s: [np.array([300, 300])] * n for s in styles})
    got = case.collapse_trial({**C, "real": 0.5, "generations": 2, "rows_each": 30}, 0)
    first = 100 / got["types"]                                                  # one type is 100 / `types` of generation 0's
    assert first > 10 and got["bigrams"] < 5 and got["kept types"] > 50 and got["alone"] > 50
    assert case.collapse_trial({**C, "real": 0.0, "generations": 2, "rows_each": 30}, 0)["alone"] == 0


def test_speed_figures():
    data, order = case.blocks(C, 0)
    assert case.plain_loop(C, data, order) > 0
    weights = sum(p.numel() for n, p in case.gpt2(320, 32, 16, 1, 2).named_parameters() if p.ndim > 1 and "wpe" not in n)
    assert case.flops_per_token(C) == pytest.approx(6 * weights + 6 * 16 * 32)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_pretrained_model_is_adapted_in_full_or_by_lora(c, tmp_path, monkeypatch, method):
    from transformers import LlamaConfig, LlamaForCausalLM
    if method == "lora":
        pytest.importorskip("peft")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=320, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64)).save_pretrained(tmp_path)
    c.tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(case, "path", lambda card: tmp_path)
    config = {**C, "card": "tiny", "style": "verse", "method": method, "train_rows": 40, "steps": 20, "lr": 1e-2}
    out = case.adapt(config, 0)
    assert out["after"] < out["before"] and (out["trained"] == 100) == (method == "full") and out == case.adapt(config, 0)
    with pytest.raises(ValueError, match="unknown method 'prefix'"):
        case.adapt({**config, "method": "prefix"}, 0)
