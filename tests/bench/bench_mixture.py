"""Mixture against a plain numpy sampler (indices) and datasets.interleave_datasets (rows): ratios in one run, one process.

    python tests/bench/bench_mixture.py [--rows 200000] [--repeats 5]
"""
import argparse
import statistics
import time

import numpy as np
from datasets import Dataset, interleave_datasets

from diversity_kit.fusion.mixture import Mixture, Source

SIZES, SHARES = (200_000, 100_000, 50_000, 10_000), (.4, .3, .2, .1)


def plain(n):
    "Sources by their shares, rows of a source at random: a thousand draws at a time."
    rng = np.random.default_rng(0)
    for _ in range(n // 1000):
        kind = rng.choice(4, 1000, p=SHARES)
        (rng.random(1000) * np.array(SIZES)[kind]).astype(np.int64)


def rate(f, n):
    start = time.perf_counter()
    f(n)
    return n / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    sets = [Dataset.from_dict({"text": [f"{k} text {i}" for i in range(n)]}) for k, n in enumerate(SIZES)]
    weights = dict(zip("abcd", SHARES))
    stream = lambda n: Mixture({k: Source(s, max_repeats=None) for k, s in zip("abcd", sets)}, weights=weights, steps=n)
    hf = interleave_datasets([s.to_iterable_dataset() for s in sets], probabilities=list(SHARES), seed=0, stopping_strategy="all_exhausted")
    ways = {"plain index": (plain, 20 * a.rows), "Mixture index": (lambda n: stream(n).schedule(), 20 * a.rows), "Mixture rows": (lambda n: sum(1 for _ in stream(n)), a.rows),
            "interleave_datasets rows": (lambda n: sum(1 for _ in hf.take(n)), a.rows // 10)}
    got = {name: [] for name in ways}
    for _ in range(a.repeats):                                                      # interleaved, so that a busy moment hits all
        for name, (f, n) in ways.items():
            got[name].append(rate(f, n))
    median = {name: statistics.median(v) for name, v in got.items()}
    for name, v in median.items():
        print(f"{name:26} {v:12,.0f} a second")
    print(f"index: {median['Mixture index'] / median['plain index']:.2f} of the plain sampler (goal 0.5)   rows: {median['Mixture rows'] / median['interleave_datasets rows']:.1f} times interleave_datasets (goal 10)")


if __name__ == "__main__":
    main()
