"""Every fact that stands in two places must be the same in both; settings.ini is the one that counts."""
import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from functools import cache
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PARTS = "kit measure foundations data augment fusion learn study cases cli".split()
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(ROOT / "settings.ini", encoding="utf-8")
s = ini["DEFAULT"]
toml = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROFILES = {n[4:]: {k: v for k, v in ini[n].items() if k not in ini.defaults()} for n in ini.sections() if n.startswith("run.")}
EXTRAS = {k.removesuffix("_requirements"): v.split() for k, v in s.items() if k.endswith("_requirements")}


@cache
def tracked() -> list[Path]:
    "What git tracks or would track; without git, everything that .gitignore does not name."
    got = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, text=True)
    if not got.returncode and got.stdout:
        return [f for n in sorted(set(got.stdout.split("\0"))) if n and (f := ROOT / n).is_file()]
    ignored = {x.strip("/").replace("*", "") for x in (ROOT / ".gitignore").read_text().split()} | {".git"}
    return [f for f in sorted(ROOT.rglob("*")) if f.is_file() and not any(i in part for i in ignored for part in f.relative_to(ROOT).parts)]


@cache
def texts() -> dict[Path, str]:
    found = {}
    for f in tracked():
        try:
            found[f] = f.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            pass
    return found


def notebooks() -> list[Path]:
    return [p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]


def modules() -> list[Path]:
    return [p for p in sorted((ROOT / "diversity_kit").rglob("*.py")) if p.name not in ("_modidx.py", "__init__.py")]


# ------------------------------------------------------------------------------------------------------------ the package's facts

def test_version_is_one():
    import diversity_kit
    assert diversity_kit.__version__ == s["version"]


def test_pyproject_agrees_with_settings():
    table, project = toml["tool"]["nbdev"], toml["project"]
    for key in ("nbs_path", "lib_path", "tst_flags"):
        assert table[key] == s[key], key
    assert {"tags", "jupyter"} <= set(table["allowed_cell_metadata_keys"]), "nbdev-clean would strip them: tags that skip a cell, solutions that are folded"
    assert project["name"] == s["lib_name"]
    assert project["requires-python"] == ">=" + s["min_python"]
    assert project["license"].lower().replace("-", "").startswith(s["license"])


def test_no_value_needs_interpolation():
    "setup.py, conftest.py, nbdev and the kit must read the same text; % means something to configparser."
    assert not [k for section in ["DEFAULT", *ini.sections()] for k, v in ini[section].items() if "%" in v]


def test_requirements_reach_the_installed_package(tmp_path):
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").touch()
    (tmp_path / s["lib_path"]).mkdir()
    (tmp_path / s["lib_path"] / "__init__.py").touch()
    got = subprocess.run([sys.executable, "setup.py", "-q", "egg_info"], cwd=tmp_path, capture_output=True, text=True)
    assert not got.returncode, got.stderr
    info = metadata.PathDistribution(tmp_path / f"{s['lib_name']}.egg-info")
    want = {str(Requirement(r)) for r in s["requirements"].split()}
    want |= {str(Requirement(f'{r} ; extra == "{x}"')) for x, rs in EXTRAS.items() for r in rs}
    assert {str(Requirement(r)) for r in info.requires} == want
    assert info.version == s["version"] and info.metadata["Requires-Python"] == ">=" + s["min_python"]
    assert {e.name for e in info.entry_points if e.group == "console_scripts"} == {c.split("=")[0] for c in s["console_scripts"].split()}
    try:
        installed = metadata.distribution(s["lib_name"])
    except metadata.PackageNotFoundError:
        return
    if "site-packages" in str(getattr(installed, "_path", "")):         # not an egg-info that lies in the checkout
        assert {str(Requirement(r)) for r in installed.requires} == want, "the installed copy is older than settings.ini: python3 kit run"


