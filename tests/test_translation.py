"""Translation: pairs and their faults, tokens, model, decoding, engines that fail, round trips, back-translation, arms and scores; without network."""
import copy
import dataclasses
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.augment import translation as T
from diversity_kit.augment.base import Keep, Protect, Transform, apply, expand
from diversity_kit.cases import back_translation as bt
from diversity_kit.cases import translation as case
from diversity_kit.data import sources

CELL = dict(data="toy_parallel", lang="zh", langs=["de", "zh"], n=40, mono=30, steps=4, batch=8, width=32, layers=1, vocab=400, words=20, lr=3e-3, dropout=0.1, test=12)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path))
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tok():
    return case.tokenizer("toy_parallel", ("de", "zh"), 400)


@pytest.fixture(scope="module")
def model(tok):
    "A model trained for a moment: it listens to its own past, and its rows end at different lengths."
    torch.set_num_threads(1)
    config = case.arms(only=("base",), **(CELL | {"n": 600, "steps": 120, "batch": 24, "dropout": 0.0}))["base"]
    m = case.fit(case.job(config, 0, *case.training_pairs(config, 0)))[0]
    m.final_logits_bias[0, m.config.eos_token_id] = 0.5
    return m


def python(code):
    return T.Command((sys.executable, "-c", code), timeout=5)


UPPER = python("import sys; [print(l.strip().upper()) for l in sys.stdin]")


# ------------------------------------------------------------------------------------------------ data
def test_the_card_reader_takes_the_most_frequent_translation_and_marks_shared_strings(tmp_path):
    import json
    import zipfile
    files = {("abode", "en"): {"config": {"title": "Connect to {host}", "no": "No"}}, ("abode", "de"): {"config": {"title": "Verbinde mit {host}", "no": "Nein"}},
             ("zha", "en"): {"a": "No", "b": {"c": " Only  here "}}, ("zha", "de"): {"a": "Kein", "b": {"c": "Nur hier"}}, ("tuya", "en"): {"x": "No"}, ("tuya", "de"): {"x": "Nein"}, ("zha", "zh-Hans"): {"a": "否"}}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        for (component, lang), value in files.items():
            z.writestr(f"homeassistant/components/{component}/translations/{lang}.json", json.dumps(value))
    with sources.Members(tmp_path / "x.zip") as members:
        rows = {r["text"]: r for r in sources._read_home_assistant(members)}
    assert rows["No"]["de"] == "Nein" and rows["No"]["zh"] == "否" and rows["No"]["source"] == "several" and rows["No"]["doc"] is None and rows["No"]["times"] == 3
    assert rows["Only here"]["doc"] == "zha" and rows["Only here"]["fr"] == ""


def test_grammar_references_are_exact():
    row = sources.parallel_sentence("turn on", "window", "old", "kitchen", "at night", every=True)
    assert row == {"text": "Turn on every old window in the kitchen at night.", "de": "Schalte nachts jedes altes Fenster in der Küche ein.", "zh": "晚上打开厨房里的每扇旧的窗户。"}
    with pytest.raises(KeyError):
        sources.parallel_sentence("eat", "lamp")
    parts = case.pool("toy_parallel", "zh")
    texts = [set(p.sources) for p in parts.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


def test_faults_of_pairs_are_named():
    s = ["good pair", "", "same", "a\x07b", "no {host}", "short", "x y", "also fine"]
    t = ["gutes Paar", "leer", "same", "ab", "kein", "sehr " * 40, "   ", "auch gut"]
    assert case.faults(s, t) == ["", "empty side", "source = target", "control characters", "placeholder lost", "length ratio", "empty side", ""]
    with pytest.raises(ValueError, match="as many of both"):
        case.faults(["a"], [])
    with pytest.raises(ValueError, match="no language 'xx'"):
        case.pool("toy_parallel", "xx")
    with pytest.raises(ValueError, match="no usable pairs"):
        case.pool("toy_parallel", "fr")


def test_placeholders_are_numbered_the_same_on_both_sides():
    assert case.number_placeholders("{a} then {b} and {a}", "{b}, {a}!") == ("{0} then {1} and {0}", "{1}, {0}!")
    assert case.number_placeholders("none", "{x}") == ("none", "{x}")


# ------------------------------------------------------------------------------------------------ tokens
def test_tokens_survive_the_way_back_and_tags_cannot_be_forged(tok):
    for text in ("Turn on the lamp.", "打开厨房里的灯。", "Schalte {0} ein."):
        assert tok.decode(tok([text])["input_ids"][0], skip_special_tokens=True) == text
    assert case.encode(tok, ["x"], "<BT>")[0][0] == tok.convert_tokens_to_ids("<BT>")
    forged = case.encode(tok, ["<BT> </s> <2de> <pad>"])[0]
    assert not {tok.convert_tokens_to_ids(t) for t in ("<BT>", "<2de>", "<pad>")} & set(forged) and forged.count(tok.eos_token_id) == 1
    assert tok.convert_tokens_to_ids("{0}") in tok(["on {0}."])["input_ids"][0]
    with pytest.raises(ValueError, match="unknown tag '<2xx>'"):
        case.encode(tok, ["x"], "<2xx>")
    with pytest.raises(ValueError, match="unit='word'"):
        case.train_tokenizer(["a"], 10, "word")


def test_characters_as_tokens():
    letters = case.train_tokenizer(["打开灯", "关闭灯"] * 3, 300, "character")
    assert [t for t in letters.tokenize("打开灯") if t != "▁"] == ["打", "开", "灯"]
    assert case.train_tokenizer(["打开灯", "打开门"] * 9, 300).tokenize("打开窗")[-2:] != ["打", "开"]


# ------------------------------------------------------------------------------------------------ model and loss
def batch(tok, n=6):
    p = case.pool("toy_parallel", "zh")["test"]
    return tuple(T.pad(case.encode(tok, t[:n]), tok.pad_token_id)[0] for t in (p.sources, p.targets))


def test_token_nll_equals_the_librarys_and_a_sum_by_hand(model, tok):
    ids, labels = batch(tok)
    theirs = model(input_ids=ids, attention_mask=(ids != tok.pad_token_id).long(), labels=labels.masked_fill(labels == tok.pad_token_id, -100))
    assert torch.allclose(case.token_nll(model, ids, labels), theirs.loss, atol=1e-5)
    logp, real = theirs.logits.log_softmax(-1), labels != tok.pad_token_id
    by_hand = -logp.gather(-1, labels[..., None])[..., 0][real]
    assert torch.allclose(by_hand.mean(), theirs.loss, atol=1e-5)
    smooth = 0.9 * by_hand.mean() + 0.1 * -logp.mean(-1)[real].mean()
    assert torch.allclose(case.token_nll(model, ids, labels, 0.1), smooth, atol=1e-5)


def test_no_target_token_is_seen_before_its_time(model, tok):
    ids, labels = batch(tok)
    assert all(case.leak(model, ids, labels, at) == 0 for at in (1, 3, 5))
    broken = case.causal
    case.causal = lambda size, device=None: torch.ones(size, size, dtype=torch.bool, device=device)
    try:
        open_ = case.token_nll(model, ids, labels)
    finally:
        case.causal = broken
    assert not torch.allclose(open_, case.token_nll(model, ids, labels))                       # the mask is what keeps it shut


def test_attention_equals_torch_and_the_models_own():
    q, k = torch.randn(2, 3, 5, 8, dtype=torch.float64), torch.randn(2, 3, 7, 8, dtype=torch.float64)
    mask = torch.rand(5, 7) < 0.6
    mask[:, 0] = True
    out, weights = case.attention(q, k, k, mask)
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask))
    assert torch.allclose(weights.sum(-1), torch.ones(1, dtype=torch.float64)) and not weights[..., ~mask].any()


