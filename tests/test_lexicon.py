"""augment.lexicon: tables, rules and SynonymReplace. The built-in tables are tested where their cards are in the cache."""
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit.augment import lexicon as L
from diversity_kit.augment.base import Compose, Protect, Swap, Transform, Words, apply, word_hashes
from diversity_kit.augment.lexicon import FUNCTION_WORDS, Lexicon, SynonymReplace, article, substitute
from diversity_kit.data.sources import available

needs = lambda *cards: pytest.mark.skipif(not all(map(available, cards)), reason=f"{', '.join(cards)}: not in the cache")
english, chinese = needs("wordnet", "vader_lexicon"), needs("cilin")
USER = {"love": ["enjoy", "adore"], "coding": ["programming"], "motion picture": ["movie", "film"], "car": ["automobile"], "house": ["abode"]}
WORD = st.text("abcdeé电影", min_size=1, max_size=3).filter(lambda w: w.lower() not in FUNCTION_WORDS["en"] and w not in FUNCTION_WORDS["zh"])


def groups(lexicon):
    return lexicon._table.groups()[0]


# ---------------------------------------------------------------- user lexicons

@settings(max_examples=60, deadline=None)
@given(st.dictionaries(WORD, st.lists(WORD, min_size=1, max_size=4), max_size=8))
def test_table_holds_the_mapping_symmetric_and_without_self(mapping):
    lex = Lexicon(mapping, function_words=True)
    want = {}
    for a, bs in mapping.items():
        for b in bs:
            if a.lower() != b.lower():
                want.setdefault(a.lower(), set()).add(b.lower())
                want.setdefault(b.lower(), set()).add(a.lower())
    got = {w.lower(): {c.lower() for c in lex.synonyms(w)} for w in lex}
    assert got == want and len(lex) == len(want)
    assert all(w in lex and w.upper() in lex for w in want) and "zzz" not in lex and lex.synonyms("zzz") == ()


def test_find_agrees_with_a_dict_when_addresses_collide():
    rng = np.random.default_rng(0)
    top = rng.integers(0, 50, 400).astype(np.uint64) << np.uint64(64 - L._BITS)
    hashes = np.unique(top | rng.integers(0, 1 << 40, 400).astype(np.uint64))
    n = len(hashes)
    table = L._Table(hashes=hashes, flags=np.zeros(n, np.uint8), key=np.arange(n, dtype=np.int32), begin=np.arange(n + 1, dtype=np.int32),
                     cand=np.arange(n, dtype=np.int32), bounds=np.arange(n + 1, dtype=np.int32), blob=np.full(n, 97, np.uint8))
    assert table.depth > 3
    absent = np.setdiff1d(top | rng.integers(0, 1 << 40, 400).astype(np.uint64), hashes)
    assert table.find(hashes).tolist() == list(range(n)) and set(table.find(absent).tolist()) == {n}
    assert table.find(np.array([0, 2**64 - 1], np.uint64)).tolist() == [n, n]


def test_one_edit_reaches_both_sentences_and_nothing_else():
    one = SynonymReplace(1 / 3, Lexicon({"love": ["enjoy"], "coding": ["programming"]}))
    assert {one(["I love coding"], seed=s)[0] for s in range(100)} == {"I love programming", "I enjoy coding"}


def test_symmetric_can_be_switched_off():
    assert Lexicon({"car": ["auto"]}, symmetric=False).synonyms("auto") == () and Lexicon({"car": ["auto"]}).synonyms("auto") == ("car",)


def test_lemma_keys_are_inflected():
    pytest.importorskip("lemminflect")
    lex = Lexicon({("code", "verb"): ["program"], ("write", "verb"): ["compose"], ("film", "noun"): ["movie"], ("large", "adj"): ["big"]})
    want = {"code": ("program",), "coded": ("programmed",), "coding": ("programming",), "codes": ("programs",), "wrote": (), "writing": ("composing",),
            "films": ("movies",), "larger": ("bigger",), "biggest": ("largest",)}
    assert {w: lex.synonyms(w) for w in want} == want