def test_console_script_exists():
    module, function = s["console_scripts"].split("=")[1].split(":")
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_environment_yml_is_the_editable_install():
    env = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert env["name"] == s["lib_name"] and env["channels"] == ["conda-forge"]
    plain = [d for d in env["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in env["dependencies"] if isinstance(d, dict)]
    assert pip == ["-c constraints.txt", "-e .[dev]"]                   # one list of requirements, not three
    python = next(d for d in plain if d.startswith("python="))
    assert tuple(map(int, python.split("=")[1].split("."))) >= tuple(map(int, s["min_python"].split("."))) and "pip" in plain


def test_constraints_pin_every_direct_requirement():
    lines = [x for x in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if x and not x.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.!]*", x) for x in lines), "every line is NAME==VERSION, without a local part such as +cpu"
    pins = {canonicalize_name(x.split("==")[0]): x.split("==")[1] for x in lines}
    assert len(pins) == len(lines), "a package is pinned twice"
    for text in s["requirements"].split() + EXTRAS["dev"]:
        need = Requirement(text)
        assert canonicalize_name(need.name) in pins, f"{need.name} is not pinned: python3 kit lock"
        assert need.specifier.contains(pins[canonicalize_name(need.name)]), f"{text} excludes its own pin {pins[canonicalize_name(need.name)]}"
    assert pins["torch"] == "2.13.0"


# ------------------------------------------------------------------------------------------------------------ profiles and the book

def test_profiles_have_the_same_keys():
    assert {"smoke", "cpu", "gpu"} <= set(PROFILES)
    for name, own in PROFILES.items():
        if "inherits" not in own:
            assert set(own) == set(PROFILES["cpu"]), f"[run.{name}] differs: {set(own) ^ set(PROFILES['cpu'])}"


def test_an_inheriting_profile_lists_what_differs_and_nothing_else():
    heirs = {name: dict(own) for name, own in PROFILES.items() if "inherits" in own}
    assert heirs
    for name, own in heirs.items():
        parent = PROFILES[own.pop("inherits")]
        assert own and not [k for k, v in own.items() if v == parent[k]], f"[run.{name}] repeats its parent"


def test_a_setting_has_the_same_kind_in_every_profile():
    "A number stays a number and a list a list: '250' for '250,' would fail an hour into the longest run."
    from diversity_kit import kit
    kind = lambda v: "number" if type(v) in (int, float) else type(v).__name__
    found = kit.profiles(ROOT / "settings.ini")
    for key in found["cpu"]:
        assert len({kind(p[key]) for p in found.values()}) == 1, (key, {n: p[key] for n, p in found.items()})


def test_no_profile_key_hides_behind_a_package_fact():
    "configparser shows [DEFAULT] in every section; a run setting of such a name would silently be dropped."
    raw = ConfigParser(delimiters=["="], interpolation=None, default_section="nothing")
    raw.read(ROOT / "settings.ini", encoding="utf-8")
    assert not [k for n in raw.sections() if n.startswith("run.") for k in raw[n] if k in s]


def test_every_setting_is_used():
    code = "\n".join(c.source for p in notebooks() for c in nbformat.read(p, 4).cells if c.cell_type == "code")
    code += "\n".join(p.read_text(encoding="utf-8") for p in modules())
    words = set(re.findall(r"\w+", code))
    assert not set(PROFILES["cpu"]) - words, "nothing reads these settings"


@pytest.mark.parametrize("section", [n for n in ("tour", "gpu") if n in ini])
def test_named_chapters_exist(section):
    names = ini[section]["chapters"].split()
    assert names and len(set(names)) == len(names)
    for name in names:
        assert (ROOT / "nbs" / f"{name}.ipynb").is_file(), f"[{section}] names {name}, there is no such chapter"


def test_chapter_numbers_are_unique():
    numbers = [p.stem[:2] for p in notebooks() if p.stem != "index"]
    assert all(n.isdigit() for n in numbers) and len(set(numbers)) == len(numbers)


def test_index_links_to_every_chapter():
    text = "\n".join(c.source for c in nbformat.read(ROOT / "nbs/index.ipynb", 4).cells)
    links = {(ROOT / "nbs" / x).resolve() for x in re.findall(r"\]\(([\w./-]+\.ipynb)", text)}
    assert links == {p.resolve() for p in notebooks() if p.stem != "index"}


def test_links_between_chapters_lead_somewhere():
    for path in notebooks():
        for cell in nbformat.read(path, 4).cells:
            for link in re.findall(r"\]\(([\w./-]+\.ipynb)", cell.source) if cell.cell_type == "markdown" else ():
                assert (path.parent / link).resolve().is_file(), f"{path.name} links to {link}"


def test_source_links_lead_to_the_symbol():
    "show_doc's links in the saved outputs: the repository of settings.ini, a file of it, the line where the symbol is written now."
    count = 0
    for path in notebooks():
        for cell in nbformat.read(path, 4).cells:
            for out in cell.outputs if cell.cell_type == "code" and "show_doc(" in cell.source else ():
                if (text := out.get("data", {}).get("text/markdown", "")).startswith("---\n"):
                    m = re.match(rf"---\n\n\[source\]\({re.escape(s['git_url'])}/blob/{s['branch']}/(\S+\.py)#L(\d+)\)\n\n#+ (?:\w+\.)*(\w+)\n", text)
                    assert m, f"{path.name}: {text[:200]}: python3 kit report"
                    line = (ROOT / m[1]).read_text(encoding="utf-8").splitlines()[int(m[2]) - 1].strip()
                    assert re.match(rf"(async def|def|class) {m[3]}\b|@", line), f"{path.name}: {m[3]} is not at {m[1]}:{m[2]}: python3 kit report"
                    count += 1
    assert count > 100


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
def test_notebook_is_clean(path):
    nb = nbformat.read(path, 4)
    nbformat.validate(nb)
    assert nb.metadata == {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    for i, cell in enumerate(nb.cells):
        hide = cell.cell_type == "code" and re.match(r"\s*#\s*\|\s*hide\b", cell.source)
        assert cell.metadata.get("jupyter", {}) == ({"source_hidden": True} if hide else {}), \
            f"cell {i} ({cell.get('id')}): a '#| hide' cell holds a solution, so it is folded, and no other is: in JupyterLab, View > Collapse Selected Code"
        assert set(cell.metadata) <= {"tags", "jupyter"}, f"cell {i}: {dict(cell.metadata)}"
        if cell.cell_type != "code":
            assert not cell.get("attachments"), f"cell {i}"
            continue
        assert cell.execution_count is None, f"cell {i}: nbdev-clean was not run"
        for out in cell.outputs:
            assert out.output_type != "error" and out.get("name") != "stderr", f"cell {i}: {out}"
            assert out.get("execution_count") is None, f"cell {i}"
            assert "application/vnd.jupyter.widget-view+json" not in out.get("data", {}), f"cell {i}: a widget shows nothing in a saved notebook"
    if path.stem != "index":
        assert re.match(r"# .+\n\n> \*\*Claim\.\*\* .+\n(?:> .+\n)*\n<!-- header: generated by `python3 kit report` -->", nb.cells[0].source)
        assert any(c.cell_type == "code" and c.outputs for c in nb.cells), "the chapter is committed without outputs: python3 kit run --save"


# ------------------------------------------------------------------------------------------------------------ the exported modules

def test_modules_are_a_fresh_export(tmp_path):
    for name in ("settings.ini", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").touch()
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "_proc"))
    (tmp_path / "diversity_kit").mkdir()
    shutil.copy(ROOT / "diversity_kit/__init__.py", tmp_path / "diversity_kit")
    got = subprocess.run([sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], cwd=tmp_path, capture_output=True, text=True)
    assert not got.returncode, got.stderr[-2000:]
    own = lambda top: {p.relative_to(top).as_posix(): p.read_bytes() for p in (top / "diversity_kit").rglob("*.py")}
    fresh, ours = own(tmp_path), own(ROOT)
    assert set(fresh) == set(ours), f"only in one of the two: {sorted(set(fresh) ^ set(ours))}"
    assert not [n for n in fresh if fresh[n] != ours[n]], "these differ from their notebooks: run nbdev-export, and edit the notebook, not the module"


def imported(path: Path) -> set[str]:
    "The modules of this package that a file imports anywhere, as dotted names without the package."
    package, found = path.relative_to(ROOT).with_suffix("").parts[:-1], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (list(package[: len(package) - node.level + 1]) if node.level else []) + (node.module.split(".") if node.module else [])
            names = [".".join(base + [a.name]) for a in node.names]
        found |= {n.removeprefix("diversity_kit.") for n in names if n.startswith("diversity_kit.")}
    return found


def test_import_order_of_the_parts():
    paths = modules()
    assert len(paths) > 5
    for path in paths:
        part = path.relative_to(ROOT / "diversity_kit").with_suffix("").parts[0]
        assert part in PARTS, f"{path.name}: {part} is no part of the book"
        for name in imported(path):
            other = name.split(".")[0]
            if other in PARTS:
                assert PARTS.index(other) <= PARTS.index(part), f"{part}/{path.name} imports {name}, which comes after it"


def test_import_is_light():
    code = ("import sys, time; t = time.process_time(); import diversity_kit; from diversity_kit import kit; dt = time.process_time() - t; "
            "print(dt, *{'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules))")
    runs = []
    for _ in range(6):                                                  # seconds of this process; best of three, more on a machine busy with something else
        out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}).stdout.split()
        assert not out[1:], f"import diversity_kit imports {out[1:]}"
        runs.append(float(out[0]))
        if len(runs) >= 3 and min(runs) < 0.2:
            break
    assert min(runs) < 0.2, f"import diversity_kit takes {min(runs):.2f} s"


