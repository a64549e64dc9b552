"""augment.base: the contract of every transform (keyed draws, traces, spans, composition, expand)."""
import copy
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diversity_kit.augment import base
from diversity_kit.augment.base import (
    PATTERNS, Compose, Delete, Draws, Edit, Keep, OneOf, Plan, Protect, RandomApply, SomeOf, Swap, Transform, Words, apply, expand, id_keys,
    key64, remap, splitmix64, stochastic_round, stream_keys, uniform,
)

ROOT = Path(__file__).parent.parent
EN = ["The quick fox, tired of the road, sleeps under a bridge.", "We didn't expect it to be this good!", "hello hello", "one", "Not bad at all."]
ZH = ["我喜欢编程，我的猫喜欢键盘。", "这部电影不好看，但是音乐很美。", "好"]
ODD = ["", " ", "\n\t ", "...", "😀", "👨\u200d👩\u200d👧 a 👍🏽 b", "e\u0301te\u0301 cafe\u0301 x\u0327y z", "\ud800 a \udfff b\udc00c", "a\x00b c", "مرحبا بالعالم، كيف الحال؟",
       "x  y\u3000z\u00a0w", "line one\nline two\r\nthree", "see https://a.io/x?y=1, 3.5 %", "1\ufe0f\u20e3 2\ufe0f\u20e3 flag 🇩🇪 🇨🇳 ok", "ภาษาไทย ง่าย", "日本語のテキスト が゚"]
ALL = EN + ZH + ODD


def is_shorter(before, after):
    return len(after) < len(before)


POLICIES = [
    Swap(.3), Delete(.3), Swap(1.), Delete(1.), Compose([Swap(.3), Delete(.3), Swap(.2)]), OneOf([Swap(.5), Delete(.5)], weights=[1, 3]),
    SomeOf([Swap(.5), Delete(.5), Delete(.1)], n=(0, 3)), RandomApply(Delete(.5), .5), Protect(Compose([Delete(.4), Swap(.4)]), ["number", "negation", r"of\b"]),
    Keep(OneOf([Delete(.5), Swap(.5)]), is_shorter), Compose([RandomApply(OneOf([Swap(.5), Compose([Delete(.3), Swap(.3)])]), .7), Swap(.1)]),
]
texts = st.lists(st.one_of(st.text(max_size=40), st.text(st.characters(), max_size=20), st.sampled_from(ALL),
                           st.text("ab c,.-'\n我喜\u0301\u200d😀1\ud800", max_size=30)), max_size=8)
policies = st.sampled_from(POLICIES)
seeds = st.integers(-2 ** 70, 2 ** 70)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def words_of(text):
    w = Words([text])
    return w.strings(np.arange(len(w.start)))


def frame(text):
    "What stands between the words."
    w = Words([text])
    s = w.joined
    return [s[a:b] for a, b in zip([0, *w.end.tolist()], [*w.start.tolist(), len(s)])]


# ---- the stream

def test_splitmix64_is_the_published_generator():
    def stateful(state, n, mask=2 ** 64 - 1):
        for _ in range(n):
            state = (state + 0x9E3779B97F4A7C15) & mask
            z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            yield z ^ (z >> 31)
    for key in (0, 1, 2 ** 64 - 1, 1234567):
        assert splitmix64(key, np.arange(50)).tolist() == list(stateful(key, 50))
    assert int(splitmix64(0)) == 0xE220A8397B1DCDAF
    assert splitmix64(np.arange(3), 7).tolist() == [int(splitmix64(k, 7)) for k in range(3)]


def test_uniform_range():
    assert uniform(np.array([0, 2 ** 64 - 1], np.uint64)).tolist() == [0., 1 - 2 ** -53]


def test_keys_are_fixed_for_ever():
    "A change here changes everybody's data sets: it needs a major version."
    assert key64("a", 1) == 4402816434243395361 and key64("a", "1") != key64("a", 1) != key64("a1")
    assert id_keys(["a", 0, -1]).tolist() == [3405396810240292928, 7960286522194355700, 16834447057089888969]
    assert Swap(.3)(EN[:2] + ZH[:1], seed=1) == GOLDEN["swap"]
    assert Delete(.3)(EN[:2] + ZH[:1], seed=1) == GOLDEN["delete"]
    assert Compose([Swap(.3), Delete(.3)])(EN[:2] + ZH[:1], seed=1, ids=[5, "x", 2 ** 80], epoch=2, copy=3) == GOLDEN["compose"]


GOLDEN = {
    "swap": ["under tired fox, quick of the road, sleeps The a bridge.", "expect didn't We it to be this good!", "我喜程编欢，我的猫欢喜键盘。"],
    "delete": ["The quick, tired of the road, a bridge.", "We didn't to be this good!", "我编程，我的猫喜欢盘。"],
    "compose": ["The fox, tired of road, a under.", "it be to this good!", "喜我编程，我猫盘键。"],
}


def test_every_route_to_an_id_key_agrees():
    ids = [0, -5, 2 ** 63 - 1, 2 ** 63, -2 ** 80, "0", "x", "\ud800"]
    assert id_keys(ids).tolist() == [int(id_keys([i])[0]) for i in ids] and len(set(id_keys(ids).tolist())) == len(ids)
    assert (id_keys(np.arange(4)) == id_keys(range(4))).all() and (id_keys([np.int32(3), np.str_("x")]) == id_keys([3, "x"])).all()


@pytest.mark.parametrize("bad", [None, 1.5, float("nan"), b"x", ("a",)])
def test_bad_ids_are_named(bad):
    with pytest.raises(TypeError, match=r"ids\[1\]"):
        Swap(.1)(["a b", "c d"], ids=["x", bad])


def draw(ids=None, seed=0, epoch=0, copy=0, node="Swap", path="", counter=0, n=20000):
    ids = id_keys(range(n)) if ids is None else ids
    return uniform(splitmix64(splitmix64(stream_keys(ids, seed, epoch, copy) ^ base._node_key(node, path)), counter))


