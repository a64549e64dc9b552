"""measure.plots: figures with alt text, no trace in pyplot, bad intervals refused, labels that do not collide."""
import base64
import html
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from diversity_kit.measure import plots
from diversity_kit.measure.stats import Effect

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "measure" / "13_plots.ipynb"
ROWS = {"a": (1.0, 0.2, 1.8), "b": SimpleNamespace(mean=-1.0, low=-2.0, high=0.0), "c": (0.0, -0.1, 0.1)}
CURVES = {"base": {50: (70, 68, 72), 100: (80, 79, 81)}, "more": {100: (80.1, 79, 82), 50: (69, 66, 72)}}


@pytest.fixture
def shown(monkeypatch):
    import IPython.display
    outputs = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: outputs.append(data))
    return outputs


def image(output):
    kind, data = re.search(r'src="data:image/([a-z+]+);base64,([^"]+)"', output["text/html"]).groups()
    return kind, base64.b64decode(data)


def test_show_writes_an_image_with_alt_text_and_closes_the_figure(shown):
    fig, ax = plt.subplots()
    ax.plot([1, 2], label="x")
    plots.show(fig, alt='a "rising" line,\n x < y & so on')
    assert not plt.get_fignums()
    text = shown[0]["text/plain"]
    assert text == 'a "rising" line, x < y & so on'
    assert html.unescape(re.search(r'alt="([^"]*)"', shown[0]["text/html"]).group(1)) == text
    kind, data = image(shown[0])
    assert kind == "svg+xml" and ElementTree.fromstring(data).tag.endswith("svg")
    assert "http" not in re.sub(rb'(xmlns(:\w+)?|rdf:\w+)="[^"]*"|<!DOCTYPE[^>]*>|<metadata>.*?</metadata>', b"", data, flags=re.S).decode()


def test_show_falls_back_to_png_and_is_deterministic(shown):
    for limit in (10, 150_000, 150_000):
        plots.show(plots.forest(ROWS, xlabel="x"), alt="three rows", limit=limit)
    assert image(shown[0])[0] == "png" and image(shown[0])[1].startswith(b"\x89PNG")
    assert shown[1] == shown[2] and image(shown[1])[0] == "svg+xml"


def test_show_faults(shown):
    fig = plots.forest(ROWS, xlabel="x")
    for alt in ("", "  ", None):
        with pytest.raises(ValueError, match="alt"):
            plots.show(fig, alt=alt)
    with pytest.raises(TypeError, match="ax.figure"):
        plots.show(fig.axes[0], alt="x")
    assert not shown


def test_nbdev_clean_keeps_the_figure():
    clean = pytest.importorskip("nbdev.clean")
    from fastcore.basics import AttrDict
    data = {"text/html": ['<img alt="words" src="data:image/png;base64,AA==">'], "text/plain": ["words"]}
    output = {"output_type": "display_data", "metadata": {"x": 1}, "data": dict(data)}
    nb = AttrDict(cells=[AttrDict(cell_type="code", source="1", metadata={}, outputs=[output], execution_count=1, id="a")], metadata={})
    clean.clean_nb(nb, repair=False)
    assert output["data"] == data and output["metadata"] == {}


def test_committed_figures_have_alt_text():
    nb = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    pages = ["".join(o.get("data", {}).get("text/html", "")) for c in nb["cells"] for o in c.get("outputs", [])]
    alts = [re.search(r'alt="([^"]*)"', page).group(1) for page in pages if "<img" in page]
    assert len(alts) == 3 and min(map(len, alts)) > 40


def test_no_trace_in_pyplot():
    before = dict(mpl.rcParams)
    plots.forest(ROWS, xlabel="x", verdicts=["supported", "refuted", None], margin=0.5)
    plots.learning_curve(CURVES, xlabel="n", ylabel="y")
    assert dict(mpl.rcParams) == before and not plt.get_fignums()
    with plt.rc_context():
        plots.use_style()
        assert plots.PALETTE["blue"] in mpl.rcParams["axes.prop_cycle"].by_key()["color"]