# ------------------------------------------------------------------------------------------------------------ what must not be in the tree

def test_no_large_file():
    assert len(tracked()) > 20
    assert not [(f.relative_to(ROOT).as_posix(), f.stat().st_size) for f in tracked() if f.stat().st_size > 2_000_000]


def test_no_path_of_a_machine():
    folders = "|".join(["work", "root", "tmp/w", "home/[a-z]+", "Users/[A-Za-z]+"])
    pattern = re.compile(rf"(?<![\w./~{{}}:-])/(?:{folders})(?:/|\b(?![\w.-]))")
    assert pattern.search("see /" + "root/x") and pattern.search("'/" + "work'") and not pattern.search("net/" + "work/x")
    hits = {f.relative_to(ROOT).as_posix(): m[0] for f, t in texts().items() if (m := pattern.search(t))}
    assert not hits


def test_no_package_index_of_a_machine():
    "Which index pip asks is the user's business: no file names one."
    config = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    config += "\n".join(v for k, v in os.environ.items() if k.endswith("INDEX_URL"))
    hosts = {h for h in re.findall(r"https?://(?:[^/@\s']*@)?([^/:\s']+)", config) if h not in ("pypi.org", "localhost", "127.0.0.1")}
    hits = {f.relative_to(ROOT).as_posix(): h for f, t in texts().items() for h in hosts if h in t}
    pattern = re.compile(r"(?:index-url|find-links)[ =]+[\"']?(?:https?|file)://")
    hits |= {f.relative_to(ROOT).as_posix(): m[0] for f, t in texts().items() if f.suffix != ".py" and (m := pattern.search(t))}
    assert not hits


def test_the_address_of_the_repository_is_one():
    address = re.compile(r"https://github\.com/([\w.-]+/diversity[_-]kit)\b")
    want = s["git_url"].removeprefix("https://github.com/")
    found = {f.relative_to(ROOT).as_posix(): set(address.findall(t)) - {want} for f, t in texts().items()}
    assert not {f: x for f, x in found.items() if x}, "settings.ini's git_url counts; python3 kit report writes it into the chapters"
