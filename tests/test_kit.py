"""The module kit and the command `kit`, with the faults they must explain: broken settings, full disk, no network, a cut install, Ctrl-C."""
import ast
import contextlib
import copy
import importlib.machinery
import importlib.util
import json
import os
import pickle
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from diversity_kit import kit

ROOT = Path(__file__).parents[1]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals or scripts")

# ---------------------------------------------------------------------------------------------------------------- the module: settings

GOOD = """[DEFAULT]
lib_name = x
[run.smoke]
a_n = 3
a_rate = 0.5
a_sizes = 1, 2,
a_word = minilm
a_flag = true
[run.cpu]
a_n = 4
a_rate = 1e-3
a_sizes = 10,
a_word = two words = one value
a_flag = False
[run.gpu]
a_n = 5
a_rate = 1
a_sizes = 10, 20
a_word = x
a_flag = true
"""


def write(folder, text):
    path = folder / "settings.ini"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_values_are_read_as_what_they_are(tmp_path):
    p = kit.profiles(write(tmp_path, GOOD))
    assert list(p) == ["smoke", "cpu", "gpu"]
    assert dict(p["smoke"]) == {"a_n": 3, "a_rate": 0.5, "a_sizes": (1, 2), "a_word": "minilm", "a_flag": True}
    assert dict(p["cpu"]) == {"a_n": 4, "a_rate": 1e-3, "a_sizes": (10,), "a_word": "two words = one value", "a_flag": False}
    assert type(p["smoke"].a_n) is int and p["cpu"].a_flag is False


def test_a_profile_inherits_what_it_does_not_set(tmp_path):
    heir = "[run.long]\ninherits = cpu\na_n = 40\n"
    p = kit.profiles(write(tmp_path, GOOD + heir))
    assert dict(p["long"]) == {**p["cpu"], "a_n": 40} and p["long"].name == "long" and "inherits" not in p["long"]
    with pytest.raises(ValueError, match="'a_m' stands only in"):
        kit.profiles(write(tmp_path, GOOD + heir.replace("a_n", "a_m")))
    with pytest.raises(ValueError, match=r"\[run.long\] inherits 'gpu', but no profile of that name stands above it"):
        kit.profiles(write(tmp_path, heir.replace("cpu", "gpu") + GOOD.replace("[DEFAULT]\nlib_name = x\n", "")))


@pytest.mark.parametrize("old, new, words", [
    ("a_rate = 1e-3", "a_rat = 1e-3", ["'a_rat' stands only in [run.cpu] (a slip of 'a_rate'?)", "'a_rate' is missing in [run.cpu]"]),         # a slip in one profile
    ("a_flag = true\n", "", ["but 'a_flag' is missing in [run.smoke]"]),                            # a key that one profile lacks
    ("a_n = 3", "a_n 3", ["settings.ini cannot be read", "line"]),                          # a line that is no setting
    ("a_n = 3", "a_n = 3\na_n = 5", ["settings.ini cannot be read", "a_n"]),                # the same key twice
    ("[run.cpu]", "[run.cpu", ["settings.ini cannot be read", "line"]),
    ("[DEFAULT]", "lib = 1\n[DEFAULT]", ["settings.ini cannot be read", "section"]),
])
def test_broken_settings_are_named(tmp_path, old, new, words):
    assert old in GOOD
    with pytest.raises(ValueError) as e:
        kit.profiles(write(tmp_path, GOOD.replace(old, new, 1)))
    for word in words:
        assert word in str(e.value), word


def test_settings_in_another_encoding_are_named(tmp_path):
    with pytest.raises(ValueError, match="settings.ini cannot be read"):
        kit.settings(write(tmp_path, "[run.cpu]\na = gr\xfc\xdfe\n".encode("latin-1")))


def test_no_settings_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match="reinstall"):
        kit.settings(tmp_path / "settings.ini")