def test_stream_is_uniform_and_its_parts_are_independent():
    u = draw()
    others = [np.roll(u, 1), draw(id_keys(map(str, range(20000)))), draw(seed=1), draw(seed=-1), draw(epoch=1), draw(copy=1), draw(node="Delete"), draw(path="/0"),
              draw(counter=1), draw(epoch=1, copy=-1)]
    for v in [u, *others]:
        chi2 = ((np.bincount((v * 100).astype(int), minlength=100) - 200) ** 2 / 200).sum()
        assert 50 < chi2 < 170                                             # 99 degrees of freedom: 99 +- 5 sd
    for v in others:
        assert abs(np.corrcoef(u, v)[0, 1]) < 5 / np.sqrt(20000)
    assert len({float(v[0]) for v in [u, *others]}) == len(others) + 1


@given(st.floats(-50, 50), st.integers(0, 2 ** 64 - 1))
@quick
def test_stochastic_round_is_within_one(x, bits):
    k = stochastic_round(x, uniform(np.uint64(bits)))
    assert abs(k - x) <= 1 and k == int(k)


@pytest.mark.parametrize("x", [.3, 2.75, -1.25])
def test_stochastic_round_mean(x):
    assert abs(stochastic_round(x, draw()).mean() - x) < 4 * .5 / np.sqrt(20000)


# ---- words

@pytest.mark.parametrize("text, want", [
    ("We didn't go, (really) well-known: 3.5 km!", "We|didn't|go|really|well-known|3.5|km"),
    ("anna@example.org https://a.io/x?y=1, #tag $5 5% C++", "anna@example.org|https://a.io/x?y=1|#tag|$5|5%|C++"),
    ("well--no 'tis \"said\" a...b", "well|no|tis|said|a|b"),
    ("我喜欢GPT模型，真的2024年。", "我|喜|欢|GPT|模|型|真|的|2024|年"),
    ("日本語のテキストー が゛か\u3099", "日|本|語|の|テ|キ|ス|トー|が|か\u3099"),
    ("\u845b\U000e0100城 𠀀𠀁", "\u845b\U000e0100|城|𠀀|𠀁"),
    ("e\u0301te\u0301 1\ufe0f\u20e3 x", "e\u0301te\u0301|1\ufe0f\u20e3|x"),
    ("👨\u200d👩\u200d👧 hi 👍🏽🇩🇪", "hi"),
    ("مرحبا بالعالم، كيف", "مرحبا|بالعالم|كيف"), ("한국어 문장", "한국어|문장"), ("ภาษาไทย", "ภาษาไทย"), ("می\u200cخواهم برو", "می\u200cخواهم|برو"),
    ("l’eau d\u2010b co\u00ador", "l’eau|d\u2010b|co\u00ador"), ("a\x00b\x0bc", "a|b|c"), ("\u0301a -b- ", "a|b"), ("", ""), (" .,! ", ""),
])
def test_words(text, want):
    assert "|".join(words_of(text)) == want


def test_word_finding_does_not_depend_on_the_neighbours():
    "The ASCII path and the general path agree, and no word crosses from one text to the next."
    whole = Words(ALL)
    for i, t in enumerate(ALL):
        w = Words([t])
        assert whole.count[i] == w.count[0]
        mine = np.flatnonzero(whole.row == i)
        assert whole.strings(mine) == w.strings(np.arange(len(w.start)))
        assert (whole.start[mine] - whole.offset[i]).tolist() == (w.start - 1).tolist() and whole.index[mine].tolist() == list(range(len(mine)))


@given(st.text("ab1 ,.-:/'()#%\n\t=", max_size=40))
@quick
def test_ascii_path_is_the_general_path(text):
    assert words_of(text) == [w for w in words_of(text + "\n我")][:-1]


# ---- the contract, for every policy

@given(policies, texts, seeds, st.integers(0, 3), st.integers(0, 3), st.randoms())
@quick
def test_result_is_independent_of_batch_and_order(t, batch, seed, epoch, copy, rnd):
    args = dict(seed=seed, epoch=epoch, copy=copy)
    out = t(batch, **args)
    assert len(out) == len(batch)
    assert out == [t([x], **args)[0] for x in batch]
    order = list(range(len(batch)))
    rnd.shuffle(order)
    assert t([batch[i] for i in order], **args) == [out[i] for i in order]
    ids = [f"r{i}" for i in range(len(batch))]
    with_ids = t(batch, ids=ids, **args)
    assert t([batch[i] for i in order], ids=[ids[i] for i in order], **args) == [with_ids[i] for i in order]
    assert t(batch, ids=batch, **args) == out                              # no ids means: the text is the id


@given(policies, texts, seeds)
@quick
def test_trace_reproduces_the_call(t, batch, seed):
    edits = t.trace(batch, seed)
    assert [apply(x, e) for x, e in zip(batch, edits)] == t(batch, seed)
    for es in edits:
        assert all(isinstance(e, Edit) and e.op in {"Swap", "Delete"} and e.before != e.after and 0 <= e.start <= e.end for e in es)
        assert all(es[n + e.pair].pair == -e.pair and es[n + e.pair].after == e.before for n, e in enumerate(es) if e.pair)


@given(policies, texts, seeds)
@quick
def test_a_text_is_never_emptied(t, batch, seed):
    for before, after in zip(batch, t(batch, seed)):
        assert bool(words_of(before)) == bool(words_of(after))
        assert before or not after
        if not words_of(before):
            assert after == before


def test_chunks_and_many_texts_agree(monkeypatch):
    batch = [f"a{i} b c{i} d, e" for i in range(2500)] + [EN[0] * 9000, *ALL]
    t = Compose([Swap(.3), OneOf([Delete(.3), Swap(.1)])])
    whole = t(batch)
    monkeypatch.setattr(base, "_CHARS", 500)
    assert t(batch) == whole and [apply(b, e) for b, e in zip(batch, t.trace(batch))] == whole


