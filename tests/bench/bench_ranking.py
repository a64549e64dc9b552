"""Full-ranking evaluation: the kit beside ranx, on the same scores, in one run.

    python -m venv DIR && DIR/bin/pip install ranx
    python tests/bench/bench_ranking.py --peer DIR/bin/python [--users 943] [--items 1682] [--repeats 5] [--out FILE.json]

Both get the same (users, items) score matrix and the same relevant items, and give recall@10, ndcg@10, mrr, hit rate@10 and precision@10 of every user.
Equality first (1e-9 on every user and metric, with ties at random scores impossible), then time, both on one thread, best of --repeats:
'whole': from the matrix to the numbers, which for ranx includes its Run object (it asks for names and sorts); 'metrics': ranx given the finished Run,
the kit given the matrix all the same. --golden prints the values that tests/test_recommendation.py has frozen."""
import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time

os.environ.update({k: "1" for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")})
import numpy as np  # noqa: E402

METRICS = ("recall", "ndcg", "mrr", "hit", "precision")
RANX = ["recall@10", "ndcg@10", "mrr", "hit_rate@10", "precision@10"]


def data(users, items, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(items, dtype=np.float32), (users, 1)), axis=1)          # no ties: libraries break them differently
    relevant = rng.random((users, items)) < rng.uniform(1, 40, users)[:, None] / items
    relevant[np.arange(users), rng.integers(0, items, users)] = True
    return scores, relevant


def best_of(f, repeats):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = f()
        seconds.append(time.perf_counter() - start)
    return min(seconds), value


def peer(file, repeats):
    "Runs in the peer's environment: the values and seconds of ranx."
    from ranx import Qrels, Run, evaluate
    with np.load(file) as f:
        scores, relevant = f["scores"], f["relevant"]
    names = np.array([f"i{i}" for i in range(scores.shape[1])])
    qrels = Qrels({f"u{u}": {names[i]: 1 for i in np.flatnonzero(row)} for u, row in enumerate(relevant)})
    make = lambda: Run({f"u{u}": dict(zip(names, map(float, row))) for u, row in enumerate(scores)})
    judge = lambda run: evaluate(qrels, run, RANX, return_mean=False, make_comparable=False)
    judge(make())                                                                                   # compiles
    run = make()
    metrics, value = best_of(lambda: judge(run), repeats)
    whole, _ = best_of(lambda: judge(make()), max(1, repeats // 2))
    order = [list(run.run).index(f"u{u}") for u in range(len(scores))]
    print(json.dumps({"whole": whole, "metrics": metrics, "values": {m: np.asarray(value[r])[order].tolist() for m, r in zip(METRICS, RANX)}}))


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--peer")
    ask.add_argument("--users", type=int, default=943)
    ask.add_argument("--items", type=int, default=1682)
    ask.add_argument("--repeats", type=int, default=5)
    ask.add_argument("--out")
    ask.add_argument("--golden", action="store_true")
    ask.add_argument("--as-peer", metavar="FILE")
    args = ask.parse_args()
    if args.as_peer:
        return peer(args.as_peer, args.repeats)
    if not args.peer:
        ask.error("--peer: the python of an environment that has ranx")
    import torch
    from diversity_kit.cases.recommendation import accuracy_at
    torch.set_num_threads(1)
    scores, relevant = data(args.users, args.items)
    s, r = torch.from_numpy(scores), torch.from_numpy(relevant)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "scores.npz")
        np.savez(file, scores=scores, relevant=relevant)
        got = subprocess.run([args.peer, __file__, "--as-peer", file, "--repeats", str(args.repeats)], capture_output=True, text=True, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    if got.returncode:
        sys.exit(got.stderr)
    theirs = json.loads(got.stdout.strip().splitlines()[-1])
    seconds, ours = best_of(lambda: accuracy_at(s, r, k=10), args.repeats)
    gap = max(float(np.abs(np.array(theirs["values"][m]) - ours[m].numpy()).max()) for m in METRICS)
    if args.golden:
        print({m: [round(v, 12) for v in theirs["values"][m][:6]] for m in METRICS})
    row = {"users": args.users, "items": args.items, "largest difference": gap, "kit s": seconds, "ranx metrics s": theirs["metrics"], "ranx whole s": theirs["whole"],
           "times faster, metrics": theirs["metrics"] / seconds, "times faster, whole": theirs["whole"] / seconds, "python": platform.python_version()}
    print(json.dumps(row, indent=1))
    if args.out:
        with open(args.out, "w") as f:
            json.dump(row, f, indent=1)
    sys.exit(0 if gap < 1e-9 and theirs["metrics"] >= seconds else 1)


if __name__ == "__main__":
    main()