def test_unknown_profile_names_the_known_ones(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown profile 'cpuu': settings.ini has .*smoke.*cpu.*gpu"):
        kit.profile("cpuu")
    monkeypatch.setenv("DIVERSITY_KIT_PROFILE", "nope")
    with pytest.raises(ValueError, match="unknown profile 'nope'"):
        kit.profile()
    with pytest.raises(ValueError):
        kit.setup("also-nope")
    assert os.environ["DIVERSITY_KIT_PROFILE"] == "nope"                # a setup that failed changed nothing


def test_profile_is_chosen_by_name_then_variable_then_cpu(monkeypatch):
    monkeypatch.setenv("DIVERSITY_KIT_PROFILE", "gpu")
    assert kit.profile().name == "gpu" and kit.profile("smoke").name == "smoke"
    monkeypatch.delenv("DIVERSITY_KIT_PROFILE")
    assert kit.profile().name == "cpu"


def test_profile_is_read_only(tmp_path):
    p = kit.profiles(write(tmp_path, GOOD))["smoke"]
    for change in (lambda: setattr(p, "a_n", 9), lambda: setattr(p, "new", 9), lambda: delattr(p, "a_n")):
        with pytest.raises(AttributeError):
            change()
    with pytest.raises(TypeError):
        p["a_n"] = 9
    assert p.a_n == p["a_n"] == 3 and len(p) == len(list(p)) == 5


def test_profile_names_the_near_keys(tmp_path):
    p = kit.profiles(write(tmp_path, GOOD))["smoke"]
    with pytest.raises(AttributeError, match=r"no key 'a_sizs'; did you mean a_sizes"):
        print(p.a_sizs)
    with pytest.raises(KeyError, match="a_rate"):
        print(p["a_rte"])
    assert not hasattr(p, "__array__") and "smoke" in repr(p)


def test_profile_pickles_and_copies(tmp_path):
    p = kit.profiles(write(tmp_path, GOOD))["cpu"]
    for q in (pickle.loads(pickle.dumps(p)), copy.copy(p), copy.deepcopy(p)):
        assert type(q) is kit.Profile and q.name == "cpu" and dict(q) == dict(p)
    with pytest.raises(AttributeError):
        pickle.loads(pickle.dumps(p)).a_n = 1


# ---------------------------------------------------------------------------------------------------------------- the module: machine

@pytest.mark.parametrize("variable, call", [("DIVERSITY_KIT_CACHE", lambda: kit.cache_dir("a", "b")), ("DIVERSITY_KIT_RESULTS", kit.results_dir)])
def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path, variable, call):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "below"))
    with pytest.raises(PermissionError, match=f"cannot write to .*file.*export {variable}="):
        call()


def test_a_folder_that_refuses_files_is_named(monkeypatch, tmp_path):
    "As on a read-only file system, where mkdir of an existing folder succeeds."
    def refuse(*a, **k):
        raise OSError(30, "Read-only file system")
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path))
    monkeypatch.setattr(kit.tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match="Read-only file system"):
        kit.cache_dir()


def test_folders_follow_the_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("DIVERSITY_KIT_PROFILE", "smoke")
    monkeypatch.delenv("DIVERSITY_KIT_RESULTS", raising=False)
    assert kit.cache_dir("x", "y") == tmp_path / "c/x/y" and (tmp_path / "c/x/y").is_dir()
    assert kit.results_dir() == tmp_path / f"c/smoke/smoke-{os.cpu_count()}core"      # smoke proves nothing: never in results/
    monkeypatch.setenv("DIVERSITY_KIT_RESULTS", str(tmp_path / "r"))
    monkeypatch.setenv("DIVERSITY_KIT_PROFILE", "cpu")
    assert kit.results_dir() == tmp_path / f"r/cpu-{os.cpu_count()}core"
    assert not list(tmp_path.rglob("tmp*"))                                            # the probe leaves nothing behind


@pytest.mark.parametrize("want", ["nonsense", "cuda:99", "tpu"])
def test_a_device_that_cannot_be_used_is_named(monkeypatch, want):
    monkeypatch.setenv("DIVERSITY_KIT_DEVICE", want)
    with pytest.raises(ValueError, match=f"device '{want}' cannot be used here.*Unset DIVERSITY_KIT_DEVICE"):
        kit.device()


def test_device_is_the_cpu_unless_asked(monkeypatch):
    monkeypatch.delenv("DIVERSITY_KIT_DEVICE", raising=False)
    monkeypatch.setenv("DIVERSITY_KIT_PROFILE", "cpu")
    assert str(kit.device()) == "cpu"


def test_a_card_is_used_without_the_attention_that_gives_nan(monkeypatch):
    import torch
    was = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        monkeypatch.setenv("DIVERSITY_KIT_DEVICE", "cpu")
        kit.device()
        assert torch.backends.cuda.cudnn_sdp_enabled()                   # nothing is changed where there is no card
        monkeypatch.setenv("DIVERSITY_KIT_DEVICE", "cuda")
        monkeypatch.setattr(torch, "empty", lambda *a, **k: None)        # stands in for a card
        assert kit.device().type == "cuda" and not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was)


@pytest.fixture
def hub(monkeypatch):
    "offline() asked anew, with its traces removed afterwards; returns the list of connections tried."
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HTTPS_PROXY", "https_proxy", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "x")                                    # so that monkeypatch restores it, then:
        monkeypatch.delenv(name)
    kit.offline.cache_clear()
    asked, connect = [], socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout=None: (asked.append((address, timeout)), connect(address, timeout))[1])
    yield asked
    kit.offline.cache_clear()


def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_offline_asks_once_and_is_fast(hub, monkeypatch):
    port = closed_port()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    start = time.perf_counter()
    assert all(kit.offline() for _ in range(50))
    assert time.perf_counter() - start < 2
    assert [a for a, _ in hub] == [("127.0.0.1", port)] and 0 < hub[0][1] <= 3
    assert os.environ["HF_HUB_OFFLINE"] == "1" == os.environ["HF_DATASETS_OFFLINE"]    # the libraries fail at once from here on


