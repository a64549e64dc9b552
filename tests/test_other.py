"""The transfer matrix: values, gap, plot, faults."""
import numpy as np
import pandas as pd
import pytest

from diversity_kit.fusion.other import Transfer, transfer
from diversity_kit.measure.experiment import Results

V = np.random.default_rng(0).normal(70, 5, (6, 3, 3))


def test_effects_are_paired_and_the_gap_is_its_definition():
    t = Transfer(("a", "b", "c"), V)
    e = t.effect("b", "a", "a")
    assert e.n == 6 and e.mean == pytest.approx((V[:, 1, 0] - V[:, 0, 0]).mean())
    by_hand = [np.mean([v[j, j] - np.mean([v[i, j] for i in range(3) if i != j]) for j in range(3)]) for v in V]
    assert t.gap.mean == pytest.approx(np.mean(by_hand)) and t.gap.low < t.gap.mean < t.gap.high
    frame = t.to_pandas()
    assert len(frame) == 9 and frame.query("train == 'c' and test == 'b'")["mean"].item() == pytest.approx(V[:, 2, 1].mean())


def test_an_easy_source_cannot_pass_for_a_good_teacher():
    easy = V.copy()
    easy[:, :, 0] += 20                                              # every model scores higher on source a
    assert Transfer(("a", "b", "c"), easy).gap.mean == pytest.approx(Transfer(("a", "b", "c"), V).gap.mean)


def test_from_results_and_plot():
    names = ("a", "b", "c")
    rows = [{"arm": s, "seed": k, **{t: V[k, i, j] for j, t in enumerate(names)}, "seconds": 0.} for i, s in enumerate(names) for k in range(6)]
    t = transfer(Results("x", pd.DataFrame(rows)), names)
    assert np.array_equal(t.values, V)
    texts = [c.get_text() for c in t.plot().axes[0].texts]
    assert len(texts) == 9 and texts[1].startswith(f"{V[:, 0, 1].mean():.0f}\n±")
    with pytest.raises(KeyError, match="no metric 'd'"):
        transfer(Results("x", pd.DataFrame(rows)), ("a", "d"))


@pytest.mark.parametrize("names, values", [(("a", "b"), V), (("a",), V[:, :1, :1]), (("a", "b", "c"), V[:1]), (("a", "b", "c"), V * np.nan), (("a", "b", "c"), V[0])])
def test_faults(names, values):
    with pytest.raises(ValueError, match="is needed"):
        Transfer(names, values)
    with pytest.raises(ValueError, match="no source 'z'"):
        Transfer(("a", "b", "c"), V).effect("z", "a")
