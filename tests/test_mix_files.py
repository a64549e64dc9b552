"""Mixtures written to files, and the command `diversity-kit mix`."""
import gzip
import json

import pytest

from diversity_kit.cli import main
from diversity_kit.fusion.mixture import Mixture, Source, write_rows


def make(**kw):
    a = [{"id": f"a{i}", "text": f"a {i}"} for i in range(70)]
    b = [{"id": f"b{i}", "text": f"乙 {i}"} for i in range(9)]
    return Mixture({"a": Source(a, max_repeats=2), "b": Source(b, max_repeats=2)}, temperature=2, **kw)


def read(*paths):
    return [json.loads(x) for p in paths for x in p.read_bytes().splitlines()]


def test_files_hold_the_stream_whatever_the_shards_and_ids_are_unique(tmp_path):
    one = write_rows(make(seed=3), tmp_path / "one.jsonl")
    rows, stream = read(*one), list(make(seed=3))
    assert [(r["text"], r["source"], r["parent"], r["repeat"]) for r in rows] == [(r["text"], r["source"], r["parent"], r["repeat"]) for r in stream]
    assert len({r["id"] for r in rows}) == len(rows) == 158 and rows[0]["id"] == f"{rows[0]['source']}/{rows[0]['parent']}"
    used = make(seed=3)
    next(iter(used))                                                 # what was iterated before does not matter
    shards = write_rows(used, tmp_path / "cut", shard_rows=50)
    assert [p.name for p in shards] == ["00000.jsonl", "00001.jsonl", "00002.jsonl", "00003.jsonl"]
    assert b"".join(p.read_bytes() for p in shards) == one[0].read_bytes()
    packed = write_rows(make(seed=3), tmp_path / "one.jsonl.gz")[0].read_bytes()
    assert gzip.decompress(packed) == one[0].read_bytes() and packed == write_rows(make(seed=3), tmp_path / "two.jsonl.gz")[0].read_bytes()


def test_the_receipt_lies_beside(tmp_path):
    write_rows(make(), tmp_path / "o.jsonl", rows=100)
    told = json.loads((tmp_path / "o.jsonl.receipt.json").read_text(encoding="utf-8"))
    rows = read(tmp_path / "o.jsonl")
    assert told["rows"] == len(rows) == 100 and told["plan"] == make().plan_hash()
    assert told["sources"]["b"]["rows"] == sum(r["source"] == "b" for r in rows)


def test_odd_text_survives(tmp_path):
    m = Mixture({"a": [{"text": "\ud800 🙂\n\u2028"}, {"text": ""}]}, temperature=1, steps=2)
    assert sorted(r["text"] for r in read(write_rows(m, tmp_path / "o.jsonl")[0])) == ["", "\ud800 🙂\n\u2028"]


@pytest.mark.parametrize("name, kw, match", [("o.csv", {}, "must end in .jsonl"), ("o.jsonl", {"rows": 0}, "at least 1"), ("o", {"shard_rows": 0}, "at least 1"), ("there", {"shard_rows": 5}, "there already")])
def test_faults_leave_nothing(tmp_path, name, kw, match):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=match):
        write_rows(make(), tmp_path / name, **kw)
    with pytest.raises(ValueError, match="no end"):
        write_rows(Mixture({"a": [{"text": "x"}]}, temperature=1), tmp_path / "o.jsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_a_source_that_fails_midway_leaves_no_half_file(tmp_path):
    class Broken(list):
        def __getitem__(self, i):
            if i == 2500:
                raise OSError("disk gone")
            return super().__getitem__(i)
    m = Mixture({"a": Broken({"text": str(i)} for i in range(3000))}, temperature=1, steps=3000)
    with pytest.raises(RuntimeError, match="disk gone"):
        write_rows(m, tmp_path / "o.jsonl")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": i, "text": f"a {i}"}) + "\n" for i in range(60)))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as f:
        f.writelines(json.dumps({"text": f"乙 {i}"}, ensure_ascii=False) + "\n" for i in range(6))      # no ids: the line's number
    return tmp_path


def test_command(files, capsys):
    a, b, out = (str(files / n) for n in ("a.jsonl", "b.jsonl.gz", "o.jsonl"))
    assert main(["mix", a, b, out]) == 0
    rows = read(files / "o.jsonl")
    assert len(rows) == 66 and {r["source"] for r in rows} == {"a", "b"} and "every source is used up" in capsys.readouterr().out
    assert main(["mix", a, f"zh={b}", str(files / "d"), "--unimax", "3", "--rows", "40", "--shard-rows", "30", "--seed", "2"]) == 0
    rows = read(*sorted((files / "d").iterdir()))
    assert len(rows) == 40 and sum(r["source"] == "zh" for r in rows) == 18          # three passes over six
    assert main(["dedup", str(files / "o.jsonl"), str(files / "u.jsonl"), "--backend", "serial"]) == 0
    assert main(["mix", a, f"zh={b}", str(files / "w.jsonl"), "--weights", "a=3,zh=1", "--rows", "20"]) == 0
    assert sum(r["source"] == "zh" for r in read(files / "w.jsonl")) == 5


@pytest.mark.parametrize("words, match", [(["--weights", "a=1"], "name every source"), (["--temperature", "0"], "above 0"), (["--unimax", "2"], "needs --rows"), (["--weights", "a=-1,b=1"], "below 0")])
def test_command_faults(files, capsys, words, match):
    assert main(["mix", str(files / "a.jsonl"), f"b={files / 'b.jsonl.gz'}", str(files / "o.jsonl"), *words]) == 2
    assert match in capsys.readouterr().err and not (files / "o.jsonl").exists()


def test_command_refuses_to_write_over_its_input_and_equal_names(files, capsys):
    a = str(files / "a.jsonl")
    assert main(["mix", a, a]) == 2 and "written over" in capsys.readouterr().err
    assert main(["mix", a, a, str(files / "o.jsonl")]) == 2 and "'a'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["mix", a, "o.jsonl", "--temperature", "2", "--unimax", "2"])


@pytest.mark.parametrize("sources, words", [({"a": [{"id": "x", "text": "1"}, {"id": "x", "text": "2"}]}, "source 'a': the id 'x'"), ({"a": [{"id": 1, "text": "1"}, {"id": "1", "text": "2"}]}, "the id '1'"),
                                            ({"a": [{"id": "x~1", "text": "1"}, {"id": "x", "text": "2"}]}, "the id 'x~1'"), ({"a": [{"id": "b/c", "text": "1"}], "a/b": [{"id": "c", "text": "2"}]}, "sources 'a' and 'a/b'")])
def test_ids_that_two_rows_would_share_are_refused_before_anything_is_written(sources, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        write_rows(Mixture(sources, temperature=1, steps=4), tmp_path / "o.jsonl")
    assert list(tmp_path.iterdir()) == []
    write_rows(Mixture({"card/a": [{"id": "x~1", "text": "1"}, {"id": "y", "text": "2"}], "card/b": [{"id": "x", "text": "1"}]}, temperature=1, steps=6), tmp_path / "o.jsonl")
    assert len({r["id"] for r in map(json.loads, open(tmp_path / "o.jsonl"))}) == 6