@pytest.mark.parametrize("mapping, error, words", [
    ({"": ["x"]}, ValueError, "empty"), ({"a  b": ["x"]}, ValueError, "single"), ({"x": ["or"]}, ValueError, "'or' is a function word"),
    ({"的": ["x"]}, ValueError, "function word"), ({"a b c d e": ["x"]}, ValueError, "more than 4 words"), ({"x": "film"}, TypeError, "list of words"),
    ({("code", "x"): ["y"]}, ValueError, "neither"), (["film"], TypeError, "mapping"), ({"x": [1]}, TypeError, "list of words")])
def test_faults_of_a_mapping(mapping, error, words):
    with pytest.raises(error, match=words):
        Lexicon(mapping)


@pytest.mark.parametrize("options, words", [({"sense": 1}, "no option 'sense'"), ({"senses": 0}, "senses"), ({"pos": "x"}, "pos"), ({"pos": ()}, "pos"),
                                            ({"pos_share": 2}, "between 0 and 1"), ({"min_count": -1}, "min_count"), ({"senses": True}, "senses")])
def test_faults_of_wordnet_options(options, words):
    with pytest.raises(ValueError, match=words):
        Lexicon.wordnet(**options)


def test_other_faults():
    with pytest.raises(ValueError, match="between 0 and 1"):
        Lexicon(USER).corrupt(1.5)
    with pytest.raises(TypeError, match="lexicon is a int"):
        SynonymReplace(.1, 3)
    with pytest.raises(ValueError, match="unknown kind"):
        SynonymReplace(.1, ("nonsense",))(["a b"])
    with pytest.raises(ValueError, match=r"shape \(2,\) for 3 words"):
        Lexicon.neighbours(["x", "y", "z"], lambda ws: np.zeros(2))
    with pytest.raises(ValueError, match="rate"):
        SynonymReplace(3, Lexicon(USER))


def test_neighbours_are_mutual():
    points = {"p": (1, 0), "q": (1, .1), "r": (1, .3), "s": (0, 1)}
    lex = Lexicon.neighbours(list(points), lambda ws: np.array([points[w] for w in ws]), k=1, min_cosine=.5)
    assert {w: lex.synonyms(w) for w in lex} == {"p": ("q",), "q": ("p",)}
    assert len(Lexicon.neighbours(list(points), lambda ws: np.array([points[w] for w in ws]), k=3, min_cosine=.999)) == 0


def test_union_keeps_the_left_candidates_first():
    both = Lexicon({"car": ["auto"]}) | Lexicon({"car": ["motor", "auto"], "电影": ["影片"]})
    assert both.synonyms("car") == ("auto", "motor") and both.synonyms("影片") == ("电影",) and both.language == "en, zh" and len(both) == 5
    assert repr(both) == "Lexicon(1 words, en) | Lexicon(2 words, en, zh)"
    assert both.licence == "the user's own"


def test_corrupt_replaces_that_share_and_nothing_of_the_group():
    base = Lexicon({f"w{i}": [f"w{i + 1}", f"w{i + 2}"] for i in range(0, 600, 3)}, function_words=True)
    wrong, own = base.corrupt(.3, seed=1), groups(base)
    same = [c in own[w] for w in base for c in wrong.synonyms(w)]
    assert .25 < 1 - np.mean(same) < .35 and all(w not in wrong.synonyms(w) for w in base)
    assert groups(base.corrupt(0.)) == own and groups(base.corrupt(.3, 1)) == groups(wrong) != groups(base.corrupt(.3, 2))
    assert not any(c in own[w] for w in base for c in base.corrupt(1.).synonyms(w))


# ---------------------------------------------------------------- the transform

TEXT = st.lists(st.sampled_from("a an An car Car CAR house motion picture motion-picture movie love coding, zap . é 电影 \n I the".split(" ")), max_size=12).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(st.lists(TEXT, max_size=5), st.floats(0, 1), st.integers(0, 9))
def test_traces_are_exact_and_rows_independent(texts, rate, seed):
    t = SynonymReplace(rate, Lexicon(USER))
    out, edits = t(texts, seed=seed), t.trace(texts, seed=seed)
    assert [apply(x, e) for x, e in zip(texts, edits)] == out
    assert [t([x], seed=seed)[0] for x in texts] == out
    assert all(e.before != e.after for es in edits for e in es)