def test_models_of_seeds_differ_and_repeat(tok):
    a, b, c = (case.build(len(tok), 32, 1, seed=s) for s in (0, 0, 1))
    w = lambda m: m.model.encoder.layers[0].fc1.weight
    assert torch.equal(w(a), w(b)) and not torch.equal(w(a), w(c)) and w(a) is not w(b)
    assert abs(float(w(a).detach().std()) - 32**-0.5) < 0.02 and a.lm_head.weight is a.model.encoder.embed_tokens.weight
    with pytest.raises(ValueError, match="not a multiple"):
        case.build(len(tok), 30, 1)


# ------------------------------------------------------------------------------------------------ decoding
def trimmed(rows, eos):
    return [r[: r.index(eos)] if eos in r else r for r in rows.tolist()]


@pytest.mark.parametrize("beams", [1, 2, 4, 5])
@pytest.mark.parametrize("most", [1, 4, 14])
def test_decoding_equals_generate(model, tok, beams, most):
    ids, _ = batch(tok, 12)
    mask = (ids != tok.pad_token_id).long()
    own = T.decode(model, ids, mask, most) if beams == 1 else T.beam_search(model, ids, mask, most, beams)
    library = model.generate(input_ids=ids, attention_mask=mask, num_beams=beams, do_sample=False, max_new_tokens=most, early_stopping=False, length_penalty=1.0, return_dict_in_generate=True, output_scores=True)
    assert trimmed(own.tokens, tok.eos_token_id) == trimmed(library.sequences[:, 1:], tok.eos_token_id)
    if beams > 1:
        torch.testing.assert_close(own.score, library.sequences_scores, atol=1e-5, rtol=1e-5)
    ends = [tok.eos_token_id in r for r in own.tokens.tolist()]
    assert own.finished.tolist() == ends and (most < 14 or 0 < sum(ends))


def test_samples_depend_on_the_key_alone_and_follow_the_model(model, tok):
    ids, _ = batch(tok, 8)
    mask, keys = (ids != tok.pad_token_id).long(), np.arange(8, dtype=np.uint64)
    whole = T.decode(model, ids, mask, 12, keys)
    part = T.decode(model, ids[2:5], mask[2:5], 12, keys[2:5])
    assert torch.equal(whole.tokens[2:5], part.tokens) and not torch.equal(whole.tokens, T.decode(model, ids, mask, 12, keys + np.uint64(9)).tokens)
    same, first = ids[:1].expand(4000, -1), model(input_ids=ids[:1], attention_mask=mask[:1], decoder_input_ids=ids.new_full((1, 1), tok.pad_token_id)).logits[0, -1].softmax(-1)
    drawn = torch.bincount(T.decode(model, same, mask[:1].expand(4000, -1), 1, np.arange(4000, dtype=np.uint64)).tokens[:, 0], minlength=len(tok)) / 4000
    assert (drawn - first).abs().max() < 5 * (0.25 / 4000) ** 0.5
    top = T.decode(model, ids, mask, 12, keys, top_k=1)
    assert trimmed(top.tokens, tok.eos_token_id) == trimmed(T.decode(model, ids, mask, 12).tokens, tok.eos_token_id)


def test_decoding_ends_although_the_model_never_does(tok):
    endless = case.build(len(tok), 32, 1).eval()
    endless.final_logits_bias[0, tok.eos_token_id] = -1e4
    with pytest.warns(T.DecodingCut, match="2 of 2"):
        out = T.Seq2Seq(endless, tok).translate(["Turn on the lamp.", "Check it."])
    assert len(out) == 2
    with pytest.warns(T.DecodingCut):
        T.Seq2Seq(endless, tok, beams=3).translate(["Turn on the lamp."])


# ------------------------------------------------------------------------------------------------ engines
def test_lines_never_shift():
    swallow = python("import sys; [print(l.strip().upper()) for l in sys.stdin if 'bad' not in l]")
    doubled = python("import sys; [print(l + l, end='') for l in sys.stdin]")
    texts = [f"text {i}" for i in range(9)]
    texts[4] = "a bad one"
    for engine in (swallow, doubled):
        with pytest.raises(T.TranslatorFailed, match="9 texts"):
            T.translate(engine, texts)
    got = T.translate(swallow, texts, on_error="skip")
    assert got == [None if "bad" in t else t.upper() for t in texts]
    assert T.translate(doubled, texts[:2], on_error="skip") == [None, None]
    assert T.translate(UPPER, ["two\nlines", "", "  ", "tab\tand\x07bell"]) == ["TWO LINES", "", "  ", "TAB AND BELL"]
    assert T.translate(python("pass"), []) == []


@pytest.mark.parametrize("code, message", [("import time; time.sleep(30)", "no answer"), ("import sys; sys.exit(3)", "code 3"), ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "code -9")])
def test_engines_that_hang_or_die(code, message):
    engine = T.Command((sys.executable, "-c", code), timeout=1)
    with pytest.raises(T.TranslatorFailed, match=message):
        T.translate(engine, ["a"])
    assert T.translate(engine, ["a"], on_error="skip") == [None]
    with pytest.raises(T.TranslatorFailed, match="cannot be started"):
        T.translate(T.Command(("/no/such/program",)), ["a"])


