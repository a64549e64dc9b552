"""learn.pretrain: masks that depend on seed, text and epoch alone; a loss that is transformers' own; bodies that arrive whole in a classifier."""
import json

import numpy as np
import pytest
import torch
import transformers

from diversity_kit.foundations.losses import IGNORE
from diversity_kit.learn import pretrain as pre

TEXTS = [f"the {a} {b} is {c} and {d}" for a in ("old", "new", "big") for b in ("house", "river", "film") for c in ("good", "bad") for d in ("loud", "calm", "red")]


@pytest.fixture(scope="module")
def tokenizer():
    return pre.train_tokenizer(TEXTS, 120)


def rows(tokenizer, texts=TEXTS):
    return [{"id": i, "input_ids": v} for i, v in enumerate(tokenizer(texts)["input_ids"])]


def test_tokenizer_learns_the_words_and_frames_them(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer("The RIVER is calm")["input_ids"]) == ["[CLS]", "the", "river", "is", "calm", "[SEP]"]
    assert tokenizer.mask_token == "[MASK]" and len(tokenizer) <= 120 and tokenizer("🜁")["input_ids"][1] == tokenizer.unk_token_id


def test_the_same_texts_give_the_same_numbers_in_any_process(tokenizer):
    import subprocess
    import sys
    code = f"from diversity_kit.learn import pretrain as p; import json; print(json.dumps(p.train_tokenizer({TEXTS!r}, 120).get_vocab(), sort_keys=True))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert json.loads(other) == tokenizer.get_vocab() == pre.train_tokenizer(TEXTS[::-1], 120).get_vocab()
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer))) and [tokenizer.convert_tokens_to_ids(t) for t in pre.SPECIAL] == list(range(5))


def test_chinese_is_read_by_characters():
    zh = pre.train_tokenizer(["这部电影 film 很好看", "电影不好 film"], 60)
    assert zh.tokenize("电影很好 film") == ["电", "影", "很", "好", "film"]


def test_every_letter_is_in_whatever_the_size():
    "The size bounds the pieces beyond the letters; no text it has learnt from holds an unknown token."
    texts = ["这部电影很好看，我很喜欢", "不好", "ab ba cab"]
    small, large = pre.train_tokenizer(texts, 8), pre.train_tokenizer(texts, 200)
    letters = set("".join(texts)) - {" "}
    assert 8 < len(small) <= 5 + 2 * len(letters) and letters <= set(small.get_vocab()) <= set(large.get_vocab())
    assert not any(small.unk_token_id in small(t)["input_ids"] for t in texts)


@pytest.mark.parametrize("texts, size, words", [([], 50, "none with a character"), (["", " "], 50, "none with a character"), (TEXTS, 5, "5 tokens are special")])
def test_tokenizer_refuses(texts, size, words):
    with pytest.raises(ValueError, match=words):
        pre.train_tokenizer(texts, size)


def test_masks_depend_on_text_and_epoch_and_not_on_the_batch(tokenizer):
    data, c = rows(tokenizer), pre.MaskingCollator(tokenizer, .3, seed=3)
    whole, pieces = c(data), [c(data[i:i + 1]) for i in range(len(data))]
    for i, p in enumerate(pieces):
        n = p["input_ids"].shape[1]
        assert torch.equal(whole["input_ids"][i, :n], p["input_ids"][0]) and torch.equal(whole["labels"][i, :n], p["labels"][0])
    first = whole["labels"]
    c.epoch = 1
    assert not torch.equal(c(data)["labels"], first)
    fixed = pre.MaskingCollator(tokenizer, .3, seed=3, fresh=False)
    one = fixed(data)["labels"]
    fixed.epoch = 1
    assert torch.equal(fixed(data)["labels"], one) and not torch.equal(pre.MaskingCollator(tokenizer, .3, seed=4)(data)["labels"], first)


def test_only_words_are_guessed_and_the_label_is_the_word(tokenizer):
    data = rows(tokenizer) + [{"id": 99, "input_ids": tokenizer("the film")["input_ids"]}]
    out = pre.MaskingCollator(tokenizer, .4)(data)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(r["input_ids"]) for r in data], batch_first=True, padding_value=tokenizer.pad_token_id)
    at = out["labels"] != IGNORE
    assert torch.equal(out["labels"][at], ids[at]) and torch.equal(out["input_ids"][~at], ids[~at]) and .3 < at.sum() / (ids >= 5).sum() < .5
    assert not at[torch.isin(ids, torch.tensor(tokenizer.all_special_ids))].any()
    assert torch.equal(out["attention_mask"], (ids != tokenizer.pad_token_id).long())
    only = pre.MaskingCollator(tokenizer, .4, only_masks=True)(data)
    assert (only["input_ids"][only["labels"] != IGNORE] == tokenizer.mask_token_id).all()
    kinds = out["input_ids"][at] == tokenizer.mask_token_id
    assert .6 < kinds.float().mean() < .95


