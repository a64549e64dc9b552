"""Leakage: group splits, containment against brute force, the four rules, the guard, faults."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.data.dedup import grams
from diversity_kit.data.leakage import LeakageError, containment, copy_groups, group_split, guard, leakage_report


def corpus(n, seed, low=5, high=40):
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{int(400 * u**2)}" for u in rng.random(rng.integers(low, high))) for _ in range(n)]


def sets(texts):
    g = grams(texts)
    return [set(g.flat[a:b].tolist()) for a, b in zip(g.start, g.start[1:])]


@pytest.mark.parametrize("threshold", [.2, .5, .8, 1.])
def test_containment_equals_all_pairs(threshold):
    train = corpus(150, 0)
    rng = np.random.default_rng(1)
    test = corpus(60, 2) + [" ".join(w if rng.random() > .1 else "new" for w in t.split()) for t in train[:60]] + [f"so {t} it is" for t in corpus(20, 3)]
    train += [f"x y {t} z" for t in test[-20:]]
    found, A, B = containment(test, train, threshold, min_grams=1), sets(test), sets(train)
    keys = grams(train).key
    for i, a in enumerate(A):
        c = max(len(a & b) / len(a) for b in B)
        assert found.leaked[i] == (c >= threshold - 1e-12), (i, c)
        if found.leaked[i]:
            j = found.row[i]
            assert abs(found.score[i] - c) < 1e-12 and abs(len(a & B[j]) / len(a) - c) < 1e-12
    assert found.share > .1 and len(keys) == len(B)


def test_the_budget_changes_nothing():
    from diversity_kit.data import leakage as L
    train, test = corpus(80, 4), corpus(40, 4)
    T, b = grams(test).matrix(np.arange(40)), grams(train)
    best = lambda budget: {i: c for i, j, c in sorted(L._contained(T, b, np.arange(40), .3, budget), key=lambda r: r[2])}
    assert best(10) == best(5_000_000) and len(best(10)) == 40


def test_it_is_directed_and_short_rows_need_equality():
    quote, frame = corpus(1, 6, 20, 21)[0], " ".join(f"o{i}" for i in range(80))
    assert containment([quote], [frame, f"{frame} {quote}"]).row.tolist() == [1]
    assert not containment([f"{frame} {quote}"], [quote])
    assert not containment(["very good film"], ["a very good film indeed"]) and containment(["Very good film!"], ["x", "very good film"]).row[0] == 1
    assert containment(["图书馆今天不开门，请大家明天上午再来借书。"], ["通知：图书馆今天不开门，请大家明天上午再来借书，谢谢！"]).score[0] == 1
    assert not containment(["", "!"], ["", "?"])


def test_a_chinese_row_in_an_english_page_is_found_and_the_reverse():
    zh, en = "这部电影真的非常好看，我会推荐给所有的朋友们去看一看", "the plot is thin and the cast was bored all evening long but the music is fine"
    for row, page in ((zh, f"The customer wrote about the film last week the following words: {zh} and we thanked him for it"), (en, f"这位顾客上周在网上写了这样一段话：{en}。我们感谢他，也希望他以后常来。")):
        found = containment([row], ["nothing", page])
        assert found.row.tolist() == [1] and found.score[0] == 1
        with pytest.raises(LeakageError):
            guard([page], [row])


def test_equal_numbers_are_one_group_however_they_are_stored():
    n = list(range(300))
    a = group_split(n)
    for same in ([float(i) for i in n], np.array(n), np.array(n, float), np.array(n, np.int16)):
        assert (group_split(same) == a).all()
    b = group_split([(i, "a") for i in n])
    assert (group_split([(np.int64(i), np.str_("a")) for i in n]) == b).all() and (group_split([(float(i), "a") for i in n]) == b).all() and (a != b).any()
    assert group_split([.5, "x"], (1, 0, 0)).tolist() == ["train"] * 2


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_group_has_one_split_in_any_order(groups, seed):
    f = (.5, 0., .5)
    try:
        a = group_split(groups, f, seed)
    except ValueError as e:
        assert "too few" in str(e)
        return
    assert all(len(set(a[np.array(groups) == g])) == 1 for g in groups) and (group_split(groups[::-1], f, seed)[::-1] == a).all() and "validation" not in a


def test_shares_and_seeds():
    g = list(range(4000))
    a, b = group_split(g, seed=0), group_split(g, seed=1)
    assert abs((a == "test").mean() - .2) < .025 and abs((a == "train").mean() - .7) < .03 and .3 < (a == b).mean() < .75
    with pytest.raises(ValueError, match="row 1 has no group"):
        group_split(["a", None])
    with pytest.raises(ValueError, match="sum to 1"):
        group_split(["a"], (.5, .5, .5))
    with pytest.raises(ValueError, match="too few"):
        group_split(["a"] * 10)


def test_copies_share_a_group():
    t = corpus(30, 7, 20, 30)
    g = copy_groups(t + [x.upper() + "!" for x in t] + [x + " more" for x in t])
    assert g[:30] == g[30:60] == g[60:] and len(set(g)) == 30 and copy_groups(t + [t[0] + " more"], near=False)[30] != g[0]


def test_four_rules():
    train = corpus(200, 8, 25, 40)
    fresh = corpus(50, 9, 25, 40)
    kinds = {"same": train[:20], "case": [t.upper() for t in train[20:40]], "framed": [f"so he said that {t}" for t in train[40:60]],
             "edited": [" ".join("new" if i % 9 == 4 else w for i, w in enumerate(t.split())) for t in train[60:80]]}
    rep = leakage_report(train, sum(kinds.values(), []) + fresh, truth=[True] * 80 + [False] * 50)
    table = rep.to_pandas().set_index("rule")
    assert table.found.to_dict() == {"exact": .25, "normalised": .5, "13-gram": .75, "containment": 1.} and (table.false_alarms == 0).all()
    assert all((rep.leaks[r].row[rep.leaks[r].leaked] == np.flatnonzero(rep.leaks[r].leaked)).all() for r in table.index)
    with pytest.raises(ValueError, match="130 test rows but 1 truths"):
        leakage_report(train, fresh + train[:80], truth=[True])
    boiler = " ".join(f"b{i}" for i in range(15))
    two = leakage_report([f"{boiler} {t}" for t in train], [f"{boiler} {t}" for t in fresh], truth=[False] * 50).to_pandas().set_index("rule").false_alarms
    assert two["13-gram"] == 1 and two["containment"] < .5


def test_guard_raises_and_names_the_pair():
    train, test = corpus(50, 10, 20, 30), corpus(20, 11, 20, 30)
    assert not guard(train, test) and guard(train, test, groups=(range(50), range(50, 70))).share == 0
    with pytest.raises(LeakageError, match=r"1 of 21 test rows are in train: test row 20 .* 100% contained in training row 7 "):
        guard(train, test + [train[7] + "!"])
    assert guard(train, test + [train[7]], allow=1).leaked.sum() == 1
    with pytest.raises(LeakageError, match="1 groups are in train and in test, such as '49'"):
        guard(train, test, groups=(range(50), range(49, 69)))
    with pytest.raises(ValueError, match="groups of 1 and 1"):
        guard(train, test, groups=([1], [2]))


def test_the_guard_reads_frames_by_their_column():
    import pandas as pd
    texts = corpus(5, 12, 20, 30)
    frame = pd.DataFrame({"text": texts, "label": range(5)}, index=[10, 20, 30, 40, 50])
    with pytest.raises(LeakageError, match="5 of 5 test rows"):
        guard(frame, frame)
    with pytest.raises(ValueError, match="no column 'text': the data has review, label"):
        guard(frame.rename(columns={"text": "review"}), frame)
    found = containment(frame["text"], texts[3:])
    assert found.to_pandas(frame["text"], frame["text"].iloc[3:]).test_text.tolist() == texts[3:] == found.to_pandas(frame, frame[3:]).train_text.tolist()
    assert leakage_report(frame, frame).to_pandas().share.eq(1).all()


def test_empty_and_odd_input():
    assert not containment([], ["a"]) and not containment(["a b c"], []) and containment([], []).share == 0
    assert leakage_report([], ["a"]).to_pandas().leaked.sum() == 0 and leakage_report(["a"], []).to_pandas().share.sum() == 0
    with pytest.raises(ValueError, match="threshold"):
        containment(["a"], ["a"], 0)
    with pytest.raises(TypeError, match="row 0 is a NoneType"):
        guard(["a"], [None])
    same = ["字" * 100_000], ["x", "字" * 50_000]                     # one different 5-gram: too few to say anything
    assert not containment(*same) and containment(*same, min_grams=1).row[0] == 1
