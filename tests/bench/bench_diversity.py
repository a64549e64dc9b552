"""Self-BLEU beside NLTK and Vendi beside vendi-score, on one input in one run.

    python -m venv DIR && DIR/bin/pip install vendi-score==0.0.3 nltk==3.10.4           # once: the peers in an environment of their own
    python tests/bench/bench_diversity.py --peers DIR/bin/python [--sizes 100 400] [--rows 1000 3000]

Texts are sentences of Python's own manual, tokens made once and given to both; embeddings are random directions around 40 centres (d = 384, float64).
Processor time of one thread, best of --repeats; NLTK and the N x N form run once. A line fails (exit 1) where the values differ by more than 1e-6."""
import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update({k: "1" for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

import numpy as np  # noqa: E402

PEER = '''
import json, sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
job = json.load(open(sys.argv[1]))
out = {}
def timed(name, f, repeats):
    best = 1e99
    for _ in range(repeats):
        t = time.process_time(); value = f(); best = min(best, time.process_time() - t)
    out[name] = [best, float(value)]
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
m = SmoothingFunction(epsilon=.1).method1
for n in job["sizes"]:
    t = job["tokens"][:n]
    timed(f"bleu {n}", lambda: np.mean([sentence_bleu(t[:i] + t[i+1:], x, smoothing_function=m) for i, x in enumerate(t)]), 1)
from vendi_score import vendi
X = np.load(job["vectors"])
for n in job["rows"]:
    timed(f"dual {n}", lambda: vendi.score_dual(X[:n]), job["repeats"])
    timed(f"full {n}", lambda: vendi.score_X(X[:n]), 1)
print(json.dumps(out))
'''


def sentences(n: int) -> list[str]:
    from bench_augment import sentences as cut
    return cut(n)


def best(f, repeats: int) -> tuple[float, float]:
    times, value = [], 0.
    for _ in range(repeats):
        gc.collect()
        t = time.process_time()
        value = f()
        times.append(time.process_time() - t)
    return min(times), value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="python of the environment with vendi-score and nltk; without it only the kit is timed")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 3000])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    from diversity_kit.data.diversity import self_bleu, tokens, vendi
    rng = np.random.default_rng(0)
    split = [tokens(t) for t in sentences(max(20_000, *args.sizes))]
    X = rng.normal(size=(40, 384))[rng.integers(0, 40, max(args.rows))] + rng.normal(size=(max(args.rows), 384))
    theirs = {}
    if args.peers:
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/x.npy", X)
            job = {"tokens": split[:max(args.sizes)], "vectors": f"{folder}/x.npy", "sizes": args.sizes, "rows": args.rows, "repeats": args.repeats}
            Path(folder, "job.json").write_text(json.dumps(job))
            env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            done = subprocess.run([args.peers, "-c", PEER, f"{folder}/job.json"], capture_output=True, text=True, env=env)
            if done.returncode:
                print(done.stderr[-2000:])
                return 1
            theirs = json.loads(done.stdout)
    lines = [(f"self-BLEU, {n} texts", f"bleu {n}", "NLTK", lambda n=n: self_bleu(split[:n])) for n in [*args.sizes, 20_000]]
    lines += [(f"Vendi, {n} x 384", f"{form} {n}", f"vendi-score {form}", lambda n=n: vendi(X[:n])) for n in args.rows for form in ("dual", "full")]
    wrong = 0
    print(f"{'':22}{'kit, CPU-s':>12}{'peer, CPU-s':>13}{'times':>8}  values (kit, peer)")
    for name, key, peer, f in lines:
        mine, value = best(f, args.repeats)
        if key in theirs:
            cost, other = theirs[key]
            wrong += abs(value - other) > 1e-6 * max(1, abs(other))
            print(f"{name:22}{mine:12.4f}{cost:13.4f}{cost / max(mine, 1e-9):8.1f}  {value:.6f}, {other:.6f} ({peer})")
        else:
            print(f"{name:22}{mine:12.4f}{'-':>13}{'-':>8}  {value:.6f}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
