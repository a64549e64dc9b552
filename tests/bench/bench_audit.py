"""The audit of a table of 10^6 rows of about 200 bytes: seconds, rows/s and the peak of memory, each kind of file in a process of its own on one thread.

    python tests/bench/bench_audit.py [--rows 20000] [--kinds csv,jsonl,parquet] [--html FOLDER]
    python tests/bench/bench_audit.py --big [--out FILE.json]           # a million rows; fails above 4 GiB

The texts are words of the docstrings in Python's own library, drawn by their frequency there. 2 % of the rows repeat an earlier one, 2 % nearly; a fifth is the
test split."""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update({k: "1" for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
LIMIT_GIB = 4


def words():
    "(words, their frequencies) in the docstrings of Python's own library."
    import pkgutil
    import re
    from collections import Counter
    count = Counter()
    for m in pkgutil.iter_modules([os.path.dirname(os.__file__)]):
        path = Path(m.module_finder.path, f"{m.name}.py")
        if path.is_file():
            count.update(w for doc in re.findall(r'"""(.*?)"""', path.read_text(encoding="utf-8", errors="replace"), re.S) for w in re.findall(r"[a-z']{1,20}", doc.lower()))
    names = sorted(w for w, c in count.items() if c > 1)
    return names, [count[w] for w in names]


def rows(n, seed=0):
    "n rows of text, label, split, source, date."
    import numpy as np
    rng = np.random.default_rng(seed)
    names, f = words()
    names, p, recent = np.array(names), np.array(f, float) / sum(f), []
    for low in range(0, n, 10_000):
        m = min(10_000, n - low)
        length = rng.integers(15, 60, m)
        drawn, at, u = names[rng.choice(len(names), length.sum(), p=p)], 0, rng.random(m)
        label, split = rng.integers(0, 2, m), rng.random(m) < .2
        for i in range(m):
            text = " ".join(drawn[at:at + length[i]]) + (" fine" if label[i] else " poor")
            at += length[i]
            if u[i] < .04 and recent:
                text = recent[int(rng.integers(len(recent)))] + ("" if u[i] < .02 else " indeed")
            elif len(recent) < 50_000:
                recent.append(text)
            yield {"text": text, "label": int(label[i]), "split": "test" if split[i] else "train", "source": f"site{i % 5}", "date": f"20{10 + i % 14}-{1 + i % 12:02}-{1 + i % 28:02}"}


def write(path, n):
    import csv
    with open(path, "w", encoding="utf-8", newline="") as f:
        if path.suffix == ".csv":
            out = csv.DictWriter(f, ["text", "label", "split", "source", "date"])
            out.writeheader()
            out.writerows(rows(n))
        elif path.suffix == ".jsonl":
            f.writelines(json.dumps(r) + "\n" for r in rows(n))
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq
        part, writer = [], None
        for r in [*rows(n), None]:
            if r is not None:
                part.append(r)
            if part and (r is None or len(part) == 100_000):
                table = pa.Table.from_pylist(part)
                writer, part = writer or pq.ParquetWriter(path, table.schema), []
                writer.write_table(table)
        writer.close()


def child(path, html):
    from diversity_kit.study.audit import audit
    start = time.perf_counter(), time.process_time()
    report = audit(path)
    seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    if html:
        report.save(html)
    print(json.dumps({"kind": Path(path).suffix[1:], "rows": report.rows, "mb": round(os.path.getsize(path) / 1e6), "s": round(seconds, 1), "cpu_s": round(cpu, 1), "rows_per_s": round(report.rows / seconds),
                      "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2), "findings": [f.check for f in report.findings],
                      "seconds": {k: round(v, 1) for k, v in report.seconds.items()}}))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rows", type=int, default=20_000)
    p.add_argument("--big", action="store_true", help="a million rows")
    p.add_argument("--kinds", default="csv,jsonl,parquet")
    p.add_argument("--out")
    p.add_argument("--html", help="a folder for the reports")
    p.add_argument("--child", nargs=2)
    a = p.parse_args()
    if a.child:
        return child(a.child[0], a.child[1])
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in a.kinds.split(","):
            path = Path(folder, f"rows.{kind}")
            write(path, 1_000_000 if a.big else a.rows)
            html = str(Path(a.html, f"{kind}.html")) if a.html else ""
            table.append(json.loads(subprocess.run([sys.executable, __file__, "--child", str(path), html], check=True, capture_output=True, text=True).stdout))
            print(json.dumps(table[-1]), flush=True)
            path.unlink()
    if a.out:
        Path(a.out).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    if over := [r for r in table if r["peak_gib"] > LIMIT_GIB]:
        sys.exit(f"above {LIMIT_GIB} GiB: {', '.join(r['kind'] for r in over)}")


if __name__ == "__main__":
    main()
