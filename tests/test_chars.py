"""augment.chars: clusters stay whole, rates are met, both routes to a text agree, tables are what they claim to be."""
import copy
import json
import pickle
import random
import re
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diversity_kit.augment import chars as C
from diversity_kit.augment.base import Compose, Edit, OneOf, Protect, Transform, Words, apply, remap
from diversity_kit.augment.chars import (
    ACCENTS, LAYOUTS, OCR, Case, Chars, Diacritics, Homophone, Keyboard, LookAlike, Misspell, Scramble, Typo, Width, calibrate,
    character_error_rate, common_characters, key_neighbours,
)

PAIRS = (("their", "thier"), ("believe", "beleive"), ("believe", "belive"), ("because", "becuase"))
EN = ["The quick brown fox jumps over the lazy dog.", "They believe THEIR eyes, because there is nothing else.", "Don't pay 3.50 at http://a.io/x!", "one", "a"]
OTHER = ["我喜欢编程，我的猫喜欢键盘。", "привет, мир", "שלום עולם 12", "مرحبا بالعالم", "हिन्दी क्षत्रिय", "한국어 각 \u1100\u1161\u11a8", "ภาษาไทย ที่ น้ำ", "cafe\u0301 déjà vu ＡＢ１ ｶﾞ", "ΑΒΓ άλφα"]
ODD = ["", " ", "😀", "👩\u200d👩\u200d👧 a 👍🏽b", "🇩🇪🇨🇳x🇫🇷", "1\ufe0f\u20e3 2", "\r\na\rb\n", "\ud800a\udfff", "\u0300a\u094d", "a\u202eb\u202c", "\u0378a\x00"]
ALL = EN + OTHER + ODD
SEED_FREE = [Keyboard(.3), Keyboard(1., "azerty"), Typo(.3), Typo(1.), Typo(1., "delete"), Typo(1., "transpose"), OCR(.4), OCR(1.), Case(.5), Diacritics(1.),
             Diacritics(.7, "fr"), Width(.5), Width(1., "full"), Scramble(1.), Misspell(1., PAIRS)]
CLUSTER = regex.compile(r"\X")
POOL = ("abcXYZ 019.,'", "éàüe\u0301o\u0308\u0323", "приветЙ", "مرحباًَّ", "שלוםָּ", "हिन्दीक्षत्र", "தமிழ்கொ", "ภาษาที่ำ", "한국각\u1100\u1161\u11a8", "日本テｶﾞが", "中文字，", "😀👩\u200d👧👍🏽", "🇩🇪🇨🇳",
        "\u200d\u200c\u200e\u202e\u2069\ufe0f\u20e3", "\n\r\t\u3000", "\u0d4e\u0d15\u0600", "\u0300\u094d\u17d2ខ្ម", "ＡＢ！", "\U00020000\U000f0000\ud800\x00\u0378", "ǅßıİŉ")
mixed = st.text(st.one_of(st.sampled_from("".join(POOL)), st.characters()), max_size=24)
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
transforms = st.sampled_from(SEED_FREE)


def borders(text):
    return {0} | {m.end() for m in CLUSTER.finditer(text)}


def words_of(text):
    w = Words([text])
    return w.strings(np.arange(len(w.start)))


# ---- grapheme clusters

def test_no_letter_of_unicode_joins_a_letter():
    "What the table calls a letter is a cluster of its own beside another, for each of the 130 000."
    letters = np.flatnonzero(C._parts() == C._LETTER).tolist()
    text = "".join("a" + chr(c) + chr(c) for c in letters)
    assert len(letters) > 120_000 and len(CLUSTER.findall(text)) == len(text)


@quick
@given(mixed)
def test_units_are_clusters(text):
    c = Chars([text])
    at = borders(text)
    for a, b in zip(c.start.tolist(), c.end.tolist()):
        assert a - 1 in at and b - 1 in at and len(CLUSTER.findall(c.joined[a:b])) == 1 and unicodedata.category(c.joined[a])[0] in "LN"