def test_online_is_seen(hub, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert kit.offline() is False
    assert "HF_HUB_OFFLINE" not in os.environ


def test_a_proxy_is_asked_instead_of_the_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{server.getsockname()[1]}")      # as people write it, without a scheme
        assert kit.offline() is False
        assert [a for a, _ in hub] == [("127.0.0.1", server.getsockname()[1])]


def test_offline_variable_needs_no_network(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    assert kit.offline() and not hub


def test_an_address_that_is_none_counts_as_offline(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://host:notaport")
    assert kit.offline() and not hub


def test_seed_everything_fixes_all_generators():
    import torch
    draw = lambda: (random.random(), np.random.rand(), torch.rand(1).item())
    kit.seed_everything(7)
    first = draw()
    assert draw() != first
    kit.seed_everything(7)
    assert draw() == first
    kit.seed_everything(8)
    assert not set(draw()) & set(first)
    for bad in (-1, 2**32, 3.7):
        with pytest.raises(ValueError, match="seed"):
            kit.seed_everything(bad)


def test_a_machine_without_torch_is_seeded_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)                     # what an import of it then raises: ModuleNotFoundError
    kit.seed_everything(7)
    first = np.random.rand()
    kit.seed_everything(7)
    assert np.random.rand() == first


def test_setup_twice_is_once(monkeypatch):
    for name in ("DIVERSITY_KIT_PROFILE", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    with warnings.catch_warnings():
        first = kit.setup("smoke")
        draws, state, rules = np.random.rand(3), dict(os.environ), list(warnings.filters)
        second = kit.setup()                                             # the profile is kept for the process
        assert second == first and second.name == "smoke"
        assert dict(os.environ) == state and warnings.filters == rules
        assert (np.random.rand(3) == draws).all()
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_setup_keeps_what_the_user_chose(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    kit.setup("smoke")
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_environment_report_says_where_it_ran(monkeypatch):
    monkeypatch.setenv("DIVERSITY_KIT_COMMIT", "abc123:1700000000")
    kit._commit.cache_clear()
    try:
        got = kit.env_report()
        assert got["commit"] == "abc123" and kit.commit_time() == 1700000000
    finally:
        kit._commit.cache_clear()
    import torch
    assert got["torch"] == torch.__version__ and got["device"] == "cpu" and got["profile"] == kit.profile().name
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in got.items())


# ---------------------------------------------------------------------------------------------------------------- the command: fixtures

def load_command(path):
    loader = importlib.machinery.SourceFileLoader("kit_command", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("kit_command", loader))
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = keep
    return module


def chapter(path, *cells, title="A chapter"):
    top = nbformat.v4.new_markdown_cell(f"# {title}\n\n> **Claim.** It runs.\n\n<!-- header: generated by `python3 kit report` -->")
    nb = nbformat.v4.new_notebook(cells=[top, *(c if isinstance(c, dict) else nbformat.v4.new_code_cell(c) for c in cells)])
    nb.metadata = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A small checkout: the real command and settings, a package of one file, tiny chapters; `.command` is the command loaded from it."
    top = tmp_path / "checkout"
    (top / "diversity_kit").mkdir(parents=True)
    for name in ("kit", "settings.ini", "constraints.txt", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, top)
    (top / "diversity_kit/__init__.py").write_text("")
    chapter(top / "nbs/measure/11_good.ipynb", "x = 1", "#| eval: false\n1 / 0", "#| slow\n1 / 0", "print(x + 1)")
    monkeypatch.delenv("KIT_NO_VENV", raising=False)
    monkeypatch.setenv("DIVERSITY_KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DIVERSITY_KIT_RESULTS", str(tmp_path / "results"))
    return SimpleNamespace(top=top, command=load_command(top / "kit"))


@pytest.fixture
def running(project, monkeypatch):
    "The project, with main() doing the work in this very process."
    monkeypatch.setenv("KIT_NO_VENV", "1")
    for name in ("PYTHONPATH", "DIVERSITY_KIT_PROFILE", "JUPYTER_PREFER_ENV_PATH", "TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "DIVERSITY_KIT_PROGRESS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))               # main() sets them; monkeypatch puts them back
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(project.command, "print_ledger", lambda: None)
    return project


def fake_python(project, install="echo Successfully installed x", code=0, pip=0, version=None):
    "A .venv whose python is a script that plays pip; it counts the installs."
    bin = project.top / ".venv/bin"
    bin.mkdir(parents=True, exist_ok=True)
    (project.top / ".venv/pyvenv.cfg").write_text(f"home = x\nversion = {version or sys.version.split()[0]}\n")
    script = bin / "python"
    script.unlink(missing_ok=True)
    script.write_text(f'#!/bin/sh\ncase "$*" in\n*"pip --version"*) exit {pip};;\n*"pip install"*) echo x >> "{project.top}/installs"; {install}; exit {code};;\nesac\n')
    script.chmod(0o755)


def installs(project):
    path = project.top / "installs"
    return len(path.read_text().split()) if path.exists() else 0


def stamp_file(project):
    return project.top / ".venv/installed.txt"


# ---------------------------------------------------------------------------------------------------------------- the command: environment

def test_the_command_is_plain_and_parses_on_an_old_python():
    "It must live to say which Python it needs, so it may import nothing but the standard library and use no young syntax."
    text = (ROOT / "kit").read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 8))
    top = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names} | {n.module.split(".")[0] for n in top if isinstance(n, ast.ImportFrom)}
    assert names and names <= set(sys.stdlib_module_names)
    check = [sys.executable, "-m", "ruff", "check", "--isolated", "--target-version", "py38", "--select", "E9", "--stdin-filename", "kit.py", "-"]
    got = subprocess.run(check, input=text, capture_output=True, text=True)
    assert got.returncode == 0, got.stdout