def test_rate_is_a_share_of_all_words_capped_at_those_with_a_synonym():
    texts = ["love zap zap coding zap car zap zap zap zap"] * 4000
    edits = [len(e) for e in SynonymReplace(.13, Lexicon(USER)).trace(texts, ids=range(4000))]
    assert set(edits) == {1, 2} and abs(np.mean(edits) - 1.3) < .04
    assert {len(e) for e in SynonymReplace(.9, Lexicon(USER)).trace(texts, ids=range(4000))} == {3}


def test_candidates_are_drawn_evenly():
    after = SynonymReplace(1., {"love": ["enjoy", "adore", "cherish"]})(["love"] * 3000, ids=range(3000))
    count = [after.count(w) for w in ("enjoy", "adore", "cherish")]
    assert sum(count) == 3000 and max(abs(c - 1000) for c in count) < 130


@pytest.mark.parametrize("text, want", [
    ("Car", "Automobile"), ("CAR", "AUTOMOBILE"), ("a car.", "an automobile."), ("A car", "An automobile"), ("A CAR", "An AUTOMOBILE"), ("an (car)", "an (automobile)"),
    ("an abode", "a house"), ("a, car", "a, automobile"), ("a\ncar", "a\nautomobile"), ("a big car", "a big automobile"), ("motion car", "motion automobile"),
    ("car's", "car's"), ("a  car", "a  automobile"), ("vitamin a car", "vitamin an automobile")])
def test_case_and_article(text, want):
    assert SynonymReplace(1., {"car": ["automobile"], "house": ["abode"]})([text]) == [want]


def test_an_article_that_is_itself_replaced_is_left_to_its_own_edit():
    t = SynonymReplace(1., Lexicon({"a": ["one"], "car": ["automobile"]}, symmetric=False, function_words=True))
    assert t(["a car"]) == ["one automobile"] and len(t.trace(["a car"])[0]) == 2


def test_longest_entry_first_without_overlaps():
    lex = Lexicon({"motion picture": ["movie"], "picture": ["image"], "motion": ["move"], "picture house motion": ["x"]}, symmetric=False)
    w = Words(["motion picture house", "motion\npicture", "motion picture house motion", "Motion Picture", "a motion", "motion, picture"])
    m = lex.candidates(w)
    assert [w.joined[a:b] for a, b in zip(m.start, m.end)] == ["motion picture", "motion", "picture", "motion", "picture house motion", "Motion Picture", "motion",
                                                               "motion", "picture"]
    assert lex.draw(m.entry, np.zeros(len(m.entry))) == ["movie", "move", "image", "move", "x", "movie", "move", "move", "image"]
    assert (np.diff(m.start) > 0).all() and (m.word == np.searchsorted(w.start, m.start)).all()
    empty = lex.candidates(Words(["", "zap"]))
    assert len(empty.start) == 0 and substitute(Words(["zap"]), empty, []).after == []


def test_protect_drops_the_edit_with_its_article():
    t = Protect(SynonymReplace(1., {"car": ["automobile"]}), ["car"])
    assert t(["a car"]) == ["a car"] and t.trace(["a car"]) == [[]]
    assert Protect(SynonymReplace(1., {"car": ["automobile"]}), [r"\ba\b"])(["a car, my car"]) == ["a car, my automobile"]


@pytest.mark.parametrize("lexicon", [None, Lexicon(USER), {"car": ["auto"]}, Lexicon.wordnet(senses=1, pos=("noun", "verb")), Lexicon.cilin(True),
                                     Lexicon.wordnet() | Lexicon(USER), Lexicon(USER).corrupt(.5, 3), {("code", "verb"): ["program"]}])
def test_round_trip_pickle_and_fingerprint(lexicon):
    t = Compose([SynonymReplace(.2, lexicon), Protect(Swap(.1), ["url"])])
    back = Transform.from_dict(json.loads(json.dumps(t.to_dict())))
    assert back == t == pickle.loads(pickle.dumps(t)) and back.fingerprint == t.fingerprint and hash(back.transforms[0]) == hash(t.transforms[0])
    assert len(repr(t.transforms[0])) < 120
    assert SynonymReplace(.2, {"car": ["auto", "motor"]}).fingerprint != SynonymReplace(.2, {"car": ["auto"]}).fingerprint


