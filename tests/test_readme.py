"""What README says can be done, is done here or by .ci/run; what it shows is generated."""
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.S), ids=lambda c: c.splitlines()[0])
def test_readme_python_runs(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_readme_numbers_are_what_the_example_prints():
    code, out = re.findall(r"```python\n(.*?)```", README, re.S)[0], []
    exec(code.replace("print(", "out.append("), {"out": out})
    assert [f"{v.item():.4f}" for v in out] == re.findall(r"# (0\.\d{4}):", code)


def test_the_card_in_contributing_is_accepted():
    code = next(c for c in re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.S) if "DataCard" in c)
    done = subprocess.run([sys.executable, "-c", code + "\nfrom diversity_kit.data.sources import listing\nprint(listing().to_string())"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "my_reviews" in done.stdout, done.stderr


def test_the_card_of_ones_own_file_loads(tmp_path):
    code = next(c for c in re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.S) if "mine.csv" in c)
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(f"letter number {i} about {'good' if i % 2 else 'bad'} things,{i % 2}\n" for i in range(60)), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "DIVERSITY_KIT_CACHE": str(tmp_path / "cache"), "DIVERSITY_KIT_PROFILE": "smoke"})
    assert done.returncode == 0 and "num_rows" in done.stdout, done.stderr


def test_every_extra_is_explained():
    import configparser
    ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    extras = {k.removesuffix("_requirements"): v for k, v in ini["DEFAULT"].items() if k.endswith("_requirements")}
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \| ([^|]+) \|", README))
    assert set(extras) <= set(rows)
    for name, packages in extras.items():
        if name != "dev":
            assert re.findall(r"[\w-]+(?=>=)", packages) == rows[name].split(", "), name


def test_the_two_commands_are_what_ci_runs():
    ci = (ROOT / ".ci/run").read_text()
    for command in ("python3 kit run", "python3 kit test"):
        assert f"\n{command}" in "\n" + ci and command in README


def test_every_command_of_readme_exists():
    known = set(re.findall(r"(?m)^    python3 kit (\w+)", (ROOT / "kit").read_text(encoding="utf-8")))
    assert set(re.findall(r"python3 kit (\w+)", README)) <= known
    from diversity_kit.cli import parser
    for words in re.findall(r"(?m)^diversity-kit (.*)$", README):
        parser().parse_args(words.split())


def test_links_lead_somewhere():
    for text in (README, CONTRIBUTING):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (ROOT / target).exists(), target


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    "What is committed: `kit run` may have written newer records."
    from diversity_kit.measure import ledger
    packed = subprocess.run(["git", "archive", "HEAD", "results"], cwd=ROOT, capture_output=True)
    if packed.returncode:
        pytest.skip("no git checkout: nothing to compare the committed records with")
    folder = tmp_path_factory.mktemp("committed")
    subprocess.run(["tar", "xf", "-", "-C", str(folder)], input=packed.stdout, check=True)
    return ledger.read(folder / "results")


def test_the_ledger_table_is_generated(committed):
    from diversity_kit.measure import ledger
    shown = re.search(r"<!-- ledger -->\n(.*?)<!-- /ledger -->", README, re.S)[1].strip()
    assert shown == ledger.markdown(committed), "run: python3 kit report, and commit README with results/"


def test_every_committed_verdict_follows_from_its_own_interval(committed):
    "Also for records of machines that we cannot run again: when the rule changes, they change."
    from diversity_kit.measure.ledger import Claim
    from diversity_kit.measure.stats import Effect
    signs = [r for r in committed if isinstance(r["claim"]["expected"], str)]                            # a value's margin may lie below the six digits that a record keeps
    assert len(signs) > 200
    for r in signs:
        e = r["effect"]
        got = Claim(**r["claim"]).verdict(Effect(e["mean"], e["low"], e["high"], e["n"], math.nan if e["p"] is None else e["p"]), e["p_holm"])
        assert got == r["verdict"], (r["where"], r["claim"]["id"])


def test_every_committed_record_names_a_chapter(committed):
    "kit run asks by this name which records a chapter has made."
    assert {r["chapter"] for r in committed} <= {p.stem for p in (ROOT / "nbs").rglob("*.ipynb")}


def test_the_list_of_slow_chapters_is_the_measured_one():
    import json
    costs = json.loads((ROOT / "results/cpu-2core/chapters.json").read_text(encoding="utf-8"))
    slow = sorted(k.rpartition("/")[2][:2] for k, v in costs.items() if v["minutes"] > 1.5 and not k.startswith("cases/"))
    assert f"often on a busy machine): {', '.join(slow)}." in CONTRIBUTING
