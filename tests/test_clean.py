"""Cleaning: golden values, idempotence, the log, faults."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.data import clean, sources
from diversity_kit.data.clean import DEFAULT, RULES, Clean, Language, clean_texts

EVERY = tuple(RULES)


@pytest.mark.parametrize("rule, before, after", [
    ("width", "ＡＢ１，　全", "AB1, 全"), ("width", "①ﬁ", "①ﬁ"), ("nfkc", "①ﬁ²", "1fi2"), ("control", "a\u200bb\x00c\ufeff", "abc"), ("control", "\U0001F468\u200d\U0001F469", "\U0001F468\u200d\U0001F469"),
    ("html", "fish &amp; <b>chips</b>", "fish & chips"), ("html", "if a < b and c > d", "if a < b and c > d"), ("html", "a<script>x()</script>b", "ab"), ("html", "a<br>b", "a b"),
    ("html", "&lt;p&gt; starts &quot;one&quot;", '&lt;p&gt; starts "one"'), ("html", "1 &lt; 2 &gt; 0", "1 < 2 > 0"), ("html", "x.org/?id=1&copy=2&reg=eu", "x.org/?id=1&copy=2&reg=eu"), ("html", "&copyright; &#65; &copy;", "&copyright; A ©"),
    ("mojibake", "itâ€™s", "it’s"), ("mojibake", "图书馆", "图书馆"), ("whitespace", " a \t b\r\nc\n\n\n\nd ", "a b\nc\n\nd"), ("empty", " \n", None),
    ("boilerplate", "Accept all cookies\nReal.", "Real."), ("boilerplate", "版权所有 未经授权", None), ("boilerplate", "x" * 200 + " privacy policy", "x" * 200 + " privacy policy")])
def test_rules(rule, before, after):
    assert RULES[rule](before) == after


@pytest.mark.parametrize("before, after", [
    ("line one\x85line two", "line one\nline two"), ("a\x1cb", "a\nb"), ("a\x1fb", "a b"),                                     # `control` may not join what `whitespace` would part
    ("用＜p＞标签表示段落，用＜b＞表示粗体", "用＜p＞标签表示段落,用＜b＞表示粗体"), ("若１＜２，则", "若1<2,则"), ("〈ｂ〉＜ｂ＞", "〈b〉＜b＞"),
    ("for i<s and s>0 do", "for i<s and s>0 do"), ("a <b and c> d", "a <b and c> d"), ("if x <i and i> y", "if x <i and i> y"),
    ('<p class="x">a</p >', "a"), ("<td nowrap>c</td>", "c"), ("<input type=checkbox checked>a", "a"), ("a<br />b<hr/>c", "a bc"), ("<a\nhref=x>l</a>", "l"),
    ("a<!-- <b>x -->b<!-- c", "ab<!-- c"), ('<STYLE>p{}</STYLE >a<script src="x">s="<p>"</script>b<script>c', "ab<script>c")])
def test_what_the_default_rules_take_and_leave(before, after):
    assert clean_texts([before])[0] == [after]


def test_nfkc_makes_no_tag_either():
    assert clean_texts(["＜p＞ ①"], ("html", "nfkc"))[0] == ["＜p＞ 1"] and clean_texts(["1 ＜ 2"], ("html", "nfkc"))[0] == ["1 < 2"]


@pytest.mark.parametrize("piece", ["<!--", "<script>", "<style ", "<script", "<b ", "<b x", "<p " + " " * 20])
def test_html_takes_linear_time(piece):
    import time
    start = time.perf_counter()
    RULES["html"](piece * (400_000 // len(piece)))                   # quadratic: minutes
    assert time.perf_counter() - start < 5


PIECES = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(["&amp;", "&lt;b&gt;", "<", "b>", "<b>", "amp;", "＆", "；", "\u3000", "\u200b", "â€™", "¼", "\r", "\n", "版权所有", "ﬁ"])), max_size=10).map("".join)


@given(st.lists(PIECES, max_size=4), st.permutations(EVERY))
@settings(max_examples=120, deadline=None)
def test_a_second_pass_changes_nothing(texts, order):
    once, log = clean_texts(texts, order)
    again, second = clean_texts(once, order)
    assert again == once and not second.dropped and not any(c for _, c, *_ in second.rows)
    assert len(log.kept) == len(once) and log.n == len(texts)


def test_text_about_html_survives_the_default_rules():
    about = "Write &lt;p&gt; to start a paragraph and &lt;b&gt; for bold."
    assert clean_texts([about, "<p>Write &amp;lt;p&amp;gt; here</p>", "fish &amp;amp; chips"])[0] == [about, "Write &lt;p&gt; here", "fish & chips"]


def test_a_frame_is_cleaned_by_its_column():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"label": [1, 0], "text": ["a &amp; b", "c"]})
    assert clean_texts(frame)[0] == ["a & b", "c"] == clean_texts(frame["text"].iloc[::-1].iloc[::-1])[0]
    with pytest.raises(ValueError, match="no column 'text': the data has label"):
        clean_texts(frame[["label"]])


def test_the_log_counts_rows_and_shows_them():
    out, log = clean_texts(["a  b", "c", " ", "<b>d</b>  e"])
    assert out == ["a b", "c", "d e"] and log.kept == (0, 1, 3) and log.dropped == 1
    table = log.to_pandas().set_index("rule")
    assert table.changed.to_dict() == {"html": 1, "control": 0, "width": 0, "whitespace": 3, "empty": 0} and table.dropped["empty"] == 1
    assert log.rows[0][3] == ((3, "<b>d</b>  e", "d  e"),)
    assert "<b>" not in clean_texts(["<b>x</b>"])[1]._repr_html_()


def test_language_drops_what_it_is_sure_of():
    rows = ["The film was rather long and I did not like it very much.", "这部电影的音乐很美，但是故事不好看，演员也不好，我不喜欢。", "ok"]
    out, log = clean_texts(rows, [Language("en")])
    assert log.kept == (0, 2) and log.to_pandas().dropped[0] == 1
    assert clean_texts(rows, [Language(("en", "zh"))])[1].dropped == 0


def test_a_language_without_a_code_is_refused():
    for wrong in ("EN", ("en", "english"), "zh-cn"):
        with pytest.raises(ValueError, match="no code '(EN|english|zh-cn)'"):
            Language(wrong)


def test_a_rule_that_never_rests_drops_the_row_and_says_so():
    out, log = clean_texts(["a"], [lambda t: t + "a"])
    assert out == [] and ("unstable", 1) in {(r, d) for r, _, d, _ in log.rows}


def test_faults():
    with pytest.raises(ValueError, match="no cleaning rule 'nfck'; known: "):
        Clean(("nfck",))
    with pytest.raises(ValueError, match="Language"):
        Clean(("language",))
    with pytest.raises(TypeError, match="row 1 is a NoneType"):
        clean_texts(["a", None])
    with pytest.raises(TypeError, match="one string"):
        clean_texts("abc")
    assert clean_texts([])[0] == [] and Clean("width").rules == ("width",) and Clean().rules == DEFAULT


def test_outliers_find_planted_rows_and_the_rare_class_alike():
    texts = [r["text"] for r in sources.toy_world(concepts=60, synonyms=4, polar=20).sample(300, seed=0)]
    noise, pasted, rare = ["qxzq#kvj%wyqx zzqk"] * 3, [texts[0] * 40], ["这部电影很好看，演员也好"]
    got = clean.outliers(texts + noise + pasted + rare)
    assert {300, 301, 302, 303, 304} <= set(got.row) and got.z.is_monotonic_decreasing and (got.row < 300).sum() <= 15
    assert {303} <= set(got[got.why == "length"].row) and {304} <= set(got[got.why == "surprise"].row)


def test_an_odd_row_among_equal_ones_is_an_outlier():
    found = clean.outliers(["yes"] * 60 + ["no"] * 20 + ["x" * 100_000])
    assert found.row.tolist()[0] == 80 and set(found[found.why == "length"].row) == {80}
    assert 60 in set(clean.outliers([f"{i:05d}" for i in range(60)] + ["zq" * 50_000]).query("why == 'length'").row)


def test_surprise_by_hand():
    # "ab", "ac" by single characters: of "ab" the other row holds a and c; a: (1 + 1) / (2 + 3), b: (0 + 1) / (2 + 3)
    assert np.allclose(clean.surprise(["ab", "ac"], 1)[0], -(np.log2(2 / 5) + np.log2(1 / 5)) / 2)
    assert clean.surprise(["", "ab"])[0] == 0 and len(clean.outliers([])) == 0 and len(clean.outliers(["same"] * 9)) == 0
    with pytest.raises(ValueError, match="threshold"):
        clean.outliers(["a"], 0)
    with pytest.raises(TypeError, match="one string"):
        clean.outliers("a")