def test_bad_calls_say_what_is_wrong(model, tok):
    with pytest.raises(TypeError, match=r"texts\[1\] is a NoneType"):
        T.translate(UPPER, ["a", None])
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        T.translate(UPPER, ["a"], on_error="ignore")
    with pytest.raises(ValueError, match="not both"):
        T.Seq2Seq(model, tok, beams=2, sample=True)
    with pytest.raises(ValueError, match="needs keys"):
        T.Seq2Seq(model, tok, sample=True).translate(["a"])
    with pytest.raises(ValueError, match="unknown tag"):
        T.Seq2Seq(model, tok, tags=("<2xx>",))
    with pytest.raises(TypeError, match="there is a str"):
        T.RoundTrip("en-de", UPPER)
    with pytest.raises(ValueError, match="batch=0"):
        T.translate(UPPER, ["a"], batch=0)
    for call in (lambda: T.translate(UPPER, "hola"), lambda: T.RoundTrip(UPPER, UPPER).made("hola"), lambda: T.BackTranslate(UPPER)("hola")):
        with pytest.raises(TypeError, match=r"is one str: give a list of texts, \['hola'\]"):
            call()
    with pytest.raises(TypeError, match=r"\('cat', '-u'\)"):
        T.Command("cat -u")
    with pytest.raises(TypeError, match="translator is a NoneType"):
        T.BackTranslate(None)
    with pytest.raises(ValueError, match="on_error='ignore'"):
        T.BackTranslate(UPPER, on_error="ignore")
    for ids in (["x"], ["x", "y", "z"]):
        with pytest.raises(ValueError, match=f"{len(ids)} ids for 2 targets"):
            T.BackTranslate(UPPER)(["a", "b"], ids=ids)
    with pytest.raises(TypeError, match=r"targets\[1\] is a NoneType"):
        T.BackTranslate(UPPER)(["a", None])
    for mark in ("PH{}", "{{x}}", "{}"):
        with pytest.raises(ValueError, match="needs different placeholders"):
            T.Masked(UPPER, mark)
    same = type("Same", (Letters,), {"translate": lambda self, texts, keys=None: [f"so {t}" for t in texts]})()
    assert T.Masked(same, "<p{}>").translate(["Go {a} %s"]) == ["so Go {a} %s"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX process groups")
def test_a_hung_engine_is_stopped_with_its_children(tmp_path):
    note = tmp_path / "child"
    for end in ("wait", "exit"):                                      # the shell hangs too, or is gone before its child
        with pytest.raises(T.TranslatorFailed, match="no answer"):
            T.translate(T.Command(("bash", "-c", f"sleep 60 & echo $! > {note}; {end}"), timeout=0.5), ["a"])
        state = subprocess.run(["ps", "-o", "stat=", "-p", note.read_text().strip()], capture_output=True, text=True).stdout.strip()
        assert state[:1] in ("", "Z"), (end, state)


def test_a_lone_carriage_return_is_no_line():
    with pytest.raises(T.TranslatorFailed, match="2 lines for 3 texts"):
        T.translate(python("import sys; sys.stdout.buffer.write(b'uno\\rdos\\ntres\\n')"), ["a", "b", "c"])
    assert T.translate(python("import sys; sys.stdout.buffer.write(b'uno\\r\\ndos\\r\\n')"), ["a", "b"]) == ["uno", "dos"]


class Broken:
    spec, random = "broken", False

    def __init__(self, bad, error=ConnectionError):
        self.bad, self.error, self.calls = bad, error, 0

    def translate(self, texts, keys=None):
        self.calls += 1
        if any(self.bad in t for t in texts):
            raise self.error("lost")
        return [t.upper() for t in texts]


def test_skip_takes_any_failure_says_how_many_and_gives_a_dead_engine_up():
    texts = [f"text {i}" for i in range(40)]
    with pytest.warns(UserWarning, match="1 of 40 texts could not be translated"):
        assert T.translate(Broken("xt 7"), texts, on_error="skip") == [None if i == 7 else f"TEXT {i}" for i in range(40)]
    with pytest.raises(ConnectionError):
        T.translate(Broken("xt 7"), texts)
    with pytest.raises(ValueError, match="lost"):                    # a mistake in the call is no failing engine
        T.translate(Broken("xt 7", ValueError), texts, on_error="skip")
    dead = Broken("")
    with pytest.raises(T.TranslatorFailed, match="each of the first 8 texts.*ConnectionError: lost"):
        T.RoundTrip(dead, UPPER, on_error="skip")(texts)
    assert dead.calls < 20
    with pytest.warns(UserWarning, match="3 of 3"):                  # too few to call it dead
        assert T.translate(Broken(""), texts[:3], on_error="skip") == [None] * 3


def test_apertium_is_optional(monkeypatch):
    monkeypatch.setattr(T.shutil, "which", lambda name: None)
    with pytest.raises(T.TranslatorFailed, match="apt-get install"):
        T.apertium()
    monkeypatch.setattr(T.shutil, "which", lambda name: "/usr/bin/apertium")
    assert "-u" in T.apertium("spa-eng").command and isinstance(T.apertium(), T.Translator)


def test_hub_models_take_the_same_path(model, tok, tmp_path):
    model.save_pretrained(tmp_path / "m")
    tok.save_pretrained(tmp_path / "m")
    texts = list(case.pool("toy_parallel", "zh")["test"].sources[:5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = T.hub(str(tmp_path / "m"), beams=2)
        assert loaded.translate(texts) == T.Seq2Seq(model, tok, beams=2).translate(texts)
        assert loaded.spec.split()[1] == T.weights_hash(model)
        forced = T.hub(str(tmp_path / "m"), target="<2de>")                     # NLLB's way: the decoder must begin with a language token
        assert len(forced.translate(texts)) == 5


class Counting:
    spec, random = "counting 1", True

    def __init__(self):
        self.seen = []

    def translate(self, texts, keys=None):
        self.seen += texts
        return [f"{t}/{int(k) % 7}" for t, k in zip(texts, keys)]


def test_answers_are_cached_by_text_and_key():
    inner = Counting()
    keys = np.array([1, 2, 1], np.uint64)
    first = T.Cached(inner, batch=2).translate(["a", "b", "a"], keys)
    assert first == ["a/1", "b/2", "a/1"] and inner.seen == ["a", "b"]
    assert T.Cached(inner).translate(["b", "a"], keys[1:]) == ["b/2", "a/1"] and inner.seen == ["a", "b"]
    assert T.Cached(inner).translate(["a"], np.array([5], np.uint64)) == ["a/5"]

    class Dies(Counting):
        def translate(self, texts, keys=None):
            if "z" in texts:
                raise T.TranslatorFailed("died")
            return super().translate(texts, keys)
    with pytest.raises(T.TranslatorFailed):
        T.Cached(Dies(), batch=1).translate(["y", "z"], keys[:2])
    later = Counting()
    T.Cached(later, batch=1).translate(["y", "z"], keys[:2])
    assert later.seen == ["z"]                                                 # what was finished before the death is kept


# ------------------------------------------------------------------------------------------------ transforms
class Letters:
    "Turns letters round: its own inverse, with placeholders shouted."
    spec, random = "letters", False

    def translate(self, texts, keys=None):
        return [t.swapcase() for t in texts]


class Loses(Letters):
    spec = "loses"

    def translate(self, texts, keys=None):
        return [t.replace("{host}", "").replace("{0}", "") for t in texts]


def test_masks_hide_placeholders_and_give_up_where_one_is_lost():
    assert T.Masked(Letters()).translate(["Connect {host} to <b>it</b>", "plain"]) == ["cONNECT {host} TO <b>IT</b>", "PLAIN"]
    assert T.Masked(Loses()).translate(["Connect {host} now"]) == ["Connect {host} now"]
    twice = type("Twice", (Letters,), {"translate": lambda self, texts, keys=None: [t + t for t in texts]})()
    assert T.Masked(twice).translate(["go {a}"]) == ["go {a}"]
    for change, why in ((lambda out: ["junk", *out], "4 lines for 3"), (lambda out: out[1:], "2 lines for 3"), (lambda out: None, "NoneType lines"), (lambda out: [None, *out[1:]], "NoneType for text 0")):
        engine = type("Shifts", (Letters,), {"translate": lambda self, texts, keys=None, change=change: change(Letters.translate(self, texts))})()
        with pytest.raises(T.TranslatorFailed, match=why):
            T.translate(T.Masked(engine), ["a one", "b {host}", "c two"])
    gate = T.SamePlaceholders()
    assert gate("a {host}", "b {host}") and not gate("a {host}", "b") and not gate("{x} {x}", "{x}")


def test_the_cache_knows_the_tokenizer_and_its_source_language(model, tok):
    specs = []
    for lang in ("eng_Latn", "deu_Latn"):
        other = copy.deepcopy(tok)
        other.src_lang = lang
        specs.append(T.Seq2Seq(model, other).spec)
    other = copy.deepcopy(tok)
    other.add_tokens(["<new>"])
    assert len({*specs, T.Seq2Seq(model, tok).spec, T.Seq2Seq(model, other).spec}) == 4


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=6))
def test_round_trips_are_traced_exactly(texts):
    class Shuffle:
        spec, random = "shuffle", True

        def translate(self, texts, keys=None):
            return [" ".join(sorted(t.split(), key=lambda w: (len(w) * int(k % np.uint64(7)), w))) for t, k in zip(texts, keys)]
    trip = T.RoundTrip(Shuffle(), Shuffle())
    out = trip(texts, seed=2)
    assert [apply(t, e) for t, e in zip(texts, trip.trace(texts, seed=2))] == out and len(out) == len(texts)
    assert all(o for o, t in zip(out, texts) if t)
    assert trip(texts[::-1], seed=2)[::-1] == out


def test_round_trip_composes():
    from datasets import Dataset
    trip = T.RoundTrip(Loses(), Letters())
    assert trip(["Connect {host} now"]) == ["cONNECT  NOW"]
    assert "{host}" in Protect(trip, ["placeholder"])(["Connect {host} now"])[0]
    assert Keep(trip, T.SamePlaceholders())(["Connect {host} now", "all right"]) == ["Connect {host} now", "ALL RIGHT".swapcase().swapcase()]
    ds = Dataset.from_dict({"id": ["a", "b"], "text": ["one two", "三 四"]})
    made = expand(ds, T.RoundTrip(Letters(), UPPER), 1)
    assert made["text"] == ["one two", "ONE TWO", "三 四", "三 四"] and made["op"] == ["original", "RoundTrip", "original", "none"]
    assert trip.fingerprint != T.RoundTrip(Letters(), Loses()).fingerprint and trip.to_dict()["there"] == "loses"
    swallow = python("import sys; [print(l.strip().upper()) for l in sys.stdin if 'bad' not in l]")
    assert T.RoundTrip(swallow, Letters(), on_error="skip")(["a", "bad", "c"]) == ["a", "bad", "c"]


def test_noise_moves_little_keeps_a_word_and_repeats():
    text = " ".join(f"w{i}" for i in range(30))
    still = T.Noise(0, 0, 3)
    moved = [int(w[1:]) for w in still([text], seed=1)[0].split()]
    assert sorted(moved) == list(range(30)) and moved != list(range(30)) and max(abs(a - b) for a, b in zip(moved, range(30))) <= 3
    assert T.Noise(0, 0, 0)([text]) == [text] and set(T.Noise(0, 1, 0)(["a b"])[0].split()) == {"<blank>"}
    many = [f"{text} {i}" for i in range(200)]
    dropped = np.mean([31 - len(t.split()) for t in T.Noise(0.2, 0, 0)(many)]) / 31
    assert abs(dropped - 0.2) < 0.02
    noise = T.Noise(0.5, 0.2, 3)
    odd = ["", " ", "one", "打开厨房里的红色的灯。", "a  b", "🙂 \ud800 x"]
    assert noise(odd, seed=4) == noise(odd, seed=4) and all(len(t.strip()) for t, o in zip(noise(odd * 30, seed=1, ids=range(180)), odd * 30) if o.strip())
    assert [apply(t, e) for t, e in zip(odd, noise.trace(odd, seed=4))] == noise(odd, seed=4)
    assert sorted(T.Noise(0, 0, 3)(["打开红灯"], seed=2)[0]) == sorted("打开红灯")
    with pytest.raises(ValueError, match="probabilities"):
        T.Noise(drop=1.0)
    held = [f"Connect {{host}} now to <b>it</b> and {{0}} ({i})" for i in range(200)]
    wild = [w.replace("<blank>", "") for w in T.Noise(0.5, 0.3, 5)(held)]
    assert all(T.placeholders(w) == T.placeholders(h) for w, h in zip(wild, held)) and len(set(wild)) > 150
    assert T.Noise(0, 1, 3)(["打开{host}的灯"])[0].count("<blank>") == 4 and "{host}" in T.Noise(0, 1, 3)(["打开{host}的灯"])[0]
    assert Transform.from_dict(noise.to_dict()) == noise


def test_back_translation_never_touches_the_real_side():
    swallow = python("import sys; [print(l.strip().upper()) for l in sys.stdin if 'bad' not in l]")
    targets = ["eins", "bad", "drei", "vier {host}"]
    pairs = T.BackTranslate(swallow, tag="<BT>", on_error="skip")(targets)
    assert pairs.targets == ("eins", "drei", "vier {host}") and pairs.sources == ("<BT> EINS", "<BT> DREI", "<BT> VIER {HOST}")
    assert pairs.index.tolist() == [0, 2, 3] and pairs.dropped == {"translator failed": 1} and len(pairs) == 3
    gated = T.BackTranslate(UPPER, gate=T.SamePlaceholders())(targets)
    assert gated.dropped == {"refused by the gate": 1} and "vier {host}" not in gated.targets
    noised = T.BackTranslate(UPPER, noise=T.Noise(0.5, 0, 0))(["a b c d e f"] * 3, seed=1, ids=["x", "y", "x"])
    assert noised.sources[0] == noised.sources[2] != noised.sources[1] and noised.targets == ("a b c d e f",) * 3
    bare, few = T.BackTranslate(UPPER, noise=T.Noise(0.3, 0.3, 3)), [f"a b c d e f g {i}" for i in range(12)]
    assert bare(few).sources[1:] == bare(few[1:]).sources and bare(few[::-1]).sources == bare(few).sources[::-1]      # no ids: the text is the key, not its place
    assert list(pairs.to_pandas()) == ["source", "target", "index"]


def test_report_of_a_trip():
    r = T.trip_report(["a {x}", "b", "同一句话"], ["a", "b", "同一句话"])
    assert r.unchanged == pytest.approx(2 / 3) and r.with_placeholder == 1 and r.placeholder_lost == 1 and r.distinct == 1
    assert T.ChrFBand(50, 100)("打开红灯", "打开红灯") and not T.ChrFBand(50, 90)("打开红灯", "打开红灯") and not T.ChrFBand(50, 100)("打开红灯", "完全不同")
    with pytest.raises(ValueError, match="as many of both"):
        T.trip_report(["a"], [])


# ------------------------------------------------------------------------------------------------ the case
def test_arms_share_their_real_pairs_and_steps(tok):
    arms = bt.arms(**CELL)
    real, mono = case.halves(CELL, 0)
    assert not set(real.ids) & set(mono.ids) and case.halves(CELL, 0)[0] == real != case.halves(CELL, 1)[0]
    sets = {a: bt.training_pairs(c, 0) for a, c in arms.items() if a not in ("round_trip", "forward", "bt", "bt_sampled", "bt_noised", "bt_tagged")}
    own = sets["base"][0]
    assert sets["copies"][0] == sets["copies"][1] == own and sets["more_real"][1][1] == case.encode(tok, mono.targets)
    assert sets["synonyms"][1][1] == own[1] and sets["synonyms"][1][0] != own[0]
    tagged = sets["multilingual"]
    assert all(r[0] == tok.convert_tokens_to_ids("<2zh>") for r in tagged[0][0]) and all(r[0] == tok.convert_tokens_to_ids("<2de>") for r in tagged[1][0])
    held = {tuple(r) for r in case.encode(tok, case.pool("toy_parallel", "de")["test"].sources)}
    assert not held & {tuple(r[1:]) for r in tagged[1][0]}
    plans = [case.job(c, 0, *sets[a]).plan.shape for a, c in arms.items() if a in sets]
    assert set(plans) == {(4, 8)}


def test_back_translated_arms_have_real_targets(tok):
    arms = bt.arms(only=("bt", "bt_tagged", "bt_noised", "bt_sampled", "round_trip", "forward"), **CELL)
    real, mono = case.halves(CELL, 0)
    made = {a: bt.training_pairs(c, 0)[1] for a, c in arms.items()}
    targets = case.encode(tok, mono.targets)
    assert all(made[a][1] == targets for a in made if a.startswith("bt"))
    assert [r[1:] for r in made["bt_tagged"][0]] == made["bt"][0] != made["bt_sampled"][0]
    assert made["round_trip"][1] == case.encode(tok, real.targets) and made["forward"][0] == case.encode(tok, mono.sources) and made["forward"][1] != targets


@pytest.mark.parametrize("change, message", [({"n": 10**6}, "do not fit"), ({"colour": 1}, "check colour"), ({"only": ("magic",)}, "unknown arm 'magic'")])
def test_bad_configs_say_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        case.halves(case.arms(**{**CELL, **change})["base"], 0)
    with pytest.raises(ValueError, match="one of base, dictionary"):
        case.training_pairs(CELL | {"arm": "bt"}, 0)                                     # that arm is the other chapter's


def test_the_bound_is_below_and_tight_for_the_posterior():
    assert bt.bound([0.5, 0.5], [0.2, 0.6], [0.25, 0.75]) == pytest.approx((np.log(0.4), np.log(0.4)))          # the posterior is (1/4, 3/4)
    assert bt.bound([0.5, 0.5], [0.2, 0.6], [1, 0]) == pytest.approx((np.log(0.4), np.log(0.1)))                # log 0.2 - KL, and KL is log 2
    assert bt.bound([0, 1.0], [0.2, 0.6], [0, 1]) == pytest.approx((np.log(0.6),) * 2)
    for wrong, message in ((([0.5, 0.5], [1], [1]), "one length"), (([0.5, 0.6], [1, 1], [0.5, 0.5]), "prior is no distribution"), (([0.5, 0.5], [1, 1], [1.5, -0.5]), "q is no distribution"),
                           (([1, 0], [1, 1], [0.5, 0.5]), "minus infinity"), (([0.5, 0.5], [1, 0], [0.5, 0.5]), "minus infinity")):
        with pytest.raises(ValueError, match=message):
            bt.bound(*wrong)


def test_help_reads_with_a_beam_and_asks_the_word_list(monkeypatch):
    config = case.arms(only=("base",), **(CELL | {"mono": 0, "steps": 30}))["base"]
    case.trial(config, 0)
    asked, table = case.test_pairs(config), case.dictionary(case.pool("toy_parallel", "zh", 20)["train"])
    lines = case.by_dictionary(table, asked.sources, "zh")
    for cut, share in ((-np.inf, 0), (np.inf, 100), (None, None)):
        if cut is not None:
            monkeypatch.setattr(case, "threshold", lambda *a, cut=cut: cut)
        else:
            monkeypatch.undo()
        got = case.help_trial(config, 0)
        beam, sure = (case.outputs(config | {"read": how}, 0) for how in ("beam", "sure"))
        replaced = np.array([b != s for b, s in zip(beam, sure)])
        assert {k: v for k, v in case.graded(asked, sure).items()} == {k[:-5]: v for k, v in got.items() if k.endswith("_sure")}
        assert share is None or (got["replaced"] == share and sure == (lines if share else beam))
        assert got["chrf_beam"] == case.scores(beam, asked.targets, "zh")["chrf"] and 100 * replaced.mean() <= got["replaced"] <= 100
        assert all(s == l for s, l, r in zip(sure, lines, replaced) if r)


def test_the_schedule_is_fair():
    size = np.random.default_rng(0).integers(3, 15, 300)
    lengths = np.stack([size, size + np.random.default_rng(1).integers(0, 3, 300)], 1)              # long sources have long targets
    rows, widths = case.schedule(100, 200, 64, 16, lengths, seed=1)
    assert rows.shape == (64, 16) and ((rows < 100).sum() == 64 * 8) and (widths == lengths[rows].max(1)).all()
    counts = np.bincount(rows.ravel(), minlength=300)
    assert set(counts[:100]) <= {5, 6} and set(counts[100:]) <= {2, 3}
    alone, _ = case.schedule(100, 0, 64, 16, lengths, seed=1)
    assert alone.max() < 100 and alone.shape == (64, 16)
    padded = lambda r: (lengths[r].max(1).sum(1) * 16 - lengths[r].sum((1, 2))).sum()
    assert padded(rows) < 0.6 * padded(np.random.default_rng(1).permutation(rows.ravel()).reshape(64, 16))
    _, up = case.schedule(100, 200, 64, 16, lengths, seed=1, buckets=(8, 16))
    assert set(up.ravel()) <= {8, 16} and (up >= widths).all()
    assert case.rate(0, 100, 1.0) == pytest.approx(0.1) and case.rate(99, 100, 1.0) < 0.02 and max(case.rate(t, 100, 1.0) for t in range(100)) == 1.0


def test_trials_repeat_and_side_by_side_equals_one_by_one():
    from diversity_kit.measure.experiment import Experiment
    arms = bt.arms(only=("copies", "bt"), **CELL)
    bt._SHARED.clear()
    alone = bt.trial(arms["bt"], 0)
    together = Experiment("translation-test", arms, 2, bt.trial)
    assert bt.ahead(together, 4) > 0 and not together.missing() and not case._DONE
    row = together.run().frame.set_index(["arm", "seed"]).loc[("bt", 0)]
    assert {k: row[k] for k in alone} == pytest.approx(alone) and len(case.outputs(arms["bt"], 0)) == 12
    with pytest.raises(ValueError, match="same number of steps"):
        case.fit_many([case.job(c, 0, *bt.training_pairs(c, 0)) for c in (arms["copies"], arms["copies"] | {"steps": 5})])


def test_weights_of_real_models_are_kept():
    config = case.arms(only=("base",), **(CELL | {"mono": 0}))["base"]
    case.trial(config, 0)
    kept = case.trained(config, 0)
    case._weights_file(config, 0).write_bytes(b"damaged" * 10)
    again = case.trained(config, 0)
    assert T.weights_hash(kept) == T.weights_hash(again)


def test_scores_equal_sacrebleu_and_chinese_is_split():
    from sacrebleu.metrics import BLEU, CHRF
    ref, out = ["打开厨房里的红色的灯。", "关闭车库里的门。"], ["打开厨房里的灯。", "关闭车库里的旧门。"]
    got = case.scores(out, ref, "zh")
    assert got == pytest.approx({"bleu": BLEU(tokenize="zh").corpus_score(out, [ref]).score, "chrf": CHRF().corpus_score(out, [ref]).score}) and got["bleu"] > 40
    assert "tok:zh" in case.signatures("zh")["bleu"] and "tok:13a" in case.signatures("de")["bleu"]
    with pytest.raises(ValueError, match="at least one"):
        case.scores([], [], "de")


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_paired_bootstrap_finds_a_difference_and_none(metric):
    ref = [f"the {a} is {b} in room {i}" for i, (a, b) in enumerate([("lamp", "red"), ("door", "old"), ("fan", "new")] * 15)]
    worse = [r.replace(" is ", " was ") if i % 3 else r for i, r in enumerate(ref)]
    e = case.paired_bootstrap([ref, ref], [worse, worse], ref, "de", metric, n_boot=60)
    assert e.mean == pytest.approx(100 - case.scores(worse, ref, "de")[metric]) and 0 < e.low < e.mean < e.high and e.p < 0.1
    null = case.paired_bootstrap([worse], [worse], ref, "de", metric, n_boot=20)
    assert null.mean == null.low == null.high == 0 and null.p == 1
    uneven = case.paired_bootstrap([ref, worse], [worse, worse], ref, "de", metric, n_boot=60)
    assert uneven.low == 0 < uneven.mean < uneven.high                        # both draws may be the seed without a difference
    with pytest.raises(ValueError, match="one output for each"):
        case.paired_bootstrap([ref], [ref[:3]], ref, "de")


def test_baselines_learn_the_grammar():
    p = case.pool("toy_parallel", "de")
    table = case.dictionary(p["train"])
    assert table["lamp"] == "Lampe" and table["kitchen"] == "Küche" and table["garden"] == "Garten"
    assert case.by_dictionary({"lamp": "灯", "red": "红"}, ["red lamp, xyz"], "zh") == ["红灯,xyz"]
    texts, near = case.by_memory(p["train"], [*p["train"].sources[:5], "Ωμέγα"])
    assert texts[:5] == list(p["train"].targets[:5]) and near[:5] == pytest.approx(1) and near[5] < 0.5


def test_words_are_looked_up_and_placeholders_stand_once():
    table = {"red": "roja", "lamp": "lámpara", "home": "home", "{0}": "de", "at": "{0}"}
    assert case.annotated(table, ["Red lamp at {0} home, xyz."], "es") == ["Red roja lamp lámpara at {0} home , xyz ."]
    assert case.annotated({"red": "红", "lamp": "灯"}, ["red lamp"], "zh") == ["red红 lamp灯"]                 # no space before Chinese, as in a Chinese sentence


def test_folds_keep_components_together(monkeypatch):
    rows = {"train": {"id": list("abcdefgh"), "source": ["x", "x", "y", "y", "z", "z", "several", "several"]}}
    monkeypatch.setattr(case, "load", lambda data: rows)
    part = lambda ids: case.Pairs(tuple(ids), tuple(ids), tuple(ids), "es", "train")
    fold = dict(zip("hgfedcba", case.folds_of("any", part("hgfedcba"), 3)))
    assert fold["a"] == fold["b"] and fold["c"] == fold["d"] and fold["e"] == fold["f"] and len({fold["a"], fold["c"], fold["e"]}) == 3 and fold["g"] != fold["h"]
    rows["train"]["source"] = ["x"] * 8
    assert np.bincount(case.folds_of("any", part("abcdefgh"), 3)).tolist() == [3, 3, 2]          # one source: dealt out one by one


def test_a_training_pair_never_teaches_its_own_dictionary():
    p = case.pool("toy_parallel", "de")["train"].sample(60)
    odd = case.Pairs(("odd",), ("frobnicate the lamp",), ("frobniziere die Lampe",), "de", "train")
    both = case.Pairs(p.ids + odd.ids, p.sources + odd.sources, p.targets + odd.targets, "de", "train")
    fold = np.arange(61) % 4
    line = case.looked_up(both, fold)[-1]
    assert "frobnicate" in case.dictionary(both) and line.startswith("frobnicate the") and "Lampe" in line
    other = dataclasses.replace(both, targets=p.targets + ("etwas ganz anderes",))
    assert case.looked_up(other, fold)[-1] == line                                                # its own answer does not reach it
    assert len({case.annotated(case.dictionary(x), x.sources, "de")[-1] for x in (both, other)}) == 2      # without folds it would
    assert case.looked_up(both, fold, case.by_dictionary)[-1].startswith("frobnicate")
    with pytest.raises(ValueError, match="one fold"):
        case.looked_up(both, np.zeros(61, int))


def test_the_dictionary_arm_reads_what_it_was_trained_on(tok):
    config = case.arms(only=("dictionary",), **(CELL | {"mono": 0}))["dictionary"]
    real, _ = case.halves(config, 1)
    (sources_, targets), extra = case.training_pairs(config, 1)
    assert extra == ([], []) and targets == case.encode(tok, real.targets)
    assert tok.batch_decode(sources_, skip_special_tokens=True) == case.looked_up(real, case.folds_of("toy_parallel", real))
    assert case.lexicon(config, 1) == case.dictionary(real) != case.lexicon(config, 2)            # at test: of all real pairs of this seed
    model = case.build(len(tok), 32, 1)
    reader = case.translator(config, model, seed=1)
    assert reader.encode(["Open the lamp."]) == case.encode(tok, case.annotated(case.dictionary(real), ["Open the lamp."], "zh"))
    assert reader.spec != case.translator(config, model, seed=2).spec and reader.spec == case.translator(config, model, seed=1).spec      # a cache must not mix them up
    got = case.trial(config, 1)
    assert {"bleu", "chrf", "bleu_4"} <= set(got) and T.weights_hash(case.trained(config, 1)) == T.weights_hash(case.fit(case.job(config, 1, *case.training_pairs(config, 1)))[0])


def test_confidence_is_the_mean_log_probability(model, tok):
    p = case.pool("toy_parallel", "zh")["test"][:7]
    reader = T.Seq2Seq(model, tok)
    got = case.confidence(reader, p.sources, p.targets, batch=3)
    for i in range(7):
        ids, labels = (torch.tensor(case.encode(tok, [t])) for t in (p.sources[i], p.targets[i]))
        assert got[i] == pytest.approx(-float(case.token_nll(model, ids, labels).detach()), abs=1e-4)
    with pytest.raises(ValueError, match="as many of both"):
        case.confidence(reader, ["a"], [])
    with pytest.raises(ValueError, match="at least one"):
        case.confidence(reader, [], [])


def test_the_threshold_sends_the_unsure_to_the_dictionary():
    right = [f"richtig Nummer {i} hier" for i in range(20)]
    sure, outputs, lines = np.linspace(-2, -0.1, 20), ["falsch"] * 8 + right[8:], right[:8] + ["falsch"] * 12
    cut = case.threshold(sure, outputs, lines, right, "de")
    assert case.unsure(sure, outputs, lines, cut) == right
    assert case.threshold(sure, right, lines, right, "de") < sure[1] and case.unsure(sure, right, lines, -np.inf) == right       # a good model keeps its word
    assert case.threshold(sure, ["falsch"] * 20, right, right, "de") > sure[-2] and case.unsure(sure, ["falsch"] * 20, right, np.inf) == right
    with pytest.raises(ValueError):
        case.unsure(sure, right[:3], lines, 0.0)


def test_long_sources_fit_the_captured_shapes(monkeypatch):
    lengths = np.array([[8, 5], [20, 9], [33, 16], [40, 12], [64, 32], [10, 17]])
    rows, widths = case.schedule(6, 0, 30, 1, lengths, seed=0, buckets=(16, 32), wide=2)
    assert {(int(r), *w) for r, w in zip(rows[:, 0], widths.tolist())} == {(0, 32, 16), (1, 32, 16), (2, 64, 32), (3, 64, 32), (4, 64, 32), (5, 64, 32)}
    monkeypatch.setattr(case, "_device", lambda: type("Card", (), {"type": "cuda", "__str__": lambda s: "cuda"})())
    monkeypatch.setattr(case, "pad", lambda rows, value, device: T.pad(rows, value))
    config = case.arms(only=("dictionary", "base"), **(CELL | {"mono": 0}))
    pairs = [[5] * 60, [5] * 65, [5] * 9], [[6] * 30, [6] * 9, [6] * 33]                          # the second and the third do not fit
    task = case.job(config["dictionary"], 0, pairs)
    assert tuple(task.sources.shape) == (1, 64) and tuple(task.targets.shape) == (1, 32) and set(map(tuple, task.widths.tolist())) == {(64, 32)}
    task = case.job(config["base"], 0, ([[5] * 9, [5] * 33], [[6] * 9, [6] * 9]))
    assert tuple(task.sources.shape) == (1, 32) and set(map(tuple, task.widths.tolist())) == {(16, 16)}


@pytest.mark.parametrize("arm", ["base", "dictionary"])
def test_the_captured_step_is_the_plain_step(arm, monkeypatch):
    "What a CUDA graph replays, run here without a graph: rows by the counter, rates by the counter, one pair of widths for each step."
    monkeypatch.setattr(case, "_device", lambda: type("Card", (), {"type": "cuda", "__str__": lambda s: "cuda"})())
    monkeypatch.setattr(case, "pad", lambda rows, value, device: T.pad(rows, value))
    config = case.arms(only=(arm,), **(CELL | {"mono": 0, "steps": 9, "dropout": 0.0}))[arm]
    rng, longest = np.random.default_rng(0), 60 if arm == "dictionary" else 30
    texts = lambda most: [rng.integers(20, 120, n).tolist() for n in rng.integers(3, most, 40)]
    task = case.job(config, 0, (texts(longest), texts(30)))
    run = object.__new__(case._Captured)
    run.job, run.steps, run.model = task, len(task.plan), case.build(*task.model, seed=task.seed).train()
    run.plan, run.at, run.losses = torch.from_numpy(task.plan), torch.zeros(1, dtype=torch.long), torch.zeros(run.steps)
    run.rates = torch.tensor([case.rate(t, run.steps, task.lr) for t in range(run.steps)])
    run.optimizer = case._optimizer(run.model, torch.tensor(task.lr), fused=True)
    for widths in task.widths.tolist():
        run.optimizer.zero_grad(set_to_none=True)
        run._one(*widths)
    model, losses = case.fit(task)
    assert torch.allclose(run.losses, losses, atol=1e-5) and losses[0] != losses[-1]
    pairs = zip(run.model.named_parameters(), model.parameters())                                  # a key's bias moves no softmax: its gradient is rounding
    assert all(torch.allclose(a, b, atol=1e-3) for (name, a), b in pairs if not name.endswith("k_proj.bias"))
    assert (task.widths[:, 0] == task.widths[:, 1] * (2 if arm == "dictionary" else 1)).all()


def test_an_untrained_model_says_what_it_looks_at(tok):
    model, words = case.build(len(tok), 64, 1, dropout=0.0, seed=3).eval(), torch.arange(20, 120)
    ids = words[:, None].repeat(1, 5)
    rank = lambda m: float((lambda z: (z > z.gather(1, words[:, None])).sum(1).float().median())(m(input_ids=ids, decoder_input_ids=torch.full((100, 1), tok.pad_token_id)).logits[:, 0]))
    assert rank(model) < 0.2 * len(tok)
    with torch.no_grad():
        model.model.decoder.layers[0].encoder_attn.v_proj.weight.normal_(0, 64**-0.5, generator=torch.Generator().manual_seed(0))
    assert rank(model) > 0.35 * len(tok)


def test_copying_beats_chance():
    got = case.copying("copy", symbols=6, length=(2, 3), steps=120, batch=32, width=32)
    assert got["exact"] > 60
    with pytest.raises(ValueError, match="'copy' or 'reverse'"):
        case.copying("sort")


def test_cross_attention_rows_sum_to_one(model, tok):
    weights, left, right = case.cross_attention(model, tok, "Turn on the lamp.", "打开灯。")
    assert weights.shape == (len(right), len(left)) and np.allclose(weights.sum(1), 1, atol=1e-5) and right[-1] == "</s>"


# ------------------------------------------------------------------------------------------------ constrained decoding
@pytest.mark.parametrize("keys", [None, np.arange(3, dtype=np.uint64)])
def test_marks_come_out_exactly_as_often_as_they_went_in(model, tok, keys):
    marks = tok.convert_tokens_to_ids(["{0}", "{1}"])
    ids, mask = T.pad(case.encode(tok, ["Check {0} and {1} and {0}.", "Check the lamp.", "Turn on {1}."]), tok.pad_token_id)
    count = lambda tokens: [[(r == m).sum().item() for m in marks] for r in tokens]
    free, kept = T.decode(model, ids, mask, 14, keys), T.decode(model, ids, mask, 14, keys, keep=marks)
    assert count(ids) == count(kept.tokens) == [[2, 1], [0, 0], [0, 1]] != count(free.tokens)
    short = T.decode(model, ids, mask, 14, keys, limits=torch.tensor([4, 3, 2]), keep=marks)                # no room left but for the marks
    assert count(short.tokens) == count(ids) and not short.tokens[2, 2:].ne(tok.pad_token_id).any()
    assert torch.equal(T.decode(model, ids[1:2], mask[1:2], 14, None, keep=marks).tokens, T.decode(model, ids[1:2], mask[1:2], 14).tokens)        # nothing owed, nothing changed


def test_constraint_in_a_translator(model, tok):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = ["Check {0} now.", "Rename {1} and {0}.", "Watch the car."]
        out = T.Seq2Seq(model, tok, keep=("{0}", "{1}")).translate(texts)
    assert [T.placeholders(t) for t in out] == [T.placeholders(t) for t in texts]
    assert T.Seq2Seq(model, tok, keep=("{0}",)).spec != T.Seq2Seq(model, tok).spec                          # the cache must not mix them up
    with pytest.raises(ValueError, match="greedy"):
        T.Seq2Seq(model, tok, beams=2, keep=("{0}",))
    with pytest.raises(ValueError, match="unknown tag"):
        T.Seq2Seq(model, tok, keep=("{host}",))


# ------------------------------------------------------------------------------------------------ another domain
SHIFTED = {k: v for k, v in (CELL | {"mono": 0, "k": 5, "rounds": 2, "more": 3, "more_lr": 1e-3, "models": 2}).items()}


def test_families_part_a_split_and_a_shared_string_belongs_to_none(monkeypatch):
    groups = case.families("toy_parallel", "zh")
    whole = case.pool("toy_parallel", "zh")["test"]
    assert sum(map(len, groups.values())) == len(whole) and all(s.split()[0] == n for n, p in groups.items() for s in p.sources)
    assert (sizes := [len(p) for p in groups.values()]) == sorted(sizes, reverse=True)
    rows = {"id": list(whole.ids), "source": (["several", "zha", "nest"] * len(whole))[:len(whole)]}
    monkeypatch.setattr(case, "load", lambda data: {"test": rows})
    monkeypatch.setattr(case, "pool", lambda *a: {"test": whole})
    assert set(case.families("x", "zh")) == {"zha", "nest"}


def test_the_sets_of_a_shift_do_not_overlap():
    arriving, rest, others = case.shift_sets(SHIFTED, 0)
    ids = [set(p.ids) for p in (arriving, rest, others)]
    assert len(arriving) == 10 and not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]
    train = set(case.pool("toy_parallel", "zh")["train"].ids)
    assert not train & set().union(*ids) and case.shift_sets(SHIFTED, 1)[0].ids != arriving.ids and case.shift_sets(SHIFTED, 1)[2].ids == others.ids
    with pytest.raises(ValueError, match="too few"):
        case.shift_sets(SHIFTED | {"k": 10_000}, 0)