@pytest.mark.parametrize("text,units", [
    ("cafe\u0301 1.5", ["c", "a", "f", "e\u0301", "1", "5"]), ("我喜，a", ["我", "喜", "a"]), ("क्षम", ["म"]), ("हिंदी", ["हिं", "दी"]), ("각가", ["각", "가"]), ("\u1100\u1161가", []), ("a\u200db", []),
    ("👍🏽a", ["a"]), ("🇩a🇪", []), ("\ra\r\n", []), ("ｶﾞa", ["ｶﾞ", "a"]), ("น้ำa", ["น้ำ", "a"]), ("", []), ("\u0301a", ["a"])])
def test_units_of_known_texts(text, units):
    c = Chars([text])
    assert c.strings(np.arange(len(c.start))) == units and c.count.tolist() == [len(units)]


@quick
@given(mixed, transforms, st.integers(0, 9))
def test_edits_keep_clusters_whole(text, t, seed):
    for e in t.trace([text], seed=seed)[0]:
        new = text[:e.start] + e.after + text[e.end:]
        old_at, new_at = borders(text), borders(new)
        assert {e.start, e.end} <= old_at and {e.start, e.start + len(e.after)} <= new_at, (text, e)
        text = new


@quick
@given(st.lists(mixed | st.sampled_from(ALL), max_size=6), transforms, st.integers(0, 99))
def test_contract(texts, t, seed):
    "The trace reproduces the call (which may take another route), batches do not matter, no text is emptied, rate 0 is the identity."
    out, edits = t(texts, seed=seed), t.trace(texts, seed=seed)
    assert [apply(a, e) for a, e in zip(texts, edits)] == out == [t([x], seed=seed)[0] for x in texts]
    assert all(bool(a) == bool(b) for a, b in zip(texts, out))
    assert all(e.op == type(t).__name__ and e.before != e.after for es in edits for e in es)
    assert C.replace(t, rate=0)(texts, seed=seed) == texts


@pytest.mark.parametrize("t", SEED_FREE, ids=lambda t: f"{type(t).__name__}-{t.rate}")
def test_fuzz_never_raises(t):
    rng = random.Random(7)
    texts = ["".join(chr(rng.choice((rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x20000), rng.randrange(0x110000)))) for _ in range(rng.randrange(12)))
             for _ in range(600)]
    assert len(t(texts)) == 600


def test_two_routes_agree_where_width_of_strings_matters():
    "Substitutions of one code point are written into an array; a guard or a trace takes the other route."
    texts = [*ALL, *EN]
    for t in (Keyboard(.4), Case(.5), Width(.5), Width(1., "half"), Keyboard(.5, ("", "йцукен"))):
        ids = range(len(texts))
        assert t(texts, ids=ids) == Protect(t, "☃")(texts, ids=ids) == [apply(a, e) for a, e in zip(texts, t.trace(texts, ids=ids))] != texts


# ---- rates

@pytest.mark.parametrize("t", [Keyboard(.07), Case(.07), OCR(.07), Typo(.07), Typo(.07, "insert"), Typo(.07, "delete")], ids=str)
def test_rate_is_the_expected_share_of_letters_and_digits(t):
    texts = EN[:3] * 600
    edits = sum(map(len, t.trace(texts, ids=range(len(texts)))))
    assert edits / Chars(texts).count.sum() == pytest.approx(.07, rel=.04)


@pytest.mark.parametrize("t", [Misspell(.1, PAIRS), Scramble(.1)], ids=str)
def test_word_rates_count_all_words(t):
    texts = [EN[1]] * 2000
    edits = sum(map(len, t.trace(texts, ids=range(2000))))
    assert edits / (2000 * len(words_of(EN[1]))) == pytest.approx(.1, rel=.06)


def test_width_counts_what_has_a_counterpart():
    t = Width(.3)
    texts = ["ab, c！"] * 3000
    assert sum(map(len, t.trace(texts, ids=range(3000)))) / 3000 == pytest.approx(.3 * 6, rel=.04)


def test_a_higher_rate_adds_edits():
    texts = EN[:3] * 30
    ids = range(len(texts))
    few, more = ([{(e.start, e.after) for e in es} for es in Keyboard(r).trace(texts, ids=ids)] for r in (.03, .1))
    assert all(a <= b for a, b in zip(few, more)) and sum(map(len, few)) < sum(map(len, more))


# ---- keyboards

