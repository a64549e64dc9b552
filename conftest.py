"""Make nbval read notebooks the way nbdev writes them. Loaded by pytest; nothing here touches the notebooks on disk."""
import functools
import os
import re
from configparser import ConfigParser
from pathlib import Path

_INI = ConfigParser(delimiters=["="])
_INI.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
_SKIP = set(_INI["DEFAULT"]["tst_flags"].split())
_DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$", re.M)

# The tests run every chapter with the smoke profile, quietly, one thread a process, and never through a model hub.
os.environ.setdefault("DIVERSITY_KIT_PROFILE", "smoke")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


@functools.lru_cache(None)
def _missing(chapter):
    "The data cards of settings.ini's [needs] that this chapter cannot get here."
    from diversity_kit.data import sources
    return [card for card in _INI["needs"].get(chapter, "").split() if not sources.try_fetch(card)]


def pytest_itemcollected(item):
    cell = getattr(item, "cell", None)
    if cell is None or not hasattr(item, "options"):
        return                                                       # an ordinary test
    found = {k.lower(): v.lower() for k, v in _DIRECTIVE.findall(cell.source)}
    if found.get("eval") == "false" or _SKIP & found.keys():
        item.options["skip"] = True                                  # nbval knows nothing of '#| eval: false'
    elif (chapter := "/".join(item.path.with_suffix("").parts[-2:])) in _INI["needs"] and _missing(chapter):
        item.options["skip"] = True
    if cell.execution_count is None and cell.outputs:
        cell.execution_count = 0                                     # nbdev-clean nulls it; nbval then fails, even with --nbval-lax


def pytest_configure(config):
    try:
        from nbval.kernel import RunningKernel
    except ImportError:
        return

    def execute_cell_input(self, cell_input, allow_stdin=None):      # nbval passes store_history=False, and then
        return self.kc.execute(cell_input, allow_stdin=allow_stdin,  # IPython prints the value of 'x;'
                               store_history=True, stop_on_error=False)

    RunningKernel.execute_cell_input = execute_cell_input