def test_every_text_has_a_token_to_guess(tokenizer):
    "Two words at a share of a hundredth: without a redraw nearly every row, and most steps, would have no loss."
    data = rows(tokenizer, ["the film", "good film", "old river"] * 40)
    out = pre.MaskingCollator(tokenizer, .01)(data)
    chosen = (out["labels"] != IGNORE).nonzero()
    assert torch.equal(chosen[:, 0], torch.arange(120)) and .3 < (chosen[:, 1] == 1).float().mean() < .7
    kinds = (out["input_ids"][tuple(chosen.T)] == tokenizer.mask_token_id).float().mean()
    assert .6 < kinds < .95 and (pre.MaskingCollator(tokenizer, .01, only_masks=True)(data)["input_ids"] == tokenizer.mask_token_id).sum() == 120
    log = pre.pretrain(pre.small_bert(tokenizer, 16), tokenizer, ["the film", "good film"], 6, batch=1, share=.01)
    assert (log["loss"] > 1).all() and len(log) == 6
    assert pre.masked_accuracy(pre.small_bert(tokenizer, 16), tokenizer, ["the film"]).tokens == 1


def test_a_text_of_unknown_tokens_has_nothing_to_guess(tokenizer):
    with pytest.raises(ValueError, match="none of the 1 texts"):
        pre.masked_accuracy(pre.small_bert(tokenizer, 16), tokenizer, ["🜁 🜁 🜁"])


def test_ids_may_be_text(tokenizer):
    named = lambda names: pre.MaskingCollator(tokenizer, .3, seed=3)([{"id": n, "input_ids": r["input_ids"]} for n, r in zip(names, rows(tokenizer))])["labels"]
    one = [f"doc-{i}" for i in range(len(TEXTS))]
    assert torch.equal(named(one), named(one)) and not torch.equal(named(one), named(one[::-1]))


@pytest.mark.parametrize("share", [0, 1, -.1, 1.5])
def test_shares_that_leave_nothing_to_guess_or_from(tokenizer, share):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        pre.MaskingCollator(tokenizer, share)


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer):
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    with pytest.raises(ValueError, match="mask and a padding token"):
        pre.pretrain(pre.small_bert(tokenizer, 16), plain, TEXTS, 1)


def test_pretraining_learns_what_can_be_known_and_repeats(tokenizer):
    held = TEXTS[::5]
    losses = []
    for _ in range(2):
        model = pre.small_bert(tokenizer, 32)
        before = pre.masked_accuracy(model, tokenizer, held)
        log = pre.pretrain(model, tokenizer, TEXTS, 120, batch=16, lr=5e-3)
        after = pre.masked_accuracy(model, tokenizer, held)
        losses.append(after.loss)
        assert after.tokens == before.tokens > 10 and after.loss < before.loss - 1 and after.accuracy > before.accuracy + 20
        assert log["step"].is_monotonic_increasing and log["step"].iloc[-1] <= 120 and log["loss"].iloc[-1] < log["loss"].iloc[0]
    assert losses[0] == losses[1]


def test_masked_accuracy_is_transformers_loss_and_does_not_depend_on_the_batch(tokenizer):
    model = pre.small_bert(tokenizer, 16)
    got = pre.masked_accuracy(model, tokenizer, TEXTS, batch=7)
    batch = pre.MaskingCollator(tokenizer, .15, only_masks=True)(pre._rows(tokenizer, TEXTS, 48))
    with torch.no_grad():
        want = model.eval()(**batch).loss
    assert abs(got.loss - float(want)) < 1e-4 and got.tokens == int((batch["labels"] != IGNORE).sum())
    model.train()
    pre.masked_accuracy(model, tokenizer, TEXTS)
    assert model.training


def test_steps_end_at_a_rate_of_zero_and_continue_from_where_they_are(tokenizer):
    model = pre.small_bert(tokenizer, 16)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    pre.pretrain(model, tokenizer, TEXTS, 3)
    once = {k: v.clone() for k, v in model.state_dict().items()}
    assert any(not torch.equal(start[k], once[k]) for k in start)
    pre.pretrain(model, tokenizer, TEXTS[:8], 3)
    assert any(not torch.equal(model.state_dict()[k], once[k]) for k in once)


@pytest.mark.parametrize("texts, kind, words", [([], ValueError, "none of the 0 texts"), (["", "the"], ValueError, "none of the 2 texts"), ("the film", TypeError, "list of str"), (["a", None], TypeError, "text 1 is a NoneType")])
def test_unusable_texts_are_named(tokenizer, texts, kind, words):
    with pytest.raises(kind, match=words):
        pre.pretrain(pre.small_bert(tokenizer, 16), tokenizer, texts, 1)