def test_neighbours_follow_the_geometry():
    near = key_neighbours("qwerty")
    assert set(near["g"]) == set("fhtyvb") and set(near["q"]) == set("wa") and set(near["5"]) == set("46") and set(near["p"]) == set("ol")
    assert set(key_neighbours("qwertz")["z"]) == set("tughz") - {"z"} and set(key_neighbours("azerty")["a"]) == set("zq")
    for name in LAYOUTS:
        table = key_neighbours(name)
        assert all(k in table[n] and k != n for k in table for n in table[k]) and all(table.values())    # symmetric, nobody alone


def test_keyboard_keeps_case_and_kind():
    t, near = Keyboard(1.), key_neighbours("qwerty")
    for a, b in zip("Quick FOX 79 zß我", t(["Quick FOX 79 zß我"])[0]):
        assert b in (near[a.lower()].upper() if a.isupper() else near[a.lower()]) if a.lower() in near else a == b


@pytest.mark.parametrize("bad,word", [("qwertyy", "layout"), ((), "layout"), (("ab", "bc"), "twice"), (("a",) * 5, "layout"), ((1, 2), "layout")])
def test_bad_layouts(bad, word):
    with pytest.raises(ValueError, match=word):
        Keyboard(.1, bad)


# ---- typos

@pytest.mark.parametrize("kind,delta", [("insert", 1), ("delete", -1), ("replace", 0), ("transpose", 0)])
def test_kinds_of_typo(kind, delta):
    edits = [e for es in Typo(.2, kind).trace(EN[:3] * 50, ids=range(150)) for e in es]
    assert len(edits) > 200
    for e in edits:
        assert len(e.after) - len(e.before) == delta
        assert kind != "transpose" or (e.after == e.before[::-1] and len(e.before) == 2 and e.before.isalnum())
        assert kind != "insert" or e.after.startswith(e.before)
        assert kind != "replace" or (e.after.isupper() == e.before.isupper() and e.after.isdigit() == e.before.isdigit())


def test_typo_letters_come_from_the_text_and_its_script():
    text = "привет, мир שלום עולם 2468 hello"
    for e in (e for es in Typo(.5).trace([text] * 200, ids=range(200)) for e in es):
        scripts = {unicodedata.name(c).split()[0] for c in e.before + e.after}
        assert len(scripts) == 1 and set(e.after.lower()) <= set(text)


def test_typo_weights_and_last_letter():
    edits = [e for es in Typo(.1, ("insert", "delete"), (3, 1)).trace(EN[:3] * 300, ids=range(900)) for e in es]
    share = np.mean([e.after != "" for e in edits])
    assert share == pytest.approx(.75, abs=.03)
    assert Typo(1., "delete")(["a", "ab!", "我", "12 34"], ids=range(4))[:1] == ["a"]
    assert all(any(c.isalnum() for c in t) for t in Typo(1., "delete")(["ab!", "我。", "12 34"]))


def test_transposing_everything_pairs_the_letters_up():
    assert Typo(1., "transpose")(["abcdef gh i"]) == ["badcfe hg i"]


@pytest.mark.parametrize("kwargs,error", [(dict(kinds=()), "kinds"), (dict(kinds=("swap",)), "kinds"), (dict(kinds=("insert",) * 2), "kinds"), (dict(weights=(1, 2)), "weights"),
                                          (dict(weights=(0,) * 4), "weights"), (dict(weights=(1, 1, 1, float("nan"))), "weights"), (dict(rate=1.5), "rate")])
def test_bad_typos(kwargs, error):
    with pytest.raises(ValueError, match=error):
        Typo(**kwargs)


# ---- tables

def test_ocr_pairs_and_case():
    text = "modern clever rnm vvide Boss"
    seen = Counter(e.before + ">" + e.after for es in OCR(.6).trace([text] * 400, ids=range(400)) for e in es)
    assert {"m>rn", "rn>m", "d>cl", "cl>d", "vv>w", "o>0", "B>8", "s>5"} <= seen.keys() and not {"B>b", "o>a"} & seen.keys()
    assert OCR(1.)(["x!"]) == ["x!"]


def test_case_flips_what_can_be_flipped_back():
    assert Case(1.)(["Straße ǅ ıİ 我 ÀÉ éß ΑΩ 1"]) == ["sTRAßE ǅ ıİ 我 àé Éß αω 1"]
    assert all(Case(1.)(Case(1.)([t])) == [t] for t in ALL)