@given(st.sampled_from([Swap(.5), Swap(1.), Delete(.5), Delete(1.)]), texts, st.integers(0, 2 ** 63))
@quick
def test_moves_are_written_without_strings_and_give_the_same(t, batch, seed):
    w = Words(batch)
    plan = t.plan(w, Draws(stream_keys(id_keys(range(len(batch))), seed), w))
    spelt = plan._replace(after=list(plan.after))
    assert spelt.after == plan.after and len(plan.after) == len(plan.start) and [plan.after[i] for i in range(len(plan.start))] == spelt.after
    assert base._carried(w, plan) == base._joined(w, spelt)
    for trace in (False, True):                                            # a list of strings goes the long way
        assert base._write(w, plan, "op", trace) == base._write(w, spelt, "op", trace)
    keep = np.arange(len(plan.start)) % 3 > 0
    assert plan.take(keep).after == spelt.take(keep).after


def test_a_text_longer_than_the_table_of_numbers(monkeypatch):
    want = Swap(.5)([EN[0] * 50, "a b c", ZH[0] * 50])
    monkeypatch.setattr(base, "_numbers", lambda: np.arange(100))
    assert Swap(.5)([EN[0] * 50, "a b c", ZH[0] * 50]) == want


def test_large_text():
    big = ("The quick fox, 我喜欢编程 over the lazy dog.\n" * 30000)[:1_000_000]
    edits = Delete(.2).trace([big])[0]
    out = Delete(.2)([big])[0]
    n = Words([big]).count[0]
    assert apply(big, edits) == out and abs(len(edits) - .2 * n) <= 1
    new = Swap(.5)([big])[0]
    assert sorted(words_of(new)) == sorted(words_of(big)) and new.count("\n") == big.count("\n") and new != big


def test_seed_epoch_copy_class_and_path_each_matter():
    batch = [" ".join(f"w{i}x{j}" for j in range(30)) for i in range(20)]
    runs = [t(batch, **kw) for t, kw in [(Swap(.3), {}), (Swap(.3), {"seed": 1}), (Swap(.3), {"epoch": 1}), (Swap(.3), {"copy": 1}), (Swap(.3), {"ids": range(20)}),
                                         (Compose([Swap(.3)]), {}), (Compose([Compose([]), Swap(.3)]), {})]]
    for i, a in enumerate(runs):
        for b in runs[:i]:
            assert sum(x == y for x, y in zip(a, b)) == 0
    twice = Compose([Swap(.3), Swap(.3)])(batch)
    assert twice != batch and twice != runs[0]                             # the second child does not undo the first


def test_the_numbers_of_edits_follow_the_rate():
    batch = [" ".join(f"w{j}" for j in range(n)) for n in (3, 7, 12, 18, 25)] + ["我喜欢编程和键盘上的猫"]
    n = np.array([len(words_of(t)) for t in batch])
    for t in (Swap(.1), Swap(.33), Delete(.1), Delete(.33)):
        count = np.array([len(e) for e in t.trace(batch * 3000, ids=range(6 * 3000))]).reshape(3000, 6)
        assert (abs(count.mean(0) - t.rate * n) < 4.5 * count.std(0) / np.sqrt(3000) + 1e-9).all(), (t, count.mean(0), t.rate * n)
    assert [len(words_of(x)) for x in Delete(1.)(batch)] == [1] * 6
    assert Swap(0)(ALL) == ALL == Delete(0)(ALL)


# ---- Swap and Delete

@given(texts, st.floats(0, 1), seeds)
@quick
def test_swap_keeps_words_and_separators(batch, rate, seed):
    for before, after in zip(batch, Swap(rate)(batch, seed)):
        w, s = words_of(before), frame(before)
        plan = Swap(rate).trace([before], seed)[0]
        assert Counter(before) == Counter(after)
        assert len(plan) % 2 == 0 and len(plan) <= len(w)
        assert frame(after) == s and Counter(words_of(after)) == Counter(w)  # every separator stands where it stood


def test_swap_is_uniform_over_pairs():
    pairs = Counter(Swap(.5)(["a b c d"] * 6000, ids=range(6000)))
    assert set(pairs) == {"b a c d", "c b a d", "d b c a", "a c b d", "a d c b", "a b d c"}
    assert all(abs(v - 1000) < 5 * 29 for v in pairs.values())


@given(texts, st.floats(0, 1), seeds)
@quick
def test_delete_only_deletes(batch, rate, seed):
    for before, after, edits in zip(batch, Delete(rate)(batch, seed), Delete(rate).trace(batch, seed)):
        assert all(not e.after for e in edits)
        it = iter(before)
        assert all(c in it for c in after)                                 # a subsequence
        w = words_of(before)
        assert len(edits) <= max(0, len(w) - 1)


@pytest.mark.parametrize("text", ["a b c d e", "x, y z", "(a b) c", "a\nb c\nd"])
def test_delete_leaves_no_double_or_outer_spaces(text):
    for c in range(60):
        for rate in (.3, .7, 1.):
            out = Delete(rate)([text], copy=c)[0]
            assert "  " not in out and not out.startswith(" ") and not out.endswith(" ") and out.count("\n") == text.count("\n")


# ---- traces and spans

def test_apply_checks_what_it_replaces():
    assert apply("abc", [Edit("X", 1, 2, "b", "BB"), Edit("X", 0, 1, "a", "")]) == "BBc"
    for bad in ([Edit("X", 1, 2, "z", "")], [Edit("X", 2, 5, "c", "")], [Edit("X", 4, 4, "", "x")]):
        with pytest.raises(ValueError, match="edit 0"):
            apply("abc", bad)


