"""Deduplication: against brute force, no chains, one of each cluster stays, older corpus, sources, faults."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.data import dedup as D
from diversity_kit.data.dedup import SourceAlarm, bands, exact_duplicates, grams, near_duplicates, semantic_duplicates, signatures


def sets(texts):
    g = grams(texts)
    return [set(g.flat[a:b].tolist()) for a, b in zip(g.start, g.start[1:])]


def jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else 1.


def corpus(n, seed, edit=.04):
    rng = np.random.default_rng(seed)
    word = lambda: f"w{int(3000 * rng.random()**2)}"
    base = [[word() for _ in range(rng.integers(5, 60))] for _ in range(n)]
    made = [[word() if rng.random() < edit else w for w in base[i]] for i in rng.integers(0, n, n // 2)]
    every = [" ".join(t) for t in base + made]
    return [every[i] for i in rng.permutation(len(every))]


@pytest.mark.parametrize("threshold", [.5, .8])
def test_every_removed_row_names_a_kept_row_with_its_exact_score(threshold):
    texts = corpus(600, 1)
    d, s = near_duplicates(texts, threshold), sets(texts)
    assert not set(d.removed.tolist()) & set(d.kept.tolist()) and len(d.removed) > 50
    for i, j, c in zip(d.removed, d.kept, d.score):
        assert j < i and c >= threshold - 1e-12 and abs(jaccard(s[i], s[j]) - c) < 1e-12


def test_recall_against_all_pairs():
    texts = corpus(500, 2, .08)
    s, kept, gone = sets(texts), [], 0
    for i in range(len(texts)):                                      # greedy over all pairs
        if any(jaccard(s[i], s[j]) >= .6 for j in kept):
            gone += 1
        else:
            kept.append(i)
    found = len(near_duplicates(texts, .6).removed)
    assert .97 * gone <= found <= gone and gone > 50


@given(st.lists(st.sampled_from(["a b c d e f", "A b c d e f!", "a b c d e f g", "x y z", "", " ", "图书馆今天不开门", "图书馆今天不开门。", "z"]), max_size=12))
@settings(max_examples=60, deadline=None)
def test_one_of_each_cluster_stays_and_nothing_is_left_for_a_second_pass(texts):
    d = near_duplicates(texts, .7)
    keys, kept = grams(texts).key, d.kept_index.tolist()
    assert {keys[i] for i in kept} == {keys[i] for i in kept} and len({keys[i] for i in kept}) == len(kept)
    s = sets(texts)
    assert all(any(jaccard(s[i], s[j]) >= .7 - 1e-12 for j in kept) for i in range(len(texts)))
    assert not len(near_duplicates([texts[i] for i in kept], .7).removed)


def test_a_chain_keeps_its_far_end():
    words = [f"w{i}" for i in range(60)]
    texts = [" ".join(words[k:k + 40]) for k in (0, 6, 12)]                        # neighbours alike, ends not
    s = sets(texts)
    assert jaccard(s[0], s[1]) > .7 > jaccard(s[0], s[2])
    d = near_duplicates(texts, .7)
    assert d.removed.tolist() == [1] and d.kept.tolist() == [0]


def test_equal_rows_of_a_near_copy_name_the_kept_row_too():
    a = " ".join(f"w{i}" for i in range(40))
    d = near_duplicates([a, a + " x", a.upper() + " x.", a], .8)
    assert d.removed.tolist() == [1, 2, 3] and d.kept.tolist() == [0, 0, 0] and d.score[2] == 1 and d.score[0] == d.score[1] < 1


def test_against_an_older_corpus():
    a, b, c = (" ".join(f"{k}{i}" for i in range(30)) for k in "abc")
    d = near_duplicates([b + " x", c, c], .8, against=[a, b, a])
    assert d.removed.tolist() == [0, 2] and d.kept.tolist() == [1, 1] and d.older.tolist() == [True, False] and d.n == 3
    e = exact_duplicates([c, b], against=[a, b])
    assert e.removed.tolist() == [1] and e.older.all()


def test_unspaced_scripts_are_compared_by_characters():
    base = "这家酒店的房间很干净，服务员的态度也很好，下次来北京还会住在这里，推荐给大家。"
    texts = [base, base.replace("推荐给大家", "推荐给朋友"), "这本书的内容很无聊，看了两页就不想再看下去了，完全是浪费时间和金钱。"]
    assert near_duplicates(texts, .6).removed.tolist() == [1]
    thai = "ร้านอาหารนี้อร่อยมากและพนักงานบริการดีมากจะกลับมาอีกแน่นอน"
    assert near_duplicates([thai, thai + "ครับ", "สวัสดีตอนเช้าวันนี้อากาศดี"], .6).removed.tolist() == [1]


def test_vowel_signs_tell_words_apart():
    pair = ["मैं आज बाजार जाता हूँ", "मैं आज बाजार जाती हूँ"]                           # he goes, she goes
    assert not len(exact_duplicates(pair, normalised=True).removed) and not len(near_duplicates(pair).removed)
    assert D._tokens("की का, कि") == ["की", "का", "कि"] and len(exact_duplicates([pair[0], pair[0] + "!"], normalised=True).removed) == 1


def test_mixed_scripts_have_no_tipping_point():
    zh, en = "我们在服务器上部署模型并记录每一次请求的延迟和错误率然后写入日志", " deploy the model on servers now"
    for k in range(20, 33):                                          # half of the letters are Chinese at about 27
        assert near_duplicates([zh[:k] + en, zh[:k + 1] + en], .5).removed.tolist() == [1], k
    alone, page = sets([zh, "He wrote the words " + zh + " and we thanked him."])
    assert alone <= page and len(sets(["我们 model 了"])[0]) == 1 and sets(["我 a b c"]) != sets(["我 a b d"])


def test_sketch_estimates_jaccard():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in range(s, s + 200)) for s in (0, 20, 60, 120)]
    sig, s = signatures(grams(texts), 2048, seed=int(rng.integers(100))), sets(texts)
    for j in (1, 2, 3):
        assert abs((sig[0] == sig[j]).mean() - jaccard(s[0], s[j])) < .06


def test_bands_reach_their_recall():
    for t in (.3, .5, .7, .8, .9, .95):
        b, r = bands(t)
        assert 1 - (1 - t**r)**b >= .98 and b * r <= 128
    with pytest.raises(ValueError, match="threshold"):
        bands(0)


def test_sources_and_alarm():
    texts = ["a b c d"] * 9 + [f"k{i} l{i} m{i} n{i}" for i in range(10)]
    with pytest.warns(SourceAlarm, match="bad"):
        d = near_duplicates(texts, sources=["bad"] * 9 + ["good"] * 10)
    assert d.per_source().set_index("source").removed.to_dict() == {"bad": 8, "good": 0} and d.alarms == ["bad"]
    with pytest.raises(ValueError, match="19 texts but 1 sources"):
        near_duplicates(texts, sources=["a"])


def test_crowded_buckets_are_bounded_and_counted():
    texts = [" ".join(f"t{i}" for i in range(20)) + " " + " ".join(f"u{k}x{i}" for i in range(30)) for k in range(400)]
    d = near_duplicates(texts, .5, limit=8)
    assert d.limited > 0 and len(d.removed) == 0 and "crowded" in repr(d)


def test_blocks_do_not_change_what_is_copied():
    texts = corpus(2500, 5)
    d = near_duplicates(texts, .7)
    s = sets(texts)
    assert all(jaccard(s[i], s[j]) >= .7 - 1e-12 for i, j in zip(d.removed, d.kept)) and len(d.removed) > 300
    whole, small = grams(texts), grams(texts, block=7)
    assert (whole.flat == small.flat).all() and (whole.start == small.start).all() and whole.key == small.key
    assert (signatures(whole, 16) == signatures(whole, 16, block=50)).all()


def test_semantic_takes_any_encoder():
    place = {"a": [1, 0], "b": [.999, .02], "c": [0, 1], "": [0, 0]}
    d = semantic_duplicates(["a", "c", "b", "", "", "a"], lambda t: np.array([place[x] for x in t]), .95, block=2)
    assert d.removed.tolist() == [2, 5] and d.kept.tolist() == [0, 0] and d.score[1] == 1
    e = semantic_duplicates(["b", "c"], lambda t: np.array([place[x] for x in t]), .95, against=["a", "a"])
    assert e.removed.tolist() == [0] and e.older.all()
    with pytest.raises(ValueError, match="shape"):
        semantic_duplicates(["a"], lambda t: np.zeros(3))


def test_a_frame_by_its_column_and_a_series_by_position():
    import pandas as pd
    texts = ["alpha beta gamma delta", "one two three four five", "ALPHA beta gamma delta!", "six seven eight nine"]
    frame = pd.DataFrame({"label": [0] * 4, "text": texts}, index=[3, 2, 1, 0])
    for data in (frame, frame["text"], texts):
        found = near_duplicates(data)
        assert (found.removed.tolist(), found.kept.tolist()) == ([2], [0])
        shown = found.to_pandas(data)
        assert (shown.text[0], shown.repeats[0]) == (texts[2], texts[0])
    assert near_duplicates(frame, against=frame).older.all()


def test_faults_and_empty_input():
    assert near_duplicates([]).n == 0 and near_duplicates([]).share == 0 and len(exact_duplicates(["", ""]).removed) == 1
    assert near_duplicates(["", "", "!?"]).removed.tolist() == [1]
    with pytest.raises(TypeError, match="row 1 is a float"):
        near_duplicates(["a", float("nan")])
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates(["a"], threshold=1.5)
    assert len(near_duplicates(["字" * 300_000, "word " * 200_000, "\ud800 x y z"]).removed) == 0
    assert repr(near_duplicates(["a b", "a b"])).startswith("Duplicates(1 of 2") and D.near_duplicates(["a", "a"]).to_pandas(["a", "a"]).repeats[0] == "a"