def test_retuning_starts_from_the_model_and_leaves_it_alone(model):
    config = SHIFTED | {"arm": "base"}
    train = case.pool("toy_parallel", "zh")["train"]
    before, new, old = T.weights_hash(model), train[:10], train[10:40]
    still = case.retune(config, model, new, old, 2, 0.0, 0)
    assert T.weights_hash(still) == before
    moved = {s: T.weights_hash(case.retune(config, model, new, old, 2, 1e-3, 0, s)) for s in (0.0, 0.5, 1.0)}
    assert len({before, *moved.values()}) == 4 and T.weights_hash(model) == before
    assert case.retune(config, model, new, old, 2, 1e-3, 0, 0.0) is not model
    same = case.retune(config, model, train[50:60], old, 2, 1e-3, 0, 0.0)                          # share 0: what is new does not matter
    assert T.weights_hash(same) == moved[0.0]
    with pytest.raises(ValueError, match="share=1.5"):
        case.retune(config, model, new, old, 2, 1e-3, 0, 1.5)


def test_shift_trials_begin_alike_and_part():
    arms = {a: case.shift_trial(SHIFTED | {"arm": a}, 0) for a in case.SHIFT}
    assert len({v["new_0"] for v in arms.values()}) == 1 == len({v["other_0"] for v in arms.values()}) and set(arms["old"]) == {f"{n}_{r}" for n in ("new", "other") for r in range(3)}


