"""augment.words: insertion, AEDA, word dropout, span cutoff, sentence shuffle, the EDA recipe."""
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diversity_kit.augment.base import Delete, Protect, Swap, Transform, Words, apply
from diversity_kit.augment.lexicon import FUNCTION_WORDS, Lexicon
from diversity_kit.augment.words import AEDA, EDA, Insert, ShuffleSentences, SpanCutoff, SynonymReplace, WordDropout

LEX = Lexicon({"love": ["enjoy"], "coding": ["programming"], "film": ["movie", "picture"]})
EN = ["I love coding, and my cat loves the keyboard.", "The film was not good at all!", "One.", "", "  \n", "First one. Second one! Third (one)? Last"]
ZH = ["这部电影不好看，但是音乐很美。", "情节单薄。演员很好！我会再看吗？不会。"]
ODD = ["👨\u200d👩\u200d👧 ok", "e\u0301te\u0301 x\u0327y", "\ud800 a \udfff", "مرحبا بالعالم، كيف الحال؟", "a\x00b", "ภาษาไทย ง่าย", "日本語のテキスト が゚", "x\u3000y", "...", "1.5. 2.5! a.b"]
OPS = [Insert(.3, LEX), Insert(1., LEX), AEDA(.3), AEDA(1.), WordDropout(.3), WordDropout(1.), SpanCutoff(.3), SpanCutoff(1.), ShuffleSentences(), EDA(.2, LEX)]
texts = st.lists(st.one_of(st.text(max_size=40), st.sampled_from(EN + ZH + ODD), st.text("ab .!?。！love film我喜\u0301\u200d😀\n", max_size=40)), max_size=6)
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def words_of(text):
    w = Words([text])
    return w.strings(np.arange(len(w.start)))


@quick
@given(texts, st.sampled_from(OPS), st.integers(0, 9))
def test_contract(batch, op, seed):
    out, edits = op(batch, seed=seed), op.trace(batch, seed=seed)
    assert len(out) == len(batch) and [apply(t, e) for t, e in zip(batch, edits)] == out
    assert all(o or not t for t, o in zip(batch, out))                      # never emptied
    assert [op([t], seed=seed)[0] for t in batch] == out                   # a batch of one
    for a, b in zip(batch, out):
        a.encode("utf-8", "surrogatepass"), b.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_round_trip(op):
    again = Transform.from_dict(op.to_dict())
    assert again == op and again.fingerprint == op.fingerprint and pickle.loads(pickle.dumps(op))(EN, seed=3) == op(EN, seed=3)


@pytest.mark.parametrize("cls", [Insert, AEDA, WordDropout, SpanCutoff, ShuffleSentences, EDA])
def test_rate_zero_is_the_identity_and_bad_rates_are_refused(cls):
    op = cls(0., LEX) if cls in (Insert, EDA) else cls(0.)
    assert op(EN + ZH + ODD) == EN + ZH + ODD
    for bad in (-.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"between 0 and 1|0 to 1"):
            cls(bad)
    with pytest.raises(TypeError):
        cls("0.1")


def test_insert_adds_the_expected_number_and_only_synonyms():
    text, extra = "I love coding and the film", {"enjoy", "programming", "movie", "picture"}
    counts, new, places = [], Counter(), Counter()
    for c in range(1500):
        out = words_of(Insert(.25, LEX)([text], copy=c)[0])
        counts.append(len(out) - 6)
        new.update(set(out) - set(text.split()))
        if len(out) == 7:
            places[next(i for i, w in enumerate(out) if w in extra)] += 1
    assert set(new) == extra and abs(np.mean(counts) - 1.5) < .06
    assert set(places) == set(range(7)) and min(places.values()) > .6 * sum(places.values()) / 7   # before the first word, ..., behind the last
    assert abs(new["enjoy"] - new["movie"] - new["picture"]) < .2 * new["enjoy"]                   # sources are drawn evenly
    assert Insert(1., LEX)(["nothing here", ""]) == ["nothing here", ""]
    assert Insert(1., {"好看": ["精彩"]})(["电影"]) == ["电影"] and "精彩" in Insert(1., {"好看": ["精彩"]})(["好看"])[0]