def test_forest_draws_what_it_is_given():
    fig = plots.forest(ROWS, xlabel="points", verdicts={"a": "supported", "b": "refuted"}, margin=0.25, title="t")
    ax = fig.axes[0]
    assert isinstance(fig, Figure) and ax.get_xlabel() == "points" and [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    lines = {tuple(map(float, line.get_xdata())) for line in ax.lines}
    assert {(0.2, 1.8), (-2.0, 0.0), (-0.1, 0.1), (1.0,), (-1.0,), (0, 0)} <= lines
    assert ax.get_ylim()[0] > ax.get_ylim()[1]                                             # first row on top
    assert "+1.00 [0.20, 1.80]" in [t.get_text() for t in ax.texts]
    markers = [line.get_marker() for line in ax.lines if len(line.get_xdata()) == 1]
    assert markers == ["o", "X", "o"] and [t.get_text() for t in fig.legends[0].get_texts()] == ["supported", "refuted"]
    assert any(p.get_extents().width > 0 for p in ax.patches)                              # the margin's band


def test_forest_prints_as_many_decimals_as_the_interval_justifies():
    shown = lambda row, **more: plots.forest({"a": row}, xlabel="x", **more).axes[0].texts[0].get_text()
    assert shown((1e-4, 5e-5, 2e-4)) == "+0.000100 [0.000050, 0.000200]" and shown((1e-4, 5e-5, 2e-4), decimals=3) == "+0.000 [0.000, 0.000]"
    for e in (Effect(-0.0123, -0.02, -0.003, 20, .01), Effect(1.5, -3, 6, 20, .5)):
        assert str(e).startswith(shown(e) + " n=20") and shown((e.mean, e.low, e.high)) == shown(e)
    e = Effect(0.5, 0.6, 0.7, 20, 0.1, method="percentile bootstrap")                      # a biased statistic's estimate may lie outside: an Effect is drawn as it is
    assert shown(e).startswith("+0.50")


def test_verdicts_differ_in_shape_and_colour():
    assert set(plots.VERDICT_STYLE) == {"supported", "refuted", "equivalent", "inconclusive"}
    assert all(len({v[i] for v in plots.VERDICT_STYLE.values()}) == 4 for i in (0, 1))
    fig = plots.forest([("same", (1, 0, 2)), ("same", (2, 1, 3))], xlabel="x", verdicts=["equivalent", "inconclusive"])
    assert len(fig.axes[0].get_yticks()) == 2                                              # a list keeps equal labels apart
    colors = [to_hex(line.get_color()) for line in fig.axes[0].lines if len(line.get_xdata()) == 1]
    assert len(set(colors)) == 2


@pytest.mark.parametrize("rows, kwargs, error, says", [
    ({}, {}, ValueError, "no effects"), ([], {}, ValueError, "no effects"), ({"a": (math.nan, 0, 1)}, {}, ValueError, "finite"),
    ({"a": (0, -math.inf, 1)}, {}, ValueError, "finite"), ({"a": (0, 1, -1)}, {}, ValueError, "'a': low=1.0 lies above high"),
    ({"a": 3}, {}, TypeError, "Effect"), ({"a": (1, 2)}, {}, TypeError, "Effect"), ({"a": "xyz"}, {}, TypeError, "Effect"), ({"a": "123"}, {}, TypeError, "Effect"), ({"a": (0, 1, 2)}, {}, ValueError, "the order is"),
    (ROWS, {"verdicts": ["supported"]}, ValueError, "one verdict per row"), (ROWS, {"verdicts": {"a": "proved"}}, ValueError, "proved"),
    (ROWS, {"verdicts": {"z": "refuted"}}, ValueError, "unknown rows"), (ROWS, {"margin": -1}, ValueError, "margin")])
def test_forest_faults(rows, kwargs, error, says):
    with pytest.raises(error, match=says):
        plots.forest(rows, xlabel="x", **kwargs)


def test_learning_curve_from_dict_and_frame():
    frame = pd.DataFrame([(arm, n, *v) for arm, c in CURVES.items() for n, v in c.items()], columns=["arm", "n", "mean", "low", "high"])
    for data in (CURVES, frame):
        ax = plots.learning_curve(data, xlabel="n", ylabel="score", title="t").axes[0]
        assert ax.get_xscale() == "log" and list(ax.lines[1].get_xdata()) == [50, 100] and list(ax.lines[1].get_ydata()) == [69, 80.1]
        assert [t.get_text() for t in ax.texts] == ["base", "more"] and len(ax.collections) == 2
        assert (ax.collections[0].get_paths()[0].get_extents().y0, ax.collections[0].get_paths()[0].get_extents().y1) == (68, 81)
        assert [ax.xaxis.get_major_formatter()(v, 0) for v in (50, 2000)] == ["50", "2,000"]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_end_labels_never_collide(ends):
    curves = {f"arm {i}": {10: (0.5, 0.4, 0.6), 20: (v, v - .01, v + .01)} for i, v in enumerate(ends)}
    fig = plots.learning_curve(curves, xlabel="n", ylabel="y")
    places = sorted(t.get_position()[1] for t in fig.axes[0].texts)
    assert len(places) == len(ends) and places[-1] <= 1 + 1e-9 and all(b - a > 0.074 for a, b in zip(places, places[1:]))


@pytest.mark.parametrize("data, says", [
    ({}, "no arms"), ({"a": {}}, "without points"), ({"a": {0: (1, 0, 2)}}, "log axis"), ({"a": {-5: (1, 0, 2)}}, "log axis"),
    ({"a": {10: (1, 2, 0)}}, "a at n=10.*low"), ({"a": {10: (math.nan, 0, 2)}}, "finite"),
    ({f"a{i}": {10: (1, 0, 2)} for i in range(8)}, "at most 7"), (pd.DataFrame({"arm": ["a"], "n": [1]}), "lacks the columns"),
    (pd.DataFrame([], columns=["arm", "n", "mean", "low", "high"]), "no arms"),
    (pd.DataFrame([("a", 1, 1, 0, 2)] * 2, columns=["arm", "n", "mean", "low", "high"]), "two rows")])
def test_learning_curve_faults(data, says):
    with pytest.raises(ValueError, match=says):
        plots.learning_curve(data, xlabel="n", ylabel="y")


def test_exercise_check_tells_right_from_wrong():
    nb = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = ["".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "code"]
    prose = "\n".join("".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "markdown")
    space = {"VERDICT_STYLE": plots.VERDICT_STYLE}
    exec(next(s for s in code if s.startswith("def check_verdict")), space)
    exec(next(s for s in code if s.startswith("def my_verdict")).split("check_verdict(")[0], space)
    check = space["check_verdict"]
    assert check(space["my_verdict"]).startswith("wrong shape") and check(lambda low, high, m: low > 0).startswith("wrong shape")
    for wrong in (lambda low, high, m: "supported" if low > 0 else "refuted" if high < 0 else "equivalent",
                  lambda low, high, m: "equivalent" if -m < low and high < m else "supported" if low > 0 else "refuted",
                  lambda low, high, m: "supported" if low + high > 0 else "refuted"):
        assert check(wrong).startswith("wrong value")
    exec(re.search(r"```python\n(def my_verdict.*?)```", prose, re.S).group(1), space)
    assert check(space["my_verdict"]) == "correct"


def test_a_source_link_leads_to_the_line_where_the_symbol_is_written():
    from diversity_kit import kit
    from diversity_kit.augment.base import Transform
    from diversity_kit.measure import ledger
    from diversity_kit.measure.stats import Effect
    from diversity_kit.study import audit
    root = Path(kit.__file__).parents[1]
    want = {plots.show: "def show(", ledger.read: "def read(", audit.read: "def read(", Transform.__call__: "def __call__(", Effect: "@dataclass"}
    for symbol, text in want.items():
        address, line = plots.source_link(symbol).split("#L")
        start, file = address.split("/blob/main/")
        assert start == kit.settings().defaults()["git_url"] and file == symbol.__module__.replace(".", "/") + ".py"
        assert text in (root / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert [plots.source_link(x) for x in (len, dict, 3, json.dumps, Path)] == [""] * 5


def test_a_symbol_typed_in_a_cell_is_found_by_its_docstring():
    "Three modules have a `read`: the one with this docstring is meant, and a function of the learner's own is nowhere."
    from diversity_kit.study import audit
    cell = {"__name__": "__main__"}
    exec(f"def read(path):\n    {audit.read.__doc__!r}\ndef trial(x):\n    'mine'", cell)
    assert plots.source_link(cell["read"]) == plots.source_link(audit.read)
    assert plots.source_link(cell["trial"]) == ""


def test_show_doc_uses_the_kits_renderer():
    from nbdev.showdoc import show_doc
    text = show_doc(plots.forest)._repr_markdown_()
    assert f"[source]({plots.source_link(plots.forest)})\n\n### forest\n" in text and "forest(" in text
    assert "{target" not in text and "[source]" not in show_doc(json.dumps)._repr_markdown_()