def test_the_seeds_of_a_shift_take_the_models_in_turn(monkeypatch):
    asked, trained = [], case.trained
    monkeypatch.setattr(case, "trained", lambda config, seed: asked.append(seed) or trained(config, seed))
    case._before.cache_clear()
    for seed in (0, 1, 2):
        case.shift_trial(SHIFTED | {"arm": "new"}, seed)
    assert asked[::2] == [0, 1, 0] and set(asked) == {0, 1}


def test_placeholder_table_counts_what_is_lost(model, tok, monkeypatch):
    config = case.arms(only=("base",), **(CELL | {"mono": 0, "test": 0}))["base"]
    with pytest.raises(ValueError, match="no test string"):
        case.placeholder_table(config, model)
    rows = {"test": {"id": ["a", "b", "c"], "text": ["Check {host} now.", "Turn on {name} in {room}.", "Watch the car."], "zh": ["现在检查{host}。", "打开{room}里的{name}。", "观察汽车。"]}}
    monkeypatch.setattr(case, "load", lambda data: rows)
    monkeypatch.setattr(case, "test_pairs", lambda c: case.Pairs(("a", "b", "c"), ("",) * 3, ("",) * 3, "zh", "test"))
    table = case.placeholder_table(config, model)
    assert (table["strings"] == 2).all() and table.loc["numbered, constrained", "kept"] == 100 > table.loc["as it is", "kept"]
    assert table.loc["numbered, constrained", "untranslated"] == 0 and table.loc["numbered", "kept"] + table.loc["numbered", "untranslated"] == 100