def test_a_python_that_is_too_old_is_told(project, capsys, monkeypatch):
    monkeypatch.setattr(project.command, "subprocess", None)             # nothing may be started
    ini = project.top / "settings.ini"
    ini.write_text(ini.read_text().replace("min_python = 3.11", "min_python = 3.99"))
    assert project.command.main(["run"]) == 2
    assert "Python 3.99 or newer is needed" in capsys.readouterr().err
    assert not (project.top / ".venv").exists()


def test_a_missing_venv_module_is_told(project, monkeypatch):
    def run(command, **k):
        (project.top / ".venv").mkdir(exist_ok=True)                     # venv leaves half a folder behind
        return SimpleNamespace(returncode=1, stdout="The virtual environment was not created successfully because ensurepip is not available.", stderr="")
    monkeypatch.setattr(project.command.subprocess, "run", run)
    with pytest.raises(project.command.Stop, match="sudo apt install python3-venv"):
        project.command.ensure_environment()
    assert not (project.top / ".venv").exists()


@POSIX
@pytest.mark.parametrize("output, words", [
    ("Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
    ("Retrying (Retry(total=4)) after connection broken: Failed to establish a new connection: Temporary failure in name resolution", "index cannot be reached"),
    ("WARNING: Max retries exceeded with url", "index cannot be reached"),
    ("No module named pip", "python3-venv"),
    ("something else broke", "pip failed"),
])
def test_a_failed_install_says_why_and_is_not_taken_for_done(project, output, words):
    fake_python(project, f'echo "Collecting torch"; echo "ERROR: {output}" >&2', code=1)
    with pytest.raises(project.command.Stop) as e:
        project.command.ensure_environment()
    assert words in str(e.value) and output[-20:] in str(e.value)
    assert not stamp_file(project).exists() and output in (project.top / ".venv/install.log").read_text()
    fake_python(project)
    project.command.ensure_environment()                                 # the same command again goes on
    assert stamp_file(project).exists() and installs(project) == 2


def test_a_disk_that_is_nearly_full_is_told_before_the_install(project, monkeypatch):
    monkeypatch.setattr(project.command.shutil, "disk_usage", lambda p: SimpleNamespace(free=1.2e9))
    monkeypatch.setattr(project.command, "subprocess", None)             # nothing may be started
    with pytest.raises(project.command.Stop, match=r"1\.2 GB free here, the environment needs about \d+ GB"):
        project.command.ensure_environment()
    assert not (project.top / ".venv").exists()


def test_a_disk_that_fills_up_during_a_run_is_told(running, monkeypatch, capsys):
    def full(*a, **k):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(running.command, "run_chapters", full)
    assert running.command.main(["run", "good"]) == 2
    assert "the disk is full" in capsys.readouterr().err


def test_a_folder_without_permission_is_told_without_a_traceback(running, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DIVERSITY_KIT_RESULTS", str(tmp_path / "file/below"))
    assert running.command.main(["run", "good", "--profile", "smoke"]) == 2
    assert "kit: cannot write to" in capsys.readouterr().err


@POSIX
def test_installs_again_only_when_its_inputs_changed(project):
    ensure, ini = project.command.ensure_environment, project.top / "settings.ini"
    fake_python(project)
    for _ in range(3):
        assert ensure() == str(project.top / ".venv/bin/python")
    assert installs(project) == 1
    ini.write_text(ini.read_text() + "\nanother_size = 3\n")             # the last section is a run profile
    ini.write_text(re.sub(r"(?m)^(\[tour\]\nchapters = ).*", r"\1measure/11_good", ini.read_text()))
    ensure()
    assert installs(project) == 1
    ini.write_text(ini.read_text().replace("requirements = torch", "requirements = lightning torch", 1))
    ensure()
    assert installs(project) == 2
    for name in ("constraints.txt", "setup.py", "pyproject.toml"):
        (project.top / name).write_text((project.top / name).read_text() + "# changed\n")
        ensure()
    assert installs(project) == 5


@POSIX
def test_a_half_made_environment_is_made_again(project, monkeypatch):
    made, run = [], subprocess.run
    def make(command, **k):
        if "venv" in command:
            made.append(command)
            assert not (project.top / ".venv/junk").exists()
            fake_python(project)
            return SimpleNamespace(returncode=0, stdout="", stderr="")
        return run(command, **k)
    monkeypatch.setattr(project.command.subprocess, "run", make)
    (project.top / ".venv").mkdir()
    (project.top / ".venv/junk").touch()                                 # no python in it
    project.command.ensure_environment()
    assert len(made) == 1
    fake_python(project, pip=1)                                          # a python without pip, and no stamp
    stamp_file(project).unlink()
    (project.top / ".venv/junk").touch()
    project.command.ensure_environment()
    assert len(made) == 2
    fake_python(project, version="3.9.1")                                # another Python's: its packages are not ours
    stamp_file(project).unlink()
    project.command.ensure_environment()
    assert len(made) == 3 and installs(project) == 3


@POSIX
def test_an_interrupted_install_leaves_no_stamp(project):
    fake_python(project)
    project.command.ensure_environment()
    (project.top / "constraints.txt").write_text("# others\n")
    fake_python(project, "echo Collecting torch; touch started; sleep 60")
    command = subprocess.Popen([sys.executable, "kit", "run"], cwd=project.top, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))                   # a shell's background job ignores it, and so would this child
    wait_for(lambda: (project.top / "started").exists() or command.poll() is not None)
    os.killpg(command.pid, signal.SIGINT)
    out, err = command.communicate(timeout=60)
    assert command.returncode == 130 and "run the same command again" in err and "Traceback" not in err, err
    assert not stamp_file(project).exists()
    fake_python(project)
    project.command.ensure_environment()
    assert stamp_file(project).exists() and installs(project) == 3


@POSIX
def test_the_command_goes_on_as_the_environments_python(project):
    fake_python(project)
    project.command.ensure_environment()
    script = project.top / ".venv/bin/python"
    script.write_text('#!/bin/sh\necho "$$ $@"; exit 7\n')
    command = subprocess.Popen([sys.executable, "kit", "test", "-k", "a b"], cwd=project.top, stdout=subprocess.PIPE, text=True)
    out, _ = command.communicate(timeout=60)
    assert out.split() == [str(command.pid), str(project.top / "kit"), "test", "-k", "a", "b"] and command.returncode == 7


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# ---------------------------------------------------------------------------------------------------------------- the command: chapters

def test_chapters_are_found_by_every_name(project):
    chapter(project.top / "nbs/00_kit.ipynb")
    chapter(project.top / "nbs/cases/81_sentiment.ipynb")
    chapter(project.top / "nbs/.ipynb_checkpoints/81_sentiment-checkpoint.ipynb")
    chapter(project.top / "nbs/index.ipynb")
    assert list(project.command.chapters()) == ["00_kit", "measure/11_good", "cases/81_sentiment"]
    for name in ("sentiment", "81_sentiment", "cases/81_sentiment", "nbs/cases/81_sentiment.ipynb", "cases.sentiment"):
        assert project.command.resolve([name]) == ["cases/81_sentiment"], name
    assert project.command.resolve(["sentiment", "good", "81_sentiment"]) == ["cases/81_sentiment", "measure/11_good"]
    with pytest.raises(project.command.Stop, match="no chapter 'sentimant'; did you mean sentiment"):
        project.command.resolve(["sentimant"])
    with pytest.raises(project.command.Stop, match="no chapter 'zzz'; did you mean kit, good, sentiment"):
        project.command.resolve(["zzz"])


@pytest.mark.parametrize("argv, words", [
    (["run", "good", "--profile", "cppu"], "unknown profile 'cppu'"),
    (["run", "goood"], "did you mean good"),
    (["run", "good", "--all"], "not both"),
])
def test_wrong_arguments_are_explained(running, capsys, argv, words):
    assert running.command.main(argv) == 2
    err = capsys.readouterr().err
    assert words in err and err.startswith("kit: ")


def test_broken_settings_stop_the_command(running, capsys):
    (running.top / "settings.ini").write_text("[DEFAULT\nmin_python = 3.11\n")
    assert running.command.main(["run"]) == 2
    assert "git checkout settings.ini" in capsys.readouterr().err
    (running.top / "settings.ini").unlink()
    assert running.command.main(["run"]) == 2
    assert "not a checkout" in capsys.readouterr().err


def test_a_failing_chapter_is_named_and_the_rest_runs(running, capsys):
    chapter(running.top / "nbs/measure/10_bad.ipynb", "x = 1", "raise ValueError('first line\\nsecond')", "open('never', 'w')")
    assert running.command.main(["run", "bad", "good", "--profile", "smoke"]) == 1
    out = capsys.readouterr().out
    assert "FAILED measure/10_bad: cell 2 of 3: ValueError: first line\n" in out and "[2/2] measure/11_good  done" in out
    saved = nbformat.read(running.top / "_run/smoke/measure/11_good.ipynb", 4)
    assert [c.get("outputs") and c.outputs[0].text for c in saved.cells][-1] == "2\n"
    assert not (running.top / "nbs/measure/never").exists()
    good = running.top / "nbs/measure/11_good.ipynb"
    assert nbformat.read(good, 4).cells[-1].outputs == []                # the sources are left alone

    calls = []
    running.command.execute = lambda name, *a: calls.append(name) or {"ok": True, "error": None, "seconds": 1.0, "peak_mb": 1, "late": False, "older": False}
    assert running.command.main(["run", "bad", "good", "--profile", "smoke"]) == 0
    assert calls == ["measure/10_bad"]                                   # what failed runs again, what is done does not
    assert "measure/11_good  up to date" in capsys.readouterr().out
    for change in (lambda: (running.top / "diversity_kit/new.py").write_text("x = 1"), lambda: chapter(good, "x = 2"), lambda: None):
        calls.clear()
        change()
        running.command.main(["run", "good", "--profile", "smoke"])
        assert calls == ([] if change.__code__.co_names == () else ["measure/11_good"])
    running.command.main(["run", "good", "--profile", "smoke", "--force"])
    assert calls == ["measure/11_good"]
    (running.top / "_run/smoke/measure/11_good.json").write_text('{"key": "cut sh')
    running.command.main(["run", "good", "--profile", "smoke"])
    assert calls == ["measure/11_good"] * 2


def test_shards_of_a_chapter_run_side_by_side(running, monkeypatch, capsys):
    monkeypatch.setenv("DIVERSITY_KIT_SHARD", "1/1")                               # so that it is gone afterwards
    chapter(running.top / "nbs/measure/11_good.ipynb", "import os; print(os.environ['DIVERSITY_KIT_SHARD'])")
    assert running.command.main(["run", "good", "--profile", "smoke", "--shard", "2/3"]) == 0
    out = running.top / "_run/smoke-2of3/measure/11_good.ipynb"                    # not over another shard's notebook or progress
    assert nbformat.read(out, 4).cells[-1].outputs[0].text == "2/3\n" and not (running.top / "_run/smoke").exists()
    for wrong in ("4/3", "0/3", "x"):
        with pytest.raises(SystemExit):
            running.command.main(["gpu", "good", "--shard", wrong])
        assert "I/N, such as 1/3" in capsys.readouterr().err


def test_a_note_changes_nothing_a_setting_does(running):
    key, path = lambda: running.command.chapter_key(path, "cpu"), running.top / "nbs/measure/11_good.ipynb"
    ini = running.top / "settings.ini"
    first = key()
    nb = nbformat.read(path, 4)
    nb.cells.append(nbformat.v4.new_markdown_cell("Prose."))
    nbformat.write(nb, path)
    text = ini.read_text()
    ini.write_text(text.replace("[run.smoke]", "[run.smoke]\nonly_here = 1"))
    assert key() == first
    changed = text.replace("[run.cpu]", "[run.cpu]\nonly_here = 1")
    ini.write_text(changed)
    assert key() != first
    heir = lambda text: ini.write_text(text + "\n[run.heir]\ninherits = cpu\n") and running.command.chapter_key(path, "heir")
    assert heir(text) != heir(changed)                                                  # what it inherits is its own


def test_what_a_chapter_costs_is_taken_from_a_run_that_found_no_older_trials(running):
    costs = lambda: json.loads((kit.results_dir() / "chapters.json").read_text())["measure/11_good"]["minutes"]
    got = {"ok": True, "error": None, "peak_mb": 1, "late": False}
    (running.top / "_run/cpu/measure").mkdir(parents=True)
    for seconds, older, minutes in ((600, False, 10.0), (480, True, 10.0), (480, False, 8.0), (60, False, 8.0)):       # the last one came out of some cache
        running.command.execute = lambda *a, s=seconds, o=older: {**got, "seconds": s, "older": o}
        running.command.main(["run", "good", "--profile", "cpu", "--force"])
        assert costs() == minutes


def test_damaged_costs_are_named(running, tmp_path, capsys):
    path = kit.results_dir() / "chapters.json"
    path.write_text("<<<<<<< HEAD\n{}")
    assert running.command.main(["run", "good", "--profile", kit.profile().name]) == 2
    assert f"{path} is damaged" in capsys.readouterr().err


@POSIX
def test_ctrl_c_stops_and_the_next_run_goes_on(project, monkeypatch):
    chapter(project.top / "nbs/measure/12_slow.ipynb", "open('started', 'w').close()", "import time; time.sleep(60)")
    shutil.rmtree(project.top / "diversity_kit")
    shutil.copytree(ROOT / "diversity_kit", project.top / "diversity_kit", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("KIT_NO_VENV", "1")
    monkeypatch.setenv("PYTHONPATH", "")
    command = subprocess.Popen([sys.executable, "kit", "run", "good", "slow", "--profile", "smoke"], cwd=project.top,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: (project.top / "nbs/measure/started").exists() or command.poll() is not None, 120)
    import psutil
    kernels = psutil.Process(command.pid).children(recursive=True)
    assert kernels
    os.killpg(command.pid, signal.SIGINT)
    out, err = command.communicate(timeout=60)
    assert command.returncode == 130 and "stopped. What was finished is kept" in err and "Traceback" not in err, err
    assert "[1/2] measure/11_good  done" in out and "FAILED" not in out
    assert not psutil.wait_procs(kernels, timeout=20)[1], "a kernel lives on"

    monkeypatch.setattr(project.command, "print_ledger", lambda: None)
    calls = []
    project.command.execute = lambda name, *a: calls.append(name) or {"ok": True, "error": None, "seconds": 1.0, "peak_mb": 1, "late": False, "older": False}
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name in ("DIVERSITY_KIT_PROFILE", "JUPYTER_PREFER_ENV_PATH", "TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    assert project.command.main(["run", "good", "slow", "--profile", "smoke"]) == 0
    assert calls == ["measure/12_slow"]


def test_test_command_fails_if_either_check_does(running, monkeypatch):
    calls, codes = [], {"ruff": 0, "pytest": 0}
    monkeypatch.setattr(running.command.subprocess, "call", lambda c, **k: calls.append(c[2:]) or codes[c[2]])
    assert running.command.main(["test", "-k", "risk", "tests/test_risk.py"]) == 0
    assert calls[0] == ["ruff", "check", "."] and calls[1][0] == "pytest" and calls[1][-3:] == ["-k", "risk", "tests/test_risk.py"]
    codes["ruff"] = 1
    assert running.command.main(["test"]) == 1
    codes.update(ruff=0, pytest=5)
    assert running.command.main(["test"]) == 5


def test_other_commands_refuse_unknown_options(running, capsys):
    with pytest.raises(SystemExit):
        running.command.main(["report", "--frobnicate"])
    assert "--frobnicate" in capsys.readouterr().err


def test_lock_writes_plain_pins(running, monkeypatch):
    listed = "torch==2.13.0+cpu\nAbc==1.0\nlocal @ file:///x\n-e git+https://x\n"
    monkeypatch.setattr(running.command.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=listed, returncode=0))
    assert running.command.main(["lock"]) == 0
    assert (running.top / "constraints.txt").read_text().splitlines()[1:] == ["Abc==1.0", "torch==2.13.0"]


# ---------------------------------------------------------------------------------------------------------------- report, docs, lab

RECORD = {"claim": {"id": "K01", "statement": "A helps | really", "source": "S0", "quantity": "a - b", "expected": "+", "margin": 0.5, "seeds": 10, "unit": "points", "published": ""},
          "effect": {"mean": 1.0, "low": 0.5, "high": 1.5, "p": 0.01, "n": 20, "p_holm": 0.01}, "verdict": "supported", "chapter": "11_good", "deviations": "",
          "env": {}, "commit_time": 5, "minutes": 1.0, "date": "2026-01-01"}


def test_report_fills_the_marks_and_the_headers(running, capsys):
    top = running.top
    readme = top / "README.md"
    readme.write_text("<!-- summary -->\n<!-- /summary -->\nbefore\n<!-- ledger -->\nold\n<!-- /ledger -->\nafter\n", encoding="utf-8")
    colab = nbformat.v4.new_code_cell('#| eval: false\nif "google.colab" in sys.modules:\n    %pip install -q "diversity_kit @ git+https://github.com/someone/else"')
    chapter(top / "nbs/measure/11_good.ipynb", colab, "x = 1")
    (top / "results/cpu-2core").mkdir(parents=True)
    (top / "results/cpu-2core/K01.json").write_text(json.dumps(RECORD))
    (top / "results/cpu-2core/chapters.json").write_text(json.dumps({"measure/11_good": {"minutes": 1.5, "peak_mb": 1234, "date": "2026-02-03"}}))
    assert running.command.main(["report"]) == 0
    text = readme.read_text(encoding="utf-8")
    summary, _, text = text.partition("<!-- /summary -->\n")
    assert "**1 records** (1 on `cpu-2core`): 1 supported, 0 refuted" in summary
    assert text.startswith("before\n<!-- ledger -->\n| claim |") and text.endswith("<!-- /ledger -->\nafter\n") and "old" not in text
    assert "| K01 | A helps \\| really |" in text and "| supported |" in text
    nb = nbformat.read(top / "nbs/measure/11_good.ipynb", 4)
    address = running.command.settings()["DEFAULT"]["git_url"]
    assert nb.cells[0].source.startswith("# A chapter\n\n> **Claim.** It runs.\n\n<!-- header: generated by `python3 kit report` -->\n**[Open in Colab](https://colab.")
    assert f"{address.removeprefix('https://')[10:]}/blob/main/nbs/measure/11_good.ipynb" in nb.cells[0].source
    assert "`cpu-2core`: 1.5 min, 1.2 GB, last verified 2026-02-03" in nb.cells[0].source
    assert f'git+{address}"' in nb.cells[1].source and "someone" not in nb.cells[1].source
    before = {p: p.stat().st_mtime_ns for p in top.glob("nbs/**/*.ipynb")}
    assert running.command.main(["report"]) == 0                         # twice is once
    assert before == {p: p.stat().st_mtime_ns for p in top.glob("nbs/**/*.ipynb")} and readme.read_text(encoding="utf-8").endswith(text)
    readme.write_text("no marks")
    assert running.command.main(["report"]) == 2
    assert "marks <!-- ledger --> ... <!-- /ledger --> are missing" in capsys.readouterr().err


def test_report_mends_the_links_to_the_source(running):
    top = running.top
    module = top / "diversity_kit/measure/good.py"
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text('"""M."""\n\n@cache\ndef f(x):\n    "F."\n\nclass A:\n    def g(self): pass\n', encoding="utf-8")
    show = lambda name, head: nbformat.v4.new_code_cell(f"show_doc({name})", outputs=[nbformat.v4.new_output("execute_result", {"text/markdown": f"---\n\n{head}### {name}\n\nbody"})])
    (top / "README.md").write_text("<!-- summary -->\n<!-- /summary -->\n<!-- ledger -->\n<!-- /ledger -->\n", encoding="utf-8")
    stale = '[source](/blob/main/diversity_kit/measure/other.py#LNone){target="_blank" style="x"}\n\n'
    chapter(top / "nbs/measure/11_good.ipynb", "#| default_exp measure.good", show("f", stale), show("A.g", ""), show("gone", stale))
    assert running.command.main(["report"]) == 0
    texts = [c.outputs[0].data["text/markdown"] for c in nbformat.read(top / "nbs/measure/11_good.ipynb", 4).cells if "show_doc" in c.source]
    start = f"{running.command.settings()['DEFAULT']['git_url']}/blob/main/diversity_kit/measure/good.py"
    assert texts == [f"---\n\n[source]({start}#L3)\n\n### f\n\nbody", f"---\n\n[source]({start}#L8)\n\n### A.g\n\nbody", "---\n\n### gone\n\nbody"]


def test_docs_need_no_network(running):
    md = nbformat.v4.new_markdown_cell("## Loss\n\n$$L = \\frac{1}{n}\\sum_i \\ell_i \\tag{3.2}$$ with $n \\ge 1$, costs 5$ to 6$, `$x$`, see [next](12_next.ipynb) and [site](https://example.org/a).")
    chapter(running.top / "nbs/measure/11_good.ipynb", "#| export\ndef f(x): return x < 1", "#| hide\nassert 'hidden cell'", md)
    chapter(running.top / "nbs/measure/12_next.ipynb", "1")
    chapter(running.top / "nbs/index.ipynb", nbformat.v4.new_markdown_cell("[good](measure/11_good.ipynb)"), title="Contents")
    stale = running.top / "_docs/gone.html"
    stale.parent.mkdir()
    stale.touch()
    assert running.command.main(["docs"]) == 0
    pages = {p.relative_to(running.top / "_docs").as_posix(): p.read_text(encoding="utf-8") for p in (running.top / "_docs").rglob("*.html")}
    assert set(pages) == {"index.html", "measure/11_good.html", "measure/12_next.html"}
    for name, text in pages.items():
        assert not re.search(r"<(?:script|link|iframe|object|embed)\b|@import|url\(\s*['\"]?https?:|\bsrc=['\"]?(?:https?:)?//", text), name
        assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"https://example.org/a", "http://www.w3.org/1998/Math/MathML"}, name
    page = pages["measure/11_good.html"]
    assert "<math" in page and "(3.2)" in page and "tag{" not in page and "5$ to 6$" in page and "<code>$x$</code>" in page
    assert 'href="12_next.html"' in page and "hidden cell" not in page and "export" not in page and "../index.html" in page
    assert 'href="measure/11_good.html"' in pages["index.html"]


def test_mathml_leaves_code_and_prices_alone(project):
    convert = project.command.mathml
    for text in ("`$a$` and ```\n$b$\n``` code", "from $5 to $6", "5$ or 6$", "a\\$b$"):
        assert convert(text) == text
    assert convert("$a_1$").startswith("<math") and convert("$$\na\n$$").startswith('<math') and 'display="block"' in convert("$$a$$")


@POSIX
def test_lab_serves(project, monkeypatch):
    chapter(project.top / "nbs/index.ipynb", "1")
    port = closed_port()
    monkeypatch.setenv("KIT_NO_VENV", "1")
    command = subprocess.Popen([sys.executable, "kit", "lab", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="],
                               cwd=project.top, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    def get(page):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
            return answer.read().decode()
    try:
        wait_for(lambda: get("api") or command.poll() is not None, 120)
        assert "version" in json.loads(get("api"))
        assert json.loads(get("api/contents/nbs/index.ipynb"))["type"] == "notebook"   # the checkout is what it serves
    finally:
        command.terminate()                                              # the server itself, not a parent that waits for it
        command.communicate(timeout=60)
    assert get("api") is None
