"""diversity-kit: what a wrong word is answered with (the commands' work is tested beside the functions they call)."""
import json

import pytest

from diversity_kit import cli, kit


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIVERSITY_KIT_RESULTS", raising=False)
    (tmp_path / "in.jsonl").write_text('{"id": 1, "text": "a b c"}\n')
    (tmp_path / "noid.jsonl").write_text('{"text": "a b c"}\n')
    return tmp_path


@pytest.mark.parametrize("words, says", [
    ("mix in.jsonl o --weights in", "--weights in: give NAME=NUMBER"), ("mix in.jsonl o --weights in=much", "--weights in=much: give NAME=NUMBER"),
    ("mix in.jsonl o --unimax 2", "--unimax needs --rows"), ("augment in.jsonl o.jsonl --transform {bad", "--transform {bad: no JSON"),
    ("augment in.jsonl o.jsonl --transform Protect", "--transform Protect: "), ("augment in.jsonl o.jsonl --transform Swp", "did you mean Swap?"),
    ("augment in.jsonl o.jsonl --transform xyz", "known are "), ("ledger nofolder", "nofolder is no folder"), ("serve nomodel", "nomodel is no saved model"),
    ("augment nofile.jsonl o.jsonl --transform Swap", "nofile.jsonl"), ("audit nofile.csv", "nofile.csv"), ("dedup noid.jsonl o.jsonl", "no field 'id'"),
])
def test_a_wrong_word_is_named_and_leaves_nothing_behind(here, capsys, words, says):
    before = sorted(p.name for p in here.rglob("*"))
    assert cli.main(words.split()) == 2
    told = capsys.readouterr()
    assert says in told.err and "Traceback" not in told.err and not told.out
    assert sorted(p.name for p in here.rglob("*")) == before


def test_a_transform_is_taken_by_name_and_by_its_json(here, capsys):
    from diversity_kit.augment.words import Swap
    for told in ("Swap", json.dumps(Swap(0.1).to_dict())):
        assert cli.main(["augment", "in.jsonl", "o.jsonl", "--transform", told, *(["--rate", "0.1"] if told == "Swap" else [])]) == 0
        assert len((here / "o.jsonl").read_text().splitlines()) == 2
        (here / "o.jsonl").unlink()


def test_outside_a_checkout_the_ledger_asks_for_its_folder(here, capsys, monkeypatch):
    monkeypatch.setattr(kit, "repo_root", lambda: None)
    assert cli.main(["ledger"]) == 2 and "come with the checkout" in capsys.readouterr().err
    assert not (here / "results").exists()
    (here / "r/cpu-x").mkdir(parents=True)
    assert cli.main(["ledger", "r"]) == 0 and "no records yet" in capsys.readouterr().out