@given(st.sampled_from([Swap(.5), Delete(.3), Compose([Swap(.4), Delete(.2)])]), texts, seeds, st.data())
@quick
def test_remapped_spans_still_hold_their_words(t, batch, seed, data):
    for text, edits in zip(batch, t.trace(batch, seed)):
        w = Words([text])
        spans = [(int(a) - 1, int(b) - 1, "L") for a, b in zip(w.start, w.end)]
        spans = data.draw(st.lists(st.sampled_from(spans), max_size=3)) if spans else []
        moved = remap(spans, edits)
        if moved is not None:
            out = apply(text, edits)
            assert [out[a:b] for a, b, _ in moved] == [text[a:b] for a, b, _ in spans] and all(s[2] == "L" for s in moved)


def R(start, end, before, after, pair=0):
    return Edit("X", start, end, before, after, pair)


@pytest.mark.parametrize("spans, edits, want", [
    ([(4, 7)], [R(0, 3, "the", "a")], [(2, 5)]),                           # before: shifts
    ([(0, 3)], [R(4, 7, "cat", "dog!")], [(0, 3)]),                        # behind: nothing
    ([(4, 7, "x", 1)], [R(4, 7, "cat", "tiger")], [(4, 9, "x", 1)]),       # the word itself is replaced
    ([(0, 7)], [R(4, 7, "cat", "tiger")], [(0, 9)]),                       # inside: stretches
    ([(0, 7)], [R(3, 7, " cat", "")], [(0, 3)]),
    ([(4, 7)], [R(4, 7, "cat", "")], None),                                # deleted
    ([(4, 7)], [R(3, 7, " cat", "")], None),
    ([(2, 5)], [R(4, 7, "cat", "dog")], None),                             # cut at the border
    ([(4, 6)], [R(4, 7, "cat", "dog")], None),
    ([(0, 3), (4, 7)], [R(3, 3, "", "!")], [(0, 3), (5, 8)]),              # insertion between
    ([(0, 3)], [R(1, 1, "", "!")], [(0, 4)]),
    ([(0, 1), (4, 6)], [R(0, 1, "a", "bb", 1), R(6, 8, "bb", "a", -1)], None),  # the second word stands at 5..7: the span crosses its border
    ([(0, 1), (4, 6)], [R(0, 1, "a", "cc", 1), R(5, 7, "cc", "a", -1)], [(5, 6), (0, 2)]),
    ([(0, 6)], [R(0, 1, "a", "cc", 1), R(5, 7, "cc", "a", -1)], [(0, 6)]),  # both ends of the exchange inside
    ([(0, 3)], [R(0, 1, "a", "cc", 1), R(5, 7, "cc", "a", -1)], None),     # a word left, a stranger came
    ([(2, 6)], [R(0, 1, "a", "cc", 1), R(5, 7, "cc", "a", -1)], None),
    ([(2, 3)], [R(0, 1, "a", "cc", 1), R(5, 7, "cc", "a", -1)], [(3, 4)]),
    ([(4, 5), (8, 10)], [R(4, 5, "a", "cc", 2), R(0, 1, "x", "xxx"), R(11, 13, "cc", "a", -2)], [(11, 12), (6, 8)]),  # an edit further left between
    ([], [R(0, 1, "a", "b")], []),
    ([(1, 1)], [R(0, 1, "a", "bb")], [(2, 2)]),
])
def test_remap(spans, edits, want):
    assert remap(spans, edits) == want
    if want is None:
        with pytest.raises(ValueError, match="span . .* does not survive"):
            remap(spans, edits, strict=True)


def test_remap_bad_input():
    with pytest.raises(ValueError, match="0 <= start <= end"):
        remap([(3, 2)], [])
    with pytest.raises(ValueError, match="cut off"):
        remap([(0, 1)], [R(0, 1, "a", "cc", 1)])


# ---- composition

def test_oneof_weights_and_someof_numbers():
    ids = [f"i{k}" for k in range(4000)]
    ops = lambda t: Counter("+".join(e.op for e in es if not e.pair < 0) or "-" for es in t.trace(["a b"] * 4000, ids=ids))
    two = OneOf([Swap(1.), Delete(.5)], weights=[1, 3])
    got = ops(two)
    assert set(got) == {"Swap", "Delete"} and abs(got["Delete"] - 3000) < 5 * 28
    assert set(ops(OneOf([Swap(1.), Delete(.5)], weights=[0, 1]))) == {"Delete"} and set(ops(OneOf([Swap(1.), Delete(.5)], weights=[2, 0]))) == {"Swap"}
    got = ops(SomeOf([Swap(1.), Delete(.5)], n=(0, 2)))
    assert set(got) == {"-", "Swap", "Delete", "Swap+Delete"} and abs(got["Swap+Delete"] - 4000 / 3) < 5 * 30 and abs(got["Swap"] - 4000 / 6) < 5 * 24
    assert set(ops(SomeOf([Swap(1.), Delete(.5)], n=2))) == {"Swap+Delete"} and set(ops(SomeOf([Swap(1.), Delete(.5)], n=0))) == {"-"}
    assert set(ops(RandomApply(Swap(1.), 1.))) == {"Swap"} and set(ops(RandomApply(Swap(1.), 0))) == {"-"}
    assert abs(ops(RandomApply(Swap(1.), .25))["Swap"] - 1000) < 5 * 28
    assert Compose([])(ALL) == ALL


def test_siblings_are_independent():
    "Children with the same parameters must not fire together (albumentations 2.0.8 did)."
    t = Compose([RandomApply(Swap(1.), .5), RandomApply(Delete(.5), .5)])
    got = Counter(tuple(sorted({e.op for e in es})) for es in t.trace(["a b"] * 4000, ids=range(4000)))
    assert len(got) == 4 and all(abs(v - 1000) < 5 * 28 for v in got.values())


def test_preserves():
    assert Swap(.1).preserves == {"label"} == OneOf([Swap(.1), Delete(.1)]).preserves == Protect(Swap(.1), "number").preserves == RandomApply(Swap(.1)).preserves
    @dataclass(frozen=True)
    class Nothing(Transform):
        preserves = frozenset()
    assert Compose([Swap(.1), Nothing()]).preserves == frozenset()
    del Transform._registry["Nothing"]


