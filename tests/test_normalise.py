"""Normalising: fixed points, golden texts, the scaler against closed forms, conflicts, leaving sources out, faults."""
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diversity_kit.fusion.normalise import STEPS, LeftOut, Normaliser, SourceScaler, conflicts, kept_rows, leave_one_out, source_auc

GOLD = [("it 's a `` fine '' film , they do n't say", 'it\'s a "fine" film, they don\'t say'),
        ("( not bad ) . really !", "(not bad). really!"),
        ("see http://a.b/c?d=1 @some_one", "see link user"),
        ("Tom &amp;amp; Jerry &lt;3", "tom & jerry <3"),
        ("这家 店 很 好 ，ＡＢＣ", "这家店很好,abc"),
        ("看http://t.cn/abc这家店很差", "看link这家店很差"), ("看http://t.cn/abc，这家店很差", "看link,这家店很差"), ("(see www.a.org/b.) 好", "(see link.) 好"),
        ("https://fr.wikipedia.org/wiki/Été!", "link!"), ("@王芳这家店很好吃，推荐大家来", "@王芳这家店很好吃,推荐大家来"), ("请@王芳 看，@anna看", "请user 看,user看"),
        ("@王芳：好 a@b.org", "user:好 a@b.org"), ("请发到anna@example.org谢谢你们", "请发到anna@example.org谢谢你们"),
        ("talking about ''Talk to Her.''", 'talking about "talk to her."'), ("a ''b'' c ''(d)'' e", 'a "b" c "(d)" e'), ("a `` b '' , c", 'a "b", c'),
        ("great :) so good ;) ok", "great :) so good ;) ok"), ("bad :( but no ;( ok", "bad :( but no ;( ok"), (":) :) :)", ":) :) :)"), ("x :] y :[ z , w", "x :] y :[ z, w"),
        ("see http://a.b/?x=1&copy=2&lt=3 AT&amp;T &notit; &#39;", "see link at&t &notit; '"),
        ("mail me@home.org", "mail me@home.org"), ("Straße ﬁne", "strasse fine"), ("", ""), (" \n ", "")]


@pytest.mark.parametrize("text, want", GOLD)
def test_golden_texts(text, want):
    assert Normaliser()([text]) == [want]


@given(st.text(max_size=60))
@example("&amp;amp;amp;lt;")
@example("a ,,  . n't 'S--")
@example("ẞ ŉ ǰ İ")
@settings(max_examples=300, deadline=None)
def test_normalising_twice_changes_nothing(text):
    once = Normaliser()([text])
    assert Normaliser()(once) == once


@pytest.mark.parametrize("step", list(STEPS))
def test_each_step_can_be_left_out(step):
    rest = Normaliser(tuple(s for s in STEPS if s != step))
    seen = {"entities": ("a &gt; b", "a &gt; b"), "unicode": ("ＡＢ", "ａｂ"), "links": ("www.x.org", "www.x.org"), "handles": ("@bo", "@bo"), "spacing": ("a , b", "a , b"), "case": ("AB", "AB")}
    text, want = seen[step]
    assert rest([text]) == [want] and Normaliser()([text]) != [want]


def test_two_styles_of_one_text_become_one():
    assert len(set(Normaliser()(["It doesn't work, really!", "it does n't work , really !", "IT DOESN'T  WORK,\nREALLY!"]))) == 1


def test_normaliser_faults_and_report():
    with pytest.raises(ValueError, match="caze"):
        Normaliser(("caze",))
    with pytest.raises(ValueError):
        Normaliser("case")
    with pytest.raises(TypeError, match=r"texts\[1\]"):
        Normaliser()(["a", None])
    with pytest.raises(TypeError, match="one string"):
        Normaliser()("ab")
    frame = Normaliser(("case", "links")).report({"a": ["X", "y"], "b": []})
    assert frame.loc["a", "case"] == 50 and frame.loc["b", "case"] == 0 and list(frame.columns) == ["links", "case"]