def test_diacritics():
    assert Diacritics(1.)(["déjà cafe\u0301 ñÜ Йод ἄλφα"]) == ["deja cafe nU Иод αλφα"]
    assert Diacritics(1.)(["हिन्दी कि が ｶﾞ 각 ภาษาที่", "क़"]) == ["हिन्दी कि が ｶﾞ 각 ภาษาที่", "क़"]        # signs that spell, not accents
    assert Diacritics(1.)(["мой año ơ مئة"]) == ["мои ano o مية"] and Protect(Diacritics(1.), ["[йñ]"])(["мой ёж, año é"]) == ["мой еж, año e"]     # as documented
    out = Diacritics(1., "fr")(["Ete"] * 50, ids=range(50))
    assert set("".join(out)) <= set("tÉÈÊËéèêë") and len(set(out)) > 3
    assert all(C._bare(c) for letters in ACCENTS.values() for c in letters)
    with pytest.raises(ValueError, match="language"):
        Diacritics(.5, "xx")


def test_width_round_trip():
    text = "Ab1! ~カ¥한"
    full = Width(1., "full")([text])[0]
    assert full == "Ａｂ１！\u3000～カ￥한" and Width(1., "half")([full]) == ["Ab1! ~ｶ¥한"] and Width(1., "full")(["ｶ"]) == ["カ"]
    assert Width(1., "half")(["＃\ufe0f\u20e3ガ"]) == ["＃\ufe0f\u20e3ガ"]
    with pytest.raises(ValueError, match="to="):
        Width(.5, "wide")


def test_scramble_keeps_ends_and_letters():
    for e in (e for es in Scramble(1.).trace(EN[:2] * 40, ids=range(80)) for e in es):
        assert sorted(e.after) == sorted(e.before) and e.after != e.before
    for text, new in zip(EN, Scramble(1.)(EN)):
        for a, b in zip(re.findall(r"\w+", text), re.findall(r"\w+", new)):
            assert a[0] == b[0] and a[-1] == b[-1]
    assert Scramble(1.)(["the book, Anna 3.50 don't 我喜欢编程"]) == ["the book, Anna 3.50 don't 我喜欢编程"]
    assert Scramble(1.)(["abпвcd 2нd12 abc12de"]) == ["abпвcd 2нd12 abc12de"]                             # no mixing of alphabets
    assert Scramble(1.)(["abca"]) == ["acba"] and Scramble(1., segment="jieba")(["中华人民共和国"])[0][0] == "中"


def test_misspell_uses_the_list_and_keeps_case():
    t = Misspell(1., PAIRS)
    assert t(["Their THEIR their theirs, because"]) == ["Thier THIER thier theirs, becuase"]
    assert set(t(["believe"] * 40, ids=range(40))) == {"beleive", "belive"}
    assert Misspell(1., dict(PAIRS)).pairs == (("their", "thier"), ("believe", "belive"), ("because", "becuase"))
    for bad in ([("a",)], [("a", "")], [("a", 1)]):
        with pytest.raises(ValueError, match="Misspell"):
            Misspell(.1, bad)


def test_the_birkbeck_list_where_it_is_cached():
    from diversity_kit.data.sources import available
    if not available("birkbeck"):
        pytest.skip("the card birkbeck is not cached")
    assert len(C._wrong(C._birkbeck())) == 478
    assert Misspell(1.)(["They believe their Address, FEBRUARY."]) != Misspell(0.)(["They believe their Address, FEBRUARY."])
    assert "accomodation" in {w for t in Misspell(1.)(["accommodation"] * 60, ids=range(60)) for w in t.split()}


def test_the_birkbeck_file_is_read_whole():
    from diversity_kit.data import sources
    raw = '\ufeff"fails","failes"\r\n"families","familes famlies"\r\n"families","familys familes"\r\n'.encode()
    members = type("M", (), {"read": lambda self, pattern: raw})()
    assert list(sources._read_birkbeck(members)) == [{"text": "fails", "misspellings": "failes"}, {"text": "families", "misspellings": "familes famlies familys"}]


# ---- Chinese