@pytest.mark.parametrize("name, text, kept", [
    ("url", "go to https://a.io/x?y=1#z or www.b.org now", ["https://a.io/x?y=1#z", "www.b.org"]),
    ("url", "请看https://a.io/x，很好", ["https://a.io/x"]),
    ("email", "mail anna.b+c@mail.example.org today", ["anna.b+c@mail.example.org"]),
    ("url", "看http://t.cn/abc这家店很差", ["http://t.cn/abc"]),
    ("url", "https://fr.wikipedia.org/wiki/Été 好", ["https://fr.wikipedia.org/wiki/Été"]),
    ("email", "请发到anna@example.org谢谢你们", ["anna@example.org"]),
    ("number", "pay 3,000.50 or 12:30 on 2024-05-01, 5% off", ["3,000.50", "12:30", "2024-05-01", "5%"]),
    ("placeholder", "Dear {name}, {{x}} <b>hi</b> [MASK] %s %(n)d ${v}", ["{name}", "{{x}}", "<b>", "</b>", "[MASK]", "%s", "%(n)d", "${v}"]),
    ("negation", "I do not know, never did, and didn't care; nothing", ["not", "never", "n't", "nothing"]),
    ("negation", "I DON'T, CANNOT, No one; NOTHING NOBODY NONE WITHOUT Neither NOR", ["N'T", "CANNOT", "No", "NOTHING", "NOBODY", "NONE", "WITHOUT", "Neither", "NOR"]),
    ("url", "see HTTPS://A.B/C or Www.x.com now", ["HTTPS://A.B/C", "Www.x.com"]),
    ("negation", "这部电影不好看，没有人喜欢", ["不", "没有"]),
])
def test_presets(name, text, kept):
    assert [m.group() for m in re.finditer(PATTERNS[name], text)] == kept
    for t in (Delete(.8), Swap(1.)):
        for c in range(15):
            out = Protect(t, [name])([text], copy=c)[0]
            assert [m.group() for m in re.finditer(PATTERNS[name], out)] == kept


def test_protect_drops_touching_edits_and_no_others():
    text = "one two three not four five six seven eight nine"
    free, safe = Delete(.5), Protect(Delete(.5), [re.compile("NOT", re.I)])
    for c in range(40):
        a, b = free.trace([text], copy=c)[0], safe.trace([text], copy=c)[0]
        assert [e.before for e in b] == [e.before for e in a if "not" not in e.before]
    swap, safe = Swap(.5), Protect(Swap(.5), "not")
    dropped = 0
    for c in range(40):
        a, b = swap.trace([text], copy=c)[0], safe.trace([text], copy=c)[0]
        want = Counter(e.before for e in a) - Counter(w for n, e in enumerate(a) if "not" in (e.before, e.after) for w in [e.before])
        assert Counter(e.before for e in b) == want and Counter(text) == Counter(safe([text], copy=c)[0])
        dropped += len(a) != len(b)
    assert dropped > 5
    assert Protect(Swap(.5), [])([text]) == Swap(.5)([text])


def test_keep():
    always, never = Keep(Swap(.5), lambda a, b: True), Keep(Swap(.5), lambda a, b: False)
    assert always(EN) == Swap(.5)(EN) and never(EN) == EN and never.trace(EN) == [[]] * len(EN)
    seen = []
    Keep(Delete(.5), lambda a, b: seen.append((a, b)) or True)(EN)
    assert seen and all(a in EN and len(b) < len(a) for a, b in seen)


# ---- configuration