def test_scaler_removes_shift_and_scale_and_keeps_the_label_with_balanced_means():
    rng = np.random.default_rng(0)
    s = np.repeat(["a", "b"], 400)
    y = np.r_[rng.random(400) < .9, rng.random(400) < .1].astype(int)
    x = np.c_[2.0 * y + np.where(s == "a", 5, -5), np.ones(800)]
    z = SourceScaler.fit(x, s)(x, s)
    assert np.allclose([z[s == k].mean(0) for k in "ab"], 0) and np.allclose([z[s == k][:, 0].std() for k in "ab"], 1) and not z[:, 1].any()
    balanced = SourceScaler.fit(x, s, y)
    assert np.allclose(balanced.mean[:, 0], [6, -4])                 # a / 2 + b_s, whatever the shares
    v = balanced(x, s)[:, 0]
    assert v[y == 1].min() > 0 > v[y == 0].max()                     # one threshold for both sources
    assert z[(y == 1) & (s == "a"), 0].max() < z[(y == 1) & (s == "b"), 0].min() / 2      # the trap


def test_scaler_faults():
    x, s = np.zeros((4, 2)), ["a", "a", "b", "b"]
    with pytest.raises(ValueError, match="class 1"):
        SourceScaler.fit(x, s, [0, 1, 0, 0])
    for bad in ((x[:3], s, None), (np.full((4, 2), np.nan), s, None), (x, s, [0, 1])):
        with pytest.raises(ValueError):
            SourceScaler.fit(*bad)
    with pytest.raises(ValueError, match="'c' was not"):
        SourceScaler.fit(x, s)(x, ["a", "b", "c", "c"])


def test_source_auc_is_chance_for_one_source_cut_in_two_and_sure_for_two_scripts():
    rng = np.random.default_rng(0)
    latin = ["".join(rng.choice(list("abcdef "), 30)) for _ in range(240)]
    table = source_auc({"a": latin[:120], "b": latin[120:], "zh": ["".join(rng.choice(list("的一是不了人我"), 20)) for _ in range(120)]})
    assert abs(table.loc["a", "b"] - .5) < .15 and table.loc["a", "zh"] > .99 and np.isnan(table.loc["a", "a"])
    assert table.loc["zh", "b"] == table.loc["b", "zh"]
    with pytest.raises(ValueError, match="two"):
        source_auc({"a": latin})
    with pytest.raises(ValueError, match="'b' has 2 texts: 5 folds need 25"):
        source_auc({"a": latin, "b": ["x", "y"]})


def test_conflicts_finds_planted_pairs_only():
    long = "one two three four five six seven eight nine ten eleven twelve"
    texts = [long, long.upper() + "!", long + " thirteen", "short", "Short.", "something else entirely", long]
    found = conflicts(texts, [0, 1, 0, 1, 0, 1, None], list("aabbcca"))
    assert found[["a", "b"]].to_numpy().tolist() == [[0, 1], [1, 2], [3, 4]] and found.attrs["copies"] == 4
    assert (found["label_a"] != found["label_b"]).all() and found.loc[1, "containment"] >= .8
    assert not len(conflicts(["a", "a"], [1, 1], ["s", "t"])) and not len(conflicts([], [], []))
    with pytest.raises(ValueError, match="one of each"):
        conflicts(["a"], [1, 2], ["s"])


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 20), min_size=2), st.integers(0, 99), st.data())
def test_kept_rows_drops_as_many_in_both(sizes, seed, data):
    out = data.draw(st.sampled_from(sorted(sizes)))
    left, control = kept_rows(sizes, out, seed), kept_rows(sizes, out, seed, True)
    assert not len(left[out]) and sum(map(len, left.values())) == sum(map(len, control.values())) == sum(sizes.values()) - sizes[out]
    assert all(set(r) <= set(range(sizes[n])) and len(set(r)) == len(r) for n, r in control.items())