def test_what_does_not_fit_is_refused(tokenizer):
    with pytest.raises(TypeError, match="list of str"):
        pre.train_tokenizer("hello world", 50)
    for call in (lambda m: pre.pretrain(m, tokenizer, TEXTS, 1, max_length=65), lambda m: pre.masked_accuracy(m, tokenizer, TEXTS, max_length=65)):
        with pytest.raises(ValueError, match="max_length=65, but the model has 64 positions"):
            call(pre.small_bert(tokenizer, 16))
    small = pre.small_bert(pre.train_tokenizer(TEXTS[:3], 30), 16)
    with pytest.raises(ValueError, match="do not belong together"):
        pre.pretrain(small, tokenizer, TEXTS, 1)
    with pytest.raises(ValueError, match="steps=0"):
        pre.pretrain(pre.small_bert(tokenizer, 16), tokenizer, TEXTS, 0)


def test_the_body_arrives_whole_and_the_head_is_the_seeds(tokenizer):
    source = pre.small_bert(tokenizer, 16, seed=5)
    a, b, other = (pre.classifier(source, 3, seed) for seed in (0, 0, 1))
    for k, v in source.bert.state_dict().items():
        assert torch.equal(a.bert.state_dict()[k], v)
    assert torch.equal(a.classifier.weight, b.classifier.weight) and not torch.equal(a.classifier.weight, other.classifier.weight) and a.classifier.out_features == 3
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.no_grad():
        assert torch.equal(a.eval().bert(ids).last_hidden_state, source.eval().bert(ids).last_hidden_state)
    a.bert.embeddings.word_embeddings.weight.data.zero_()
    assert source.bert.embeddings.word_embeddings.weight.abs().sum() > 0      # a copy: fine-tuning leaves the pretrained model alone


def test_saved_and_loaded_it_guesses_the_same(tokenizer, tmp_path):
    model = pre.small_bert(tokenizer, 16)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, words = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert pre.masked_accuracy(again, words, TEXTS) == pre.masked_accuracy(model, tokenizer, TEXTS)
    assert np.isfinite(pre.masked_accuracy(model, tokenizer, TEXTS).loss)


def test_a_body_is_trained_once_and_read_again(tokenizer, monkeypatch, tmp_path):
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path))
    same = lambda a, b: all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    first = pre.pretrained(tokenizer, (TEXTS, TEXTS[::-1]), 6, width=16)
    by_hand = pre.small_bert(tokenizer, 16)
    for texts in (TEXTS, TEXTS[::-1]):
        pre.pretrain(by_hand, tokenizer, texts, 3)
    assert same(first, by_hand) and first.cls.predictions.decoder.weight is first.bert.embeddings.word_embeddings.weight
    assert same(pre.pretrained(tokenizer, (), 6, width=16), pre.small_bert(tokenizer, 16)) and not same(first, pre.small_bert(tokenizer, 16))

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")
    monkeypatch.setattr(transformers.Trainer, "train", refuse)
    assert same(pre.pretrained(tokenizer, (TEXTS, TEXTS[::-1]), 6, width=16), first)
    for change in ({"steps": 8}, {"lr": 1e-3}, {"seed": 1}, {"stages": (TEXTS[::-1], TEXTS)}, {"tokenizer": pre.train_tokenizer(TEXTS, 60)}):
        with pytest.raises(AssertionError, match="trained again"):
            pre.pretrained(**{"tokenizer": tokenizer, "stages": (TEXTS, TEXTS[::-1]), "steps": 6, "width": 16} | change)


def test_who_comes_second_waits_and_reads(tokenizer, monkeypatch, tmp_path):
    import time
    from concurrent.futures import ThreadPoolExecutor

    from filelock import FileLock
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path))
    first = pre.pretrained(tokenizer, (TEXTS,), 4, width=16)
    file, = (tmp_path / "pretrained").glob("*.safetensors")
    weights, trained = file.read_bytes(), []
    monkeypatch.setattr(transformers.Trainer, "train", lambda *a, **k: trained.append(1))
    with ThreadPoolExecutor(1) as pool:
        with FileLock(f"{file}.lock"):                                       # another process is at work
            file.unlink()
            second = pool.submit(pre.pretrained, tokenizer, (TEXTS,), 4, 16)
            time.sleep(1)
            assert not second.done() and not trained
            file.write_bytes(weights)
        assert torch.equal(second.result().bert.embeddings.word_embeddings.weight, first.bert.embeddings.word_embeddings.weight) and not trained