def test_insert_keeps_everything_else():
    for c in range(50):
        for e in Insert(.5, LEX).trace([EN[0]], copy=c)[0]:
            assert e.before == "" and e.after.strip() in {"enjoy", "programming"} and e.after != e.after.strip()


def test_aeda_only_adds_marks():
    text = "one two three four five six"
    counts = Counter()
    for c in range(2000):
        edits = AEDA(.25).trace([text], copy=c)[0]
        counts[len(edits)] += 1
        assert all(e.before == "" and e.after[0] in ".;?:!," and e.after[1:] == " " for e in edits)
    assert abs(sum(k * v for k, v in counts.items()) / 2000 - 1.5) < .08 and set(counts) == {0, 1, 2, 3}
    zh = AEDA(1.)(["电影好看"])[0]
    assert [zh[i] for i in (1, 3, 5, 7)] == list("电影好看") and set(zh[::2]) <= set("。；？：！，")
    with pytest.raises(ValueError, match="at least one mark"):
        AEDA(.1, marks="")


def test_word_dropout_and_skip():
    out = WordDropout(1., mask="<unk>")(["It was good, not bad."])[0]
    assert out == "<unk> <unk> <unk>, <unk> <unk>."
    assert WordDropout(1., skip=["NOT", "was"])(["It was good, not bad."]) == ["[MASK] was [MASK], not [MASK]."]
    with pytest.raises(ValueError, match="non-empty"):
        WordDropout(.1, mask="")
    with pytest.raises(TypeError, match="collection of words"):
        WordDropout(.1, skip="not")


@pytest.mark.parametrize("op", [Swap(1., skip=["not"]), Delete(1., skip=["not"]), Protect(Delete(1.), ["negation"])])
def test_skipped_words_stay(op):
    text = "this was not a film of the year"
    for c in range(20):
        assert "not" in op([text], copy=c)[0].split()
    if isinstance(op, Swap):
        assert all(op([text], copy=c)[0].split()[2] == "not" for c in range(20))


def test_skip_counts_the_other_words():
    text = ["a b c not not not not not"] * 800
    left = [len(t.split()) for t in Delete(.5, skip=["not"])(text, ids=range(800))]
    assert abs(np.mean(left) - 6.5) < .08


def test_span_cutoff_removes_one_run():
    text = " ".join(f"w{i}" for i in range(12))
    starts = Counter()
    for c in range(600):
        edits = SpanCutoff(.25).trace([text], copy=c)[0]
        kept = [int(w[1:]) for w in apply(text, edits).split()]
        gone = sorted(set(range(12)) - set(kept))
        assert len(edits) == 1 and len(gone) == 3 and gone == list(range(gone[0], gone[0] + 3))
        starts[gone[0]] += 1
    assert set(starts) == set(range(10)) and max(starts.values()) < 110
    assert SpanCutoff(1.)(["a, b; c."])[0] in ("a.", "b.", "c.", "a,", "b;", "c") or len(words_of(SpanCutoff(1.)(["a, b; c."])[0])) == 1
    assert "  " not in SpanCutoff(.5)(["one two three four five"] * 40, ids=range(40))


def test_sentences_move_whole():
    text = "First one. Second (1.5) one! \"Third?\" Last"
    parts = {"First one.", "Second (1.5) one!", "\"Third?\"", "Last"}
    seen = set()
    for c in range(60):
        out = ShuffleSentences()([text], copy=c)[0]
        seen.add(out)
        assert all(p in out for p in parts) and len(out) == len(text)
    assert len(seen) > 4                                                   # one or two pairs out of four sentences
    zh = ShuffleSentences()([ZH[1]], seed=1)[0]
    assert sorted(zh) == sorted(ZH[1]) and zh != ZH[1] and "演员很好！" in zh
    assert ShuffleSentences()(["Only one sentence.", "no end", ""]) == ["Only one sentence.", "no end", ""]