def test_leave_one_out_flags_the_harmful_source_and_spares_useful_ones():
    value = {"good": 1.0, "fine": 1.0, "bad": -2.0}
    score = lambda rows, seed: sum(value[n] * len(r) for n, r in rows.items()) / 30 + .05 * np.random.default_rng([seed, len(rows["bad"])]).normal()
    found = leave_one_out(dict.fromkeys(value, 30), score, 12)
    assert isinstance(found, LeftOut) and found.flagged == ["bad"] and found.frame.loc["good", "effect"] < 0
    null = leave_one_out(dict.fromkeys(value, 30), lambda rows, seed: float(np.random.default_rng([seed, *map(len, rows.values())]).normal()), 12)
    assert null.flagged == []
    with pytest.raises(ValueError):
        leave_one_out({"a": 3}, score)
    with pytest.raises(KeyError, match="no source 'z'"):
        kept_rows({"a": 1, "b": 1}, "z", 0)


@pytest.mark.parametrize("shares", [(.9, .1), (.9, .5), (.95, .3)])
def test_class_balanced_moments_hold_no_label_share(shares):
    y = np.concatenate([np.repeat([1, 0], [round(1000 * p), 1000 - round(1000 * p)]) for p in shares])
    s, noise = np.repeat(["a", "b"], 1000), np.random.default_rng(0).normal(size=2000)
    for sd in (0, 1):
        x = (2. * y + np.where(s == "a", 5., -5.) + sd * noise)[:, None]
        z = SourceScaler.fit(x, s, y)(x, s)[:, 0]
        gap = [z[(s == k) & (y == 1)].mean() - z[(s == k) & (y == 0)].mean() for k in "ab"]
        assert np.allclose(gap, 2 / (1 + sd) ** .5, rtol=.12) and np.allclose([z[(s == k) & (y == c)].mean() for k in "ab" for c in (0, 1)], [-gap[0] / 2, gap[0] / 2, -gap[1] / 2, gap[1] / 2])


def test_a_feature_that_is_constant_but_for_rounding_keeps_its_scale():
    x = np.full((1000, 3), [.1, .3, 1e6 + .1])
    for labels in (None, np.arange(1000) % 2):
        scaler = SourceScaler.fit(x, ["a"] * 1000, labels)
        assert scaler.scale.tolist() == [[1, 1, 1]] and abs(scaler(x, ["a"] * 1000)).max() < 1e-8
    assert SourceScaler.fit(np.array([[1e6], [1e6 + 1e-4]]), ["a", "a"]).scale[0, 0] == pytest.approx(5e-5, rel=1e-4)


@pytest.mark.parametrize("x, source", [(np.zeros((5, 2)), ["a"]), (np.zeros((1, 2)), list("aabbb")), (np.zeros((2, 2)), "ab"), (np.full((1, 2), np.nan), ["a"]), (np.zeros(2), ["a", "b"]), (np.zeros((2, 3)), ["a", "b"])])
def test_a_scaler_broadcasts_nothing(x, source):
    with pytest.raises(ValueError, match="source for each row|features"):
        SourceScaler.fit(np.arange(10.).reshape(5, 2), list("aabbb"))(x, source)


def test_texts_in_both_sources_share_a_fold():
    texts = [f"{a} {b} {c}" for a in ("the film", "a story", "this play") for b in ("is", "was", "seems") for c in ("good", "bad", "slow and dull", "warm", "odd")]
    assert source_auc({"a": texts, "b": texts}).loc["a", "b"] == .5
    assert source_auc({"a": texts, "b": [t.upper() + "!" for t in texts]}).loc["a", "b"] == 1


def test_labels_that_are_missing_or_of_two_types():
    assert not len(conflicts(["a b c", "a b c", "a b c"], [float("nan"), 1, None], list("stu")))
    with pytest.raises(TypeError, match="some are not"):
        conflicts(["a b c", "a b c"], ["1", 1], ["s", "t"])
    with pytest.raises(TypeError, match="not one string"):
        conflicts("abc", [0, 1, 0], list("xyz"))
