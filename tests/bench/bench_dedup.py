"""Near-duplicate search: the kit, rensa and datasketch on one input in one run, all with an exact check of every candidate.

    python -m venv DIR && DIR/bin/pip install rensa datasketch          # once: the rivals in an environment of their own
    python tests/bench/bench_dedup.py --peers DIR/bin/python [--rows 20000] [--repeats 3] [--out FILE.json]
    python tests/bench/bench_dedup.py --big 1000000                     # the kit alone, also the command: rows/s and peak memory

Every subject runs in a process of its own on one thread; the time is processor time from the list of texts to the list of (removed, kept, score), best
of the repeats. The rivals get the kit's own rule: words in lower case, 3-grams, bands for 98 % recall at the threshold, rows in order against kept rows,
Jaccard on sets of 3-grams for every candidate."""
import argparse
import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time

os.environ.update({k: "1" for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")})
THRESHOLD = .5


def corpus(n, words=66, seed=0):
    "n documents of Zipf-like words, a tenth of them copies with 5 % of the words changed."
    rnd = random.Random(seed)
    word = lambda: f"w{int(30000 * rnd.random()**3)}"
    docs = [[word() for _ in range(rnd.randint(words // 2, words * 3 // 2))] for _ in range(n * 9 // 10)]
    docs += [[word() if rnd.random() < .05 else w for w in rnd.choice(docs)] for _ in range(n - len(docs))]
    rnd.shuffle(docs)
    return [" ".join(d) for d in docs]


def plan(t):
    for r in range(16, 0, -1):
        b = math.ceil(math.log(.02) / math.log1p(-t**r))
        if b * r <= 128:
            return b, r


def shingles(text):
    w = re.findall(r"[a-z0-9]+", text.lower())
    return {" ".join(w[i:i + 3]) for i in range(max(1, len(w) - 2))}


def checked(sets, candidates):
    "Rows in order; candidates(i) gives earlier kept rows; keep(i) is told of each row that stays."
    ask, keep = candidates
    out = []
    for i, s in enumerate(sets):
        best = max(((len(s & sets[j]) / len(s | sets[j]), -j) for j in ask(i)), default=(0, 0))
        if best[0] >= THRESHOLD:
            out.append((i, -best[1], best[0]))
        else:
            keep(i)
    return out


def rensa(texts):
    from rensa import RMinHash, RMinHashLSH
    b, r = plan(THRESHOLD)
    sets, made = [shingles(t) for t in texts], []
    for s in sets:
        m = RMinHash(num_perm=b * r, seed=0)
        m.update(list(s))
        made.append(m)
    lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=b * r, num_bands=b)
    return checked(sets, (lambda i: lsh.query(made[i]), lambda i: lsh.insert(i, made[i])))


def datasketch(texts):
    from datasketch import MinHash, MinHashLSH
    b, r = plan(THRESHOLD)
    sets = [shingles(t) for t in texts]
    made = MinHash.bulk([[g.encode() for g in s] for s in sets], num_perm=b * r)
    lsh = MinHashLSH(num_perm=b * r, params=(b, r))
    return checked(sets, (lambda i: lsh.query(made[i]), lambda i: lsh.insert(i, made[i])))


def kit(texts):
    from diversity_kit.data.dedup import near_duplicates
    d = near_duplicates(texts, THRESHOLD)
    return list(zip(d.removed.tolist(), d.kept.tolist(), d.score.tolist()))


def child(name, rows, words, file=None):
    if file:                                                         # made by another process: making them takes more memory than the search
        with open(file, encoding="utf-8") as f:
            texts = f.read().split("\n")
    else:
        texts = corpus(rows, words)
    run = {"kit": kit, "rensa": rensa, "datasketch": datasketch}[name]
    run(texts[:2000])                                                # imports are not counted
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found = run(texts)
    seconds = time.process_time() - start
    sets = {i: shingles(texts[i]) for p in found for i in p[:2]} if rows <= 50_000 else {}
    wrong = sum(abs(len(sets[i] & sets[j]) / len(sets[i] | sets[j]) - s) > 1e-9 for i, j, s in found) if sets else None
    print(json.dumps({"name": name, "rows": rows, "cpu_s": round(seconds, 2), "rows_per_cpu_s": round(rows / seconds), "removed": len(found), "wrong_scores": wrong,
                      "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), "texts_mb": round(base / 1024)}))


def big(rows, words=35):
    "The search in Python and the command (exact or normalised, in shards) on one corpus that another process wrote."
    with tempfile.TemporaryDirectory() as folder:
        text, lines = os.path.join(folder, "texts"), os.path.join(folder, "in.jsonl")
        code = f"import sys, json; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r}); from bench_dedup import corpus; t = corpus({rows}, {words})\n" \
               f"open({text!r}, 'w').write('\\n'.join(t)); open({lines!r}, 'w').writelines(json.dumps({{'text': x}}) + '\\n' for x in t)"
        subprocess.run([sys.executable, "-c", code], check=True)
        run = lambda *c: subprocess.run([sys.executable, *c], check=True, capture_output=True, text=True).stdout
        table = [json.loads(run(__file__, "--child", "kit", "--rows", str(rows), "--file", text))]
        code = "import sys, resource, json, time; from diversity_kit.cli import main; main(sys.argv[1:]); " \
               "print(json.dumps([time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))"
        cpu, peak = json.loads(run("-c", code, "dedup", lines, os.path.join(folder, "out.jsonl"), "--number", "--backend", "serial").splitlines()[-1])
        with open(os.path.join(folder, "out.jsonl"), encoding="utf-8") as f:
            left = sum(1 for _ in f)
    return [*table, {"name": "diversity-kit dedup", "rows": rows, "cpu_s": round(cpu, 2), "rows_per_cpu_s": round(rows / cpu), "removed": rows - left, "peak_mb": round(peak / 1024)}]


def main():
    p = argparse.ArgumentParser()
    for flag, default in (("--peers", None), ("--child", None), ("--out", None), ("--file", None), ("--rows", 20_000), ("--words", 66), ("--repeats", 3), ("--big", 0)):
        p.add_argument(flag, default=default, type=type(default) if default is not None else str)
    a = p.parse_args()
    if a.child:
        return child(a.child, a.rows, a.words, a.file)
    python = lambda n: sys.executable if n == "kit" else a.peers
    ask = lambda n, rows, words: json.loads(subprocess.run([python(n), __file__, "--child", n, "--rows", str(rows), "--words", str(words)], check=True, capture_output=True, text=True).stdout)
    if a.big:
        table = big(a.big)
    else:
        runs = [ask(n, a.rows, a.words) for _ in range(a.repeats) for n in ("kit", *(("rensa", "datasketch") if a.peers else ()))]
        table = [min((r for r in runs if r["name"] == n), key=lambda r: r["cpu_s"]) for n in dict.fromkeys(r["name"] for r in runs)]
        for r in table:
            r["kit_is_faster_by"] = round(r["cpu_s"] / table[0]["cpu_s"], 2)
    print(json.dumps(table, indent=1))
    if a.out:
        with open(a.out, "w", encoding="utf-8") as f:
            f.write(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