@pytest.mark.parametrize("t", POLICIES, ids=repr)
def test_round_trips(t):
    data = json.loads(json.dumps(t.to_dict()))
    for again in (Transform.from_dict(data), pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
        assert again == t and hash(again) == hash(t) and again.fingerprint == t.fingerprint and again(ALL, seed=4) == t(ALL, seed=4)
    if not isinstance(t, Keep):
        assert eval(repr(t), {**vars(base), "re": re}) == t
    assert len({p.fingerprint for p in POLICIES}) == len(POLICIES)
    with pytest.raises(FrozenInstanceError):
        t.rate = .5


def test_patterns_and_gates_in_dicts():
    t = Protect(Swap(.1), [re.compile("a b", re.I | re.X), "url"])
    assert Transform.from_dict(json.loads(json.dumps(t.to_dict()))) == t
    with pytest.raises(ValueError, match="def"):
        Keep(Swap(.1), lambda a, b: True).to_dict()
    with pytest.raises(ValueError, match="unknown transform 'Swop'.*Swap"):
        Transform.from_dict({"op": "Swop"})


PROGRAM = """
import sys
from diversity_kit.augment.base import *
import diversity_kit.augment.base
light = not {"torch", "datasets", "transformers", "pandas"} & set(sys.modules)
from datasets.fingerprint import Hasher
t = Protect(Compose([Swap(.3), OneOf([Delete(.3), Swap(.1)], [1, 2]), SomeOf([Swap(.2), Delete(.1)], (0, 2))]), ["number", "negation"])
texts = ["The quick fox, tired of the road, sleeps under a bridge.", "我喜欢编程，我的猫喜欢键盘。"] * 3
print(light, t.fingerprint, Hasher.hash(t), ascii(t(texts, 3, ids=["a", 1, "b", 2, 3, 4], epoch=1, copy=2)), ascii(t.trace(texts)))
"""


def test_processes_with_other_hash_seeds_agree():
    runs = [subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": s, "PYTHONPATH": str(ROOT)})
            for s in "01"]
    a, b = (p.communicate(timeout=100)[0] for p in runs)
    assert a == b and a.startswith("True ") and "Edit" in a
    here = {}
    exec(PROGRAM.replace("print(light", "out = (True"), here)
    assert a == " ".join(map(str, here["out"])) + "\n"


# ---- faults

@pytest.mark.parametrize("bad, name", [(None, "NoneType"), (float("nan"), "float"), (3, "int"), (b"x", "bytes"), (["a"], "list")])
def test_texts_must_be_strings(bad, name):
    for call in (Swap(.1), Swap(.1).trace):
        with pytest.raises(TypeError, match=rf"texts\[2\] is a {name}"):
            call(["a", "b", bad, None])
    with pytest.raises(TypeError, match="takes a list"):
        Swap(.1)("a text")
    with pytest.raises(ValueError, match="3 ids for 2 texts"):
        Swap(.1)(["a", "b"], ids=[1, 2, 3])
    with pytest.raises(TypeError, match="seed=None"):
        Swap(.1)(["a"], seed=None)


@pytest.mark.parametrize("make, error, match", [
    (lambda: Swap(-.1), ValueError, "rate=-0.1"), (lambda: Delete(1.01), ValueError, "rate=1.01"), (lambda: Swap(float("nan")), ValueError, "nan"),
    (lambda: Swap("0.1"), TypeError, "str"), (lambda: Swap(True), TypeError, "bool"), (lambda: RandomApply(Swap(.1), 2), ValueError, "p=2"),
    (lambda: RandomApply([Swap(.1)]), TypeError, "Compose"), (lambda: RandomApply(Swap), TypeError, "parentheses"), (lambda: Compose(Swap(.1)), TypeError, "list"),
    (lambda: Compose([Swap]), TypeError, "parentheses"), (lambda: OneOf([]), ValueError, "at least 1"), (lambda: OneOf([Swap(.1)], [1, 2]), ValueError, "1 numbers"),
    (lambda: OneOf([Swap(.1)], [-1]), ValueError, "weights"), (lambda: OneOf([Swap(.1)], [float("nan")]), ValueError, "weights"), (lambda: OneOf([Swap(.1)], [0]), ValueError, "weights"),
    (lambda: SomeOf([Swap(.1)], 2), ValueError, "n=2"), (lambda: SomeOf([Swap(.1)], (1, 0)), ValueError, "n="), (lambda: SomeOf([Swap(.1)], .5), ValueError, "n="),
    (lambda: Protect(Swap(.1), "("), ValueError, "Protect"), (lambda: Protect(Swap(.1), [3]), ValueError, "Protect"), (lambda: Protect("x", "url"), TypeError, "not a transform"),
    (lambda: Keep(Swap(.1), 3), TypeError, "callable"),
])
def test_wrong_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_own_transforms():
    @dataclass(frozen=True)
    class Shout(Transform):
        rate: float = .1
        def plan(self, words, draws):
            chosen = draws.choose(draws.count(self.rate, words.count), among=words.kind[words.start] == 0)
            return words.replace(chosen, [w.upper() for w in words.strings(chosen)])

    @dataclass(frozen=True)
    class Wipe(Transform):
        def plan(self, words, draws):
            return Plan(words.offset, words.offset + words.length, [""] * len(words.texts))

    @dataclass(frozen=True)
    class Clumsy(Transform):
        def plan(self, words, draws):
            return Plan(words.start, words.end + 3, words.strings(np.arange(len(words.start))))
    try:
        assert Shout(1.)(["so is it", "我 a 喜欢", ""]) == ["SO IS IT", "我 A 喜欢", ""] and Shout(1.).trace(["A b"]) == [[Edit("Shout", 2, 3, "b", "B")]]
        assert Wipe()(["a b", "", "c"]) == ["a b", "", "c"] and Wipe().trace(["a b"]) == [[]]
        with pytest.raises(ValueError, match="Clumsy.plan"):
            Clumsy()(["a b c"])
        with pytest.raises(NotImplementedError, match="plan"):
            Transform()(["a"])
        with pytest.raises(ValueError, match="Swap already"):
            type("Swap", (Transform,), {})
    finally:
        for name in ("Shout", "Wipe", "Clumsy"):
            del Transform._registry[name]


def test_choose_without_replacement():
    w = Words(["a b c d e", "", "f g"])
    for lane in range(20):
        chosen = Draws(id_keys([1, 2, 3]), w).choose(np.array([3, 1, 9]), lane=lane)
        assert len(set(chosen.tolist())) == len(chosen) == 5 and w.row[chosen].tolist() == [0, 0, 0, 2, 2]
    assert Draws(id_keys([1, 2, 3]), w).choose(np.array([9, 9, 9]), among=w.index == 1).tolist() == [1, 6]


# ---- expand

@pytest.fixture
def train():
    import datasets
    return datasets.Dataset.from_dict({"id": [f"r{i}" for i in range(8)], "text": EN + ZH, "label": [i % 2 for i in range(8)]},
                                      features=datasets.Features({"id": datasets.Value("string"), "text": datasets.Value("large_string"),
                                                                  "label": datasets.ClassLabel(names=["neg", "pos"])}), split="train")


@pytest.mark.parametrize("copies", [0, 1, 3])
def test_expand(train, copies):
    t = OneOf([Swap(.5), Delete(.5)])
    big = expand(train, t, copies, seed=7)
    assert len(big) == 8 * (1 + copies) and big.column_names == ["id", "text", "label", "origin", "copy", "op"] and str(big.split) == "train"
    assert {k: v for k, v in big.features.items() if k in train.features} == train.features
    frame = big.to_pandas()
    for c in range(copies + 1):
        part = frame[frame["copy"] == c]
        assert part.origin.tolist() == part.id.tolist() == train["id"][:] and part.label.tolist() == train["label"][:]
        assert part.text.tolist() == (train["text"][:] if c == 0 else t(train["text"], seed=7, ids=train["id"], copy=c))
        assert (part.op == "original").all() == (c == 0)
        assert all((op == "none") == (a == b) for op, a, b in zip(part.op, part.text, train["text"])) or c == 0
    assert set(frame.op) <= {"original", "Swap", "Delete", "none"} and (not copies or (frame[frame.id == "r3"].op == "none").sum() == copies)
    assert frame["copy"].tolist() == list(range(copies + 1)) * 8           # each row followed by its copies


def test_expand_is_stable_and_needs_no_ids(train):
    import datasets
    t = Compose([Swap(.5), Delete(.3)])
    whole = expand(train, t, 2)
    assert expand(train, t, 2, num_proc=2)["text"][:] == whole["text"][:] and expand(train, t, 2, num_proc=2)["op"][:] == whole["op"][:]
    order = [5, 2, 7, 0]
    assert expand(train.select(order), t, 2)["text"][:] == [whole["text"][3 * i + c] for i in order for c in range(3)]
    bare = expand(train.remove_columns("id"), t, 2, id=None)
    assert bare["origin"][:] == [i for i in range(8) for _ in range(3)] and bare["text"][1::3] == t(train["text"], copy=1)
    assert expand(train, t, 2, seed=1)["text"][:] != whole["text"][:]
    empty = expand(train.select([]), t, 2)
    assert len(empty) == 0 and empty.column_names == whole.column_names
    ints = expand(datasets.Dataset.from_dict({"id": [3, 4], "text": ["a b c", "d e f"]}), Swap(1.), 1)
    assert ints["origin"][:] == [3, 3, 4, 4] and ints["text"][1::2] == Swap(1.)(["a b c", "d e f"], ids=[3, 4], copy=1)


def test_expand_refuses(train):
    import datasets
    t = Swap(.5)
    for split in ("test", datasets.Split.TEST, datasets.NamedSplit("test_unseen")):
        held = datasets.Dataset.from_dict({"id": ["a"], "text": ["b c"]}, split=datasets.NamedSplit(str(split)))
        with pytest.raises(ValueError, match="test set"):
            expand(held, t, 1)
    with pytest.raises(ValueError, match="test set"):
        expand(train.add_column("split", ["train"] * 7 + ["test"]), t, 1)
    assert len(expand(datasets.Dataset.from_dict({"id": ["a"], "text": ["b c"]}, split=datasets.NamedSplit("latest")), t, 1)) == 2
    twice = datasets.Dataset.from_dict({"id": ["a", "b", "a"], "text": ["x y"] * 3})
    with pytest.raises(ValueError, match="first is 'a'"):
        expand(twice, t, 1)
    with pytest.raises(ValueError, match="expanded before"):
        expand(expand(train, t, 1), t, 1)
    with pytest.raises(ValueError, match="no column 'body'"):
        expand(train, t, 1, column="body")
    with pytest.raises(ValueError, match="id=None"):
        expand(train.remove_columns("id"), t, 1)
    for copies in (-1, 1.5, True):
        with pytest.raises(ValueError, match="copies="):
            expand(train, t, copies)
    with pytest.raises(TypeError, match="choose a split"):
        expand(datasets.DatasetDict(train=train), t, 1)
    with pytest.raises(TypeError, match="Dataset.from_dict"):
        expand(["a b"], t, 1)
    with pytest.raises(TypeError, match="row 1 of column 'text' is a NoneType"):
        expand(datasets.Dataset.from_dict({"id": ["a", "b"], "text": ["x", None]}), t, 1)


def test_map_with_two_processes(train):
    t = Compose([Swap(.5), Delete(.3)])
    augment = lambda batch, t: {"text": t(batch["text"], ids=batch["id"])}
    out = train.map(augment, batched=True, batch_size=3, num_proc=2, fn_kwargs={"t": t})
    assert out["text"][:] == t(train["text"], ids=train["id"])


def test_benchmark_runs():
    done = subprocess.run([sys.executable, str(ROOT / "tests/bench/bench_augment.py"), "--sentences", "60", "--repeats", "1"], capture_output=True, text=True, timeout=100,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and "Swap(rate=0.1" in done.stdout and "trace" in done.stdout, done.stderr


def test_show_marks_what_changed():
    shown = Swap(1.).show(["a b", "same", "<i> x"], seed=0)
    assert shown.pairs == tuple(zip(["a b", "same", "<i> x"], Swap(1.)(["a b", "same", "<i> x"], seed=0)))
    first, second, third = repr(shown).split("\n")
    assert second == "same" and first in ("[-a-]{+b+} [-b-]{+a+}", "{+b +}a[- b-]", "[-a -]b{+ a+}")
    assert "<i>" not in shown._repr_html_() and "&lt;" in shown._repr_html_() and shown._repr_html_().count("<del") == shown._repr_html_().count("<ins")


@pytest.mark.parametrize("size,count", [(1, 1), (5, 0), (5, 2), (5, 9), (12, 8), (12, 9), (40, 30)])
def test_sample_is_a_uniform_ordered_draw_without_replacement(size, count):
    keys = splitmix64(id_keys(range(4000)))
    got = Draws(keys).sample(np.full(4000, count), np.full(4000, size)).reshape(4000, -1)
    assert got.shape[1] == min(count, size) and all(len(set(r)) == len(r) for r in got.tolist())
    if got.size:
        assert got.min() >= 0 and got.max() < size
        for column in (got[:, 0], got[:, -1]):                             # every place of the order is uniform
            seen = np.bincount(column, minlength=size)
            assert abs(seen - 4000 / size).max() < 5 * (4000 / size) ** .5


def test_sample_does_not_depend_on_the_other_texts():
    rng, keys = np.random.default_rng(0), splitmix64(id_keys(range(300)))
    size = rng.integers(0, 60, 300)
    count = rng.integers(0, 40, 300)
    every = np.split(Draws(keys).sample(count, size), np.cumsum(np.minimum(count, size))[:-1])
    for i in range(0, 300, 7):
        assert Draws(keys[i:i + 1]).sample(count[i:i + 1], size[i:i + 1]).tolist() == every[i].tolist()


def test_hashes_of_words():
    batch = ["Not bad, NOT bad", "Straße İstanbul ΣΑΣ", "𠮷野家 x"]
    w = Words(batch)
    strings = w.strings(np.arange(len(w.start)))
    assert (w.hashes == base.word_hashes(strings)).all() and w.hashes[0] == w.hashes[2] == base.word_hashes(["nOT"])[0]
    assert len(set(w.hashes.tolist())) == len({s.lower() if s.isascii() else s for s in strings})
    assert w.spans(w.start[:1], w.end[1:2])[0] == base.word_hashes(["not BAD"])[0]
    assert w.among(["bad", "𠮷"]).tolist() == [s in ("bad", "𠮷") for s in strings] and not w.among([]).any() and w.among([], outside=True).all()
    many = base.word_hashes([f"{a}{b}" for a in "abcdefgh" for b in range(2000)])
    assert len(set(many.tolist())) == 16000


def test_units_and_segment():
    w = Words(["a b. c d", "我喜欢编程 ok"])
    u = w.units(np.array([1, 6, 10]), np.array([5, 9, 15]))
    assert u.strings(np.arange(3)) == ["a b.", "c d", "我喜欢编程"] and u.count.tolist() == [2, 1] and u.index.tolist() == [0, 1, 0]
    pytest.importorskip("jieba")
    s = Words(["我喜欢编程 ok", "日本語テキスト", "x"], "jieba")
    assert s.strings(np.arange(len(s.start))) == ["我", "喜欢", "编程", "ok", *"日本語テキスト", "x"] and s.japanese.tolist() == [False, True, False]
    with pytest.raises(ValueError, match="jieba"):
        Swap(.1, segment="words")


def test_keep_asks_a_batch_gate_once():
    calls = []

    class Gate:
        def accept(self, befores, afters):
            calls.append(len(befores))
            return [len(a) > 12 for a in afters]

        __call__ = None
    gate = type("G", (Gate,), {"__call__": lambda self, a, b: len(b) > 12})()
    kept = Keep(Delete(.3), gate)(EN)
    assert calls == [sum(a != b for a, b in zip(EN, Delete(.3)(EN)))] and kept == Keep(Delete(.3), lambda a, b: len(b) > 12)(EN)
    gate.accept = lambda a, b: [True]
    with pytest.raises(ValueError, match="shape"):
        Keep(Delete(.9), gate)(EN)


def capitals(text):
    return [m.span() for m in re.finditer(r"[A-Z]\w+", text)]


def test_protect_takes_a_function_that_finds_spans():
    text = "Yesterday Ada met Charles Babbage in old London town"
    out = [Protect(Delete(.6), [capitals])([text], copy=c)[0] for c in range(40)]
    assert all(w in o for o in out for w in ("Yesterday", "Ada", "Charles", "Babbage", "London")) and len(set(out)) > 5
    t = Protect(Delete(.6), capitals)
    assert Transform.from_dict(t.to_dict()) == t
    whole = Protect(Swap(1.), [lambda s: [(0, 4), (2, len(s)), (1, 3)]])   # overlapping and nested spans
    assert whole([text]) == [text]
    with pytest.raises(ValueError, match="returned the span"):
        Protect(Delete(.9), [lambda s: [(0, 99999)]])([text])


def test_move_carries_words_and_labels_around_a_cycle():
    @dataclass(frozen=True)
    class _Cycle(Transform):
        def plan(self, words, draws):
            return words.move(np.array([2, 0, 3]), np.array([0, 3, 2]))    # c to a's place, a to d's, d to c's

    text = "aa b ccc d e"
    out, edits = _Cycle()([text])[0], _Cycle().trace([text])[0]
    assert out == "ccc b d aa e" and apply(text, edits) == out
    spans = [(0, 2, "A"), (5, 8, "C"), (9, 10, "D"), (11, 12, "E"), (3, 4, "B")]
    assert [out[a:b] for a, b, _ in remap(spans, edits)] == ["aa", "ccc", "d", "e", "b"]


def test_a_misspelt_preset_of_protect_is_no_regex():
    for typo, right in (("negations", "negation"), ("Number", "number"), ("placeholders", "placeholder"), ("mail", "email")):
        with pytest.raises(ValueError, match=f"did you mean '{right}'"):
            Protect(Swap(0.1), [typo])
    assert Protect(Swap(0.1), ["film", "(negations)", r"\bnumbers\b", "negation"]).patterns[0] == "film"


def test_a_transform_is_known_by_name_where_nobody_imported_its_module():
    "A worker process gets a dict and has imported base alone."
    code = "from diversity_kit.augment.base import Transform; print(*(Transform.from_dict({'op': n, 'rate': .1}) for n in ('AEDA', 'Keyboard')))"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert got.returncode == 0 and "AEDA" in got.stdout and "Keyboard" in got.stdout, got.stderr[-500:]


@pytest.mark.parametrize("skip, segment", [(["not bad"], None), (["New York"], "jieba"), (["电影"], None), (["good."], None), ([""], None), (["good", "。"], None)])
def test_a_skip_that_could_protect_nothing_is_refused(skip, segment):
    with pytest.raises(ValueError, match="skip has .* no single word here"):
        Delete(1., skip=skip, segment=segment)


def test_skip_knows_both_apostrophes_and_words_of_a_dictionary():
    assert Delete(1., skip=["don't"])(["I don\u2019t know", "I don't know"]) == ["don\u2019t", "don't"] == Delete(1., skip=["don\u2019t"])(["I don\u2019t know", "I don't know"])
    assert Delete(.1, skip=["电影", "film", "e-mail", "好"], segment="jieba").skip == ("e-mail", "film", "好", "电影")
    assert Transform.from_dict(Delete(.1, skip=["don't"]).to_dict()) == Delete(.1, skip=["don't"])


def test_weights_whose_sum_overflows_are_refused():
    with pytest.raises(ValueError, match="finite sum"):
        OneOf([Swap(.1), Delete(.1)], [1e308, 1e308])