def test_a_chinese_dictionary_knows_words():
    p = case.pool("toy_parallel", "zh")["train"]
    table = case.dictionary(p, size=130)                                                        # a larger BPE would merge whole phrases of so small a grammar
    assert table["kitchen"] == "厨房" and table["garden"] == "花园" and case.dictionary(p, size=90)["garden"] == "园" and case.units(case.pool("toy_parallel", "de")["train"]) is case.pieces


def test_watching_a_training_does_not_change_it():
    config = case.arms(only=("base",), **(CELL | {"mono": 0, "steps": 6}))["base"]
    task = case.job(config, 0, *case.training_pairs(config, 0))
    seen = {}
    watched, losses = case.fit(task, watch=lambda quarter, m: seen.update({quarter: (m.training, T.weights_hash(m))}))
    alone, same = case.fit(task)
    assert T.weights_hash(watched) == T.weights_hash(alone) == seen[4][1] and torch.equal(losses, same)
    assert list(seen) == [1, 2, 3, 4] and not any(s[0] for s in seen.values()) and len({s[1] for s in seen.values()}) == 4
    got = case.trial(config, 0)
    assert {f"{m}_{q}" for m in ("bleu", "chrf") for q in (1, 2, 3, 4)} <= set(got) and "bleu_1" not in bt.trial(config | {"arm": "copies", "mono": 5}, 0)