def test_eda_recipe():
    assert [EDA.for_size(n) for n in (1, 500, 501, 2000, 5000, 10 ** 6)] == [(EDA(.05), 16)] * 2 + [(EDA(.05), 8)] * 2 + [(EDA(.1), 4)] * 2
    with pytest.raises(ValueError, match="n=0"):
        EDA.for_size(0)
    ops = Counter()
    for c in range(2000):
        edits = EDA(.05, LEX).trace([EN[0]], copy=c)[0]
        ops.update({e.op for e in edits} or {"none"})
    assert set(ops) == {"SynonymReplace", "Insert", "Swap", "Delete", "none"}
    for op in ("SynonymReplace", "Insert", "Swap"):
        assert abs(ops[op] - 500) < 90, ops                               # at least one edit each, although 0.05 * 9 < 1
    assert abs(ops["Delete"] - 500 * .45) < 60


def test_eda_needs_no_english_for_chinese():
    pytest.importorskip("jieba")
    zh = Lexicon({"好看": ["精彩"], "音乐": ["乐曲"]}, language="zh")
    outs = {EDA(.2, zh)([ZH[0]], copy=c)[0] for c in range(60)}
    assert any("精彩" in o for o in outs) and len(outs) > 8


def test_everything_is_in_words():
    from diversity_kit.augment import words
    for name in "Swap Delete Insert SynonymReplace AEDA EDA SpanCutoff WordDropout ShuffleSentences".split():
        assert issubclass(getattr(words, name), Transform)
    assert {"not", "the", "would"} <= FUNCTION_WORDS["en"] and "film" not in FUNCTION_WORDS["en"]
    assert SynonymReplace is words.SynonymReplace


def test_sentences_that_are_equal_or_protected_keep_trace_and_content():
    equal = "Good. Bad. Good. Ugly. Fine."
    guarded = "I paid 20 dollars. It broke. They refused a refund. Never again. Avoid."
    for c in range(150):
        for op, text in ((ShuffleSentences(), equal), (Protect(ShuffleSentences(.7), ["number"]), guarded)):
            out, edits = op([text], copy=c)[0], op.trace([text], copy=c)[0]
            assert apply(text, edits) == out and sorted(out.split()) == sorted(text.split())
    assert len({Protect(ShuffleSentences(.7), ["number"])([guarded], copy=c)[0] for c in range(60)}) > 5
    assert all(o.startswith("I paid 20 dollars.") for o in Protect(ShuffleSentences(.7), ["number"])([guarded] * 40, ids=range(40)))


def test_japanese_is_left_alone_and_scripts_are_not_glued():
    pytest.importorskip("jieba")
    zh = Lexicon({"大学": ["高校"], "good": ["fine"]}, language="zh")
    text = "東京大学の学生は映画館へ行きました"
    assert SynonymReplace(1., zh)([text, "大学生活很好"]) == [text, SynonymReplace(1., zh)(["大学生活很好"])[0]]
    assert SynonymReplace(1., zh)(["我在大学"]) == ["我在高校"] and Insert(1., zh)([text]) == [text]
    for c in range(30):
        out = Insert(.4, {"good": ["fine"]})(["good 电影院"], copy=c)[0]
        assert "fine电" not in out and "院fine" not in out, out


@pytest.mark.parametrize("make, match", [(lambda: EDA("0.1"), "EDA: alpha"), (lambda: EDA(10), "EDA: alpha=10"), (lambda: EDA.for_size("500"), "number of training rows"), (lambda: Insert(.1, {"a b": ["c"]}, least=-1), "least=-1"),
                                         (lambda: SynonymReplace(.1, {"big": ["large"]}, least=2.5), "least=2.5"), (lambda: AEDA(marks=[".", "!"]), "strings of single marks")])
def test_errors_name_the_field(make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make()


def test_an_integer_alpha_is_the_same_transform():
    assert EDA(1, LEX) == EDA(1., LEX) and EDA(1, LEX).fingerprint == EDA(1., LEX).fingerprint