def test_common_characters_are_the_standards_own():
    simple, full = common_characters(), common_characters("traditional")
    assert len(simple) == len(set(simple)) == 3755 and len(full) == len(set(full)) == 5401 and simple[0] == "啊" and "愛" in full and "愛" not in simple
    with pytest.raises(ValueError, match="script"):
        Homophone(.1, "hongkong")


def test_homophones_sound_alike():
    pypinyin = pytest.importorskip("pypinyin")
    read = lambda c, style: pypinyin.pinyin([c], style=style)[0][0]
    text = "我喜欢编程，他的猫在图书馆的键盘上。"
    for tone, style in ((True, pypinyin.Style.TONE3), (False, pypinyin.Style.NORMAL)):
        edits = [e for es in Homophone(1., tone=tone).trace([text] * 5, ids=range(5)) for e in es]
        assert len(edits) > 40 and all(read(e.before, style) == read(e.after, style) and e.after in common_characters() for e in edits)
    assert any(read(e.before, pypinyin.Style.TONE3) != read(e.after, pypinyin.Style.TONE3) for e in edits)
    changed = Homophone(1., "traditional")(["圖書館"])[0]
    assert changed != "圖書館" and set(changed) <= set(common_characters("traditional"))
    assert Homophone(1.)(["abc, テキスト 12"]) == ["abc, テキスト 12"]


def test_look_alikes(tmp_path, monkeypatch):
    "The rule (43.4) on a small table in place of the card."
    pytest.importorskip("rapidfuzz")
    from diversity_kit.data import sources
    (tmp_path / "strokes.json").write_text(json.dumps({"未": "11234", "末": "11234", "大": "134", "木": "1234", "天": "1134", "人": "34", "我": "3121534"}), encoding="utf-8")
    (tmp_path / "corners.json").write_text(json.dumps({"未": "50900", "末": "50900", "大": "40800", "木": "40900", "天": "12345", "人": "80000", "我": "23550"}), encoding="utf-8")
    monkeypatch.setattr(sources, "path", lambda name: tmp_path)
    C._shapes.cache_clear()
    try:
        seen = {e.before + e.after for es in LookAlike(1.).trace(["未末大木天人我"] * 60, ids=range(60)) for e in es}
    finally:
        C._shapes.cache_clear()
    assert {"未末", "末未", "木未", "未木"} <= seen and not any(c in s for s in seen for c in "我人天")         # 天: strokes alone would do


# ---- contract of augment.base

def test_serialise_and_hash():
    for t in [*SEED_FREE, Homophone(.2, "traditional", False), LookAlike(.2), Misspell()]:
        again = [Transform.from_dict(json.loads(json.dumps(t.to_dict()))), pickle.loads(pickle.dumps(t)), copy.deepcopy(t)]
        assert all(a == t and hash(a) == hash(t) and a.fingerprint == t.fingerprint for a in again) and t.preserves == {"label"}
    assert Keyboard(.1, ["", "йцукен"]) == Keyboard(.1, ("", "йцукен")) and repr(Typo(.1, "insert")) == "Typo(rate=0.1, kinds=('insert',), weights=None)"


def test_compositions_protection_and_spans():
    policy = Protect(Compose([OneOf([Keyboard(.3), Typo(.3)]), OCR(.2), Scramble(.3)]), ["url", "number"])
    for seed in range(30):
        out = policy([EN[2]], seed=seed)[0]
        assert "3.50" in out and "http://a.io/x!" in out
    text = "see Anna Smith today"
    for seed in range(60):
        for t in (Keyboard(.4), Typo(.2), OCR(.3), Case(.5)):
            es = t.trace([text], seed=seed)[0]
            spans = remap([(4, 14, "PER")], es)
            if spans is None:                                              # all of it gone, or cut at its border
                continue
            a, b, _ = spans[0]
            new = apply(text, es)
            assert new[:a].endswith(" ") and new[b:].startswith(" ")