# ---------------------------------------------------------------- words and articles

def test_function_words():
    assert {"or", "in", "it", "will", "may", "nine", "who", "not", "nobody"} <= FUNCTION_WORDS["en"] and {"的", "因为", "我们", "三", "不"} <= FUNCTION_WORDS["zh"]
    assert all(w == w.lower() == w.strip() and " " not in w for ws in FUNCTION_WORDS.values() for w in ws)
    assert not FUNCTION_WORDS["en"] & {"movie", "good", "love", "enjoy"} and "电影" not in FUNCTION_WORDS["zh"]


def test_articles():
    assert {article(w) for w in "hour honest heir umbrella unimportant unidentified FBI MP X-ray 8 18 80 11th owl orange Uruk HTML M16".split()} == {"an"}
    assert {article(w) for w in "unit user European one once ewe NASA uniform 118 1 BBC house unanimous utopia".split()} == {"a"}


# ---------------------------------------------------------------- WordNet and Cilin

@english
def test_wordnet_is_symmetric_clean_and_small():
    lex = Lexicon.wordnet()
    g = groups(lex)
    assert 5000 < len(lex) == len(g) < 12_000
    assert all(a in g[b] for a, bs in g.items() for b in bs) and all(a not in bs and bs for a, bs in g.items())
    assert not any(w in FUNCTION_WORDS["en"] for a, bs in g.items() for x in (a, *bs) for w in x.split(" "))
    assert max(a.count(" ") for a in g) == 2 and any(" " in a for a in g)
    assert lex.language == "en" and "WordNet" in lex.licence and repr(lex) == "Lexicon.wordnet()"


@english
def test_wordnet_golden():
    lex = Lexicon.wordnet()
    want = {"movies": ("films", "motion pictures"), "motion picture": ("movie", "film"), "bought": ("purchased",), "bigger": ("larger",), "or": (), "will": (), "may": (),
            "good": (), "us": ()}
    assert {w: lex.synonyms(w) for w in want} == want
    valence = L._valences(L.path("vader_lexicon") / "vader_lexicon.txt")
    assert not any(valence.get(a, 0) * valence.get(b, 0) < 0 for a, bs in groups(lex).items() for b in bs)


@english
@chinese
def test_cached_tables_are_what_the_rules_build_today():
    pytest.importorskip("lemminflect")
    for built, lex in ((L._wordnet_groups(**L._OPTIONS), Lexicon.wordnet()), (L._cilin_groups(False), Lexicon.cilin())):
        assert {k: tuple(v) for k, v in built.items()} == groups(lex), "the rules have changed: raise _VERSION"


@english
@pytest.mark.parametrize("text, want", [("Bill met Rose. The movie won.", 1), ("Big movie", 2), ("THE BIG MOVIE", 2), ("We like Movie", 0), ("US forces BIG Ed", 0), ("Movies!", 1)])
def test_capitalised_words_inside_a_sentence_are_names(text, want):
    words = Words([text])
    assert sum(words.joined[a:b].lower() in ("big", "movie", "movies", "rose", "bill", "us") for a, b in zip(*Lexicon.wordnet().candidates(words)[:2])) == want


@english
def test_table_is_rebuilt_when_damaged_and_read_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(L.kit, "cache_dir", lambda *p: tmp_path)
    monkeypatch.setattr(L, "_wordnet_groups", lambda **o: {"car": ["auto"], "auto": ["car"]})
    spec = Lexicon.wordnet().spec
    assert len(L._make.__wrapped__(spec).hashes) == 2
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    assert L._Table.read(file) is None and len(L._make.__wrapped__(spec).hashes) == 2 and L._Table.read(file).groups()[0]["car"] == ("auto",)
    monkeypatch.setattr(L, "_wordnet_groups", None)
    assert len(L._make.__wrapped__(spec).hashes) == 2 and not list(tmp_path.glob(".*"))
    assert (L._Table.read(file).flags & L._NAMES).sum() == 2


@english
@chinese
def test_other_processes_agree():
    texts = ["The big movie was bought by a car company.", "昨天我们很愉快。"]
    code = f"from diversity_kit.augment.lexicon import SynonymReplace; print(ascii(SynonymReplace(.5)({texts!r}, seed=4)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}).stdout
    assert out.strip() == ascii(SynonymReplace(.5)(texts, seed=4)) and SynonymReplace(.5)(texts[:1], seed=4) == SynonymReplace(.5)(texts, seed=4)[:1]


@chinese
def test_cilin():
    lex = Lexicon.cilin()
    g = groups(lex)
    assert len(g) > 25_000 and all(a in g[b] and len(a) == len(b) > 1 for a, bs in g.items() for b in bs)
    assert not FUNCTION_WORDS["zh"] & set(g) and lex.language == "zh" and "academic" in lex.licence
    assert "快乐" in lex.synonyms("愉快") and len(Lexicon.cilin(ambiguous=True)) > len(g)
    t = SynonymReplace(1., lex)
    assert t.segment == "jieba" and t(["昨天很愉快"])[0].startswith("昨日很") and SynonymReplace(1., Lexicon(USER)).segment is None


def test_hashes_of_stretches_match_entries():
    w = Words(["the Motion Picture"])
    assert w.spans(np.array([w.start[1]]), np.array([w.end[2]])) == word_hashes(["motion picture"])


def test_a_generator_of_replacements_is_read():
    assert Lexicon({"film": (w for w in ["movie", "pic"])}).synonyms("film") == ("movie", "pic")


@pytest.mark.parametrize("key", ["U.S.", "St. Louis", "(film)", "what's up?", "..."])
def test_a_key_that_no_text_gives_is_refused(key):
    with pytest.raises(ValueError, match="cut otherwise in a text"):
        Lexicon({key: ["word"]})
    assert list(Lexicon({"word": [key]})) == ["word"]                              # as a replacement it is fine, there is no way back


def test_chinese_replacements_of_english_words_are_found_again():
    lex = Lexicon({"movie": ["电影"]})
    assert lex.language == "en, zh" and Lexicon({"movie": ["电影"]}, symmetric=False).language == "en" and Lexicon({"电影": ["影片"]}).language == "zh"
    pytest.importorskip("jieba")
    assert SynonymReplace(1., lex)(["这部电影好看", "a movie"]) == ["这部movie好看", "a 电影"]


def test_corrupt_refuses_a_lexicon_that_is_too_small():
    for small in (Lexicon({"film": ["movie"]}), Lexicon({"a1": ["b1", "c1", "d1"]})):
        with pytest.raises(ValueError, match="too few words that are no replacements of"):
            small.corrupt(1.)
    enough = Lexicon({"film": ["movie"], "car": ["auto"]})
    assert not any(c in enough.synonyms(w) for seed in range(20) for w in enough for c in enough.corrupt(1., seed).synonyms(w))


def test_a_capital_a_inside_a_sentence_is_a_letter():
    t = SynonymReplace(1., {"grade": ["evaluation"], "movie": ["amusement"]})
    texts = ["vitamin A grade", "A movie", "It ends. A movie", 'he said: "A movie"', "SEE A MOVIE", "Once A Movie", "see a movie"]
    assert t(texts) == ["vitamin A evaluation", "An amusement", "It ends. An amusement", 'he said: "An amusement"', "SEE AN AMUSEMENT", "Once An Amusement", "see an amusement"]


def test_other_languages_have_no_english_articles():
    assert SynonymReplace(1., Lexicon({"casa": ["abitazione"]}, language="it"))(["vai a casa"]) == ["vai a abitazione"]
    assert SynonymReplace(1., Lexicon({"casa": ["abitazione"]}, language="bengali"))(["vai a casa"]) == ["vai a abitazione"]


def test_articles_of_initialisms():
    assert [article(w) for w in "MRI LED FAQ HIV NRA FBI NASA MAN LADY HEAD HER RIVER LEG".split()] == ["an"] * 6 + ["a"] * 7