def test_import_is_silent_and_offline():
    code = ("import socket\ndef no(*a, **k): raise AssertionError('socket')\nsocket.socket = no\nimport diversity_kit.augment.chars as c, sys\n"
            "c.Keyboard(.5)(['hello']); assert not {'torch', 'jieba', 'pypinyin', 'rapidfuzz', 'datasets'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


GOLDEN = {
    "Keyboard(rate=0.3, layout='qwerty')": ["Fhs quico btpwn fox jjmls ocet the lazg rog.", "我喜欢编程，ＯＫ。", "xéjà gu"],
    "Typo(rate=0.3, kinds=('insert', 'delete', 'replace', 'transpose'), weights=None)": ["TAhe qik baow fhx jupms ovoer teh uazy dg.", "喜我欢编程，ＯＯＫ。", "déà u"],
    "OCR(rate=0.4)": ["The qii1ck bnovvr tex jvmpS oucr tho iazy clog.", "我喜欢编程，ＯＫ。", "cléjà uv"],
    "Diacritics(rate=0.7, language='fr')": ["Thé qûîçk brôwn fôx jùmps ôvër thè lâzy dôg.", "我喜欢编程，ＯＫ。", "deja vü"],
    "Width(rate=0.5, to='both')": ["The\u3000ｑuｉcｋ\u3000ｂrｏｗn ｆox\u3000jumｐs\u3000oｖeｒ\u3000ｔｈｅ\u3000laｚy\u3000ｄog.", "我喜欢编程，ＯK｡", "déｊà ｖｕ"],
    "Scramble(rate=1.0, segment=None)": ["The qicuk bwron fox jmpus oevr the lzay dog.", "我喜欢编程，ＯＫ。", "djéà vu"],
    "Case(rate=0.5)": ["THe quicK bRowN FOX JUmps OVer ThE LAZY dOg.", "我喜欢编程，ｏｋ。", "DéJà vU"],
}


def test_results_are_fixed_for_ever():
    "A change here changes everybody's data sets: it needs a major version."
    texts = [EN[0], "我喜欢编程，ＯＫ。", "déjà vu"]
    made = {str(t): t(texts, seed=3, ids=[1, 2, 3]) for t in SEED_FREE}
    assert {k: made[k] for k in GOLDEN} == GOLDEN


# ---- calibration

def test_character_error_rate():
    assert character_error_rate(["abcd", "ef"], ["abdc", "ef"]) == pytest.approx(2 / 6) and character_error_rate(["ab"], [""]) == 1
    for bad in (([], []), ([""], ["a"]), (["a"], [])):
        with pytest.raises(ValueError, match="outputs"):
            character_error_rate(*bad)
    for bad in (("abcd", "bcda"), (["abcd"], "bcda"), ("abcd", ["bcda"])):
        with pytest.raises(TypeError, match="lists of texts"):
            character_error_rate(*bad)


@pytest.mark.parametrize("t", [Keyboard(), Typo(), Typo(kinds="transpose"), OCR(), Scramble(), Case()], ids=str)
@pytest.mark.parametrize("target", [.01, .06])
def test_calibrate_hits_the_target(t, target):
    texts = EN[:3] * 200 + ["Sentences of other lengths and with other letters matter too, of course."] * 200
    texts = [f"{t} {i}" for i, t in enumerate(texts)]
    made = calibrate(t, target, texts, seed=5)
    assert type(made) is type(t) and character_error_rate(texts, made(texts, seed=5)) == pytest.approx(target, rel=.02)
    assert character_error_rate(texts, made(texts, seed=6)) == pytest.approx(target, rel=.25)               # another seed: no fluke of this one


def test_calibrate_refuses():
    with pytest.raises(ValueError, match=r"rate 1 gives a character error rate of 0\.\d+"):
        calibrate(Misspell(.1, PAIRS), .5, EN)
    with pytest.raises(TypeError, match="rate"):
        calibrate(Compose([Keyboard()]), .1, EN)
    for target in (-.1, 1., float("nan")):
        with pytest.raises(ValueError, match="target"):
            calibrate(Keyboard(), target, EN)
    assert calibrate(Keyboard(), 0, EN).rate == 0
    with pytest.raises(TypeError, match="list of texts"):
        calibrate(Keyboard(), .1, "hello world")
    for few in (["我喜欢编程"], ["x" * 20], [""]):
        with pytest.raises(ValueError, match="too few for a target of 0.1"):
            calibrate(Keyboard(), .1, few)
    assert calibrate(Keyboard(), .1, ["hello world, how do you do"]).rate > 0


def test_offsets_are_those_of_an_edit():
    assert Typo(1., "transpose").trace(["ab"]) == [[Edit("Typo", 0, 2, "ab", "ba", 0)]]
