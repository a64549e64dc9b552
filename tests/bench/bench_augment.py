"""Sentences a second of Swap, Delete and Keyboard, beside plain Python with `random.random`, in one run: python tests/bench/bench_augment.py

Sentences are cut from Python's own manual (pydoc_data). Each row is the best of --repeats passes, in processor time of this process, one thread.
The baseline splits at spaces and joins again: it loses line breaks, moves punctuation along, keeps no trace and depends on the order."""
import argparse
import gc
import os
import random
import re
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

from diversity_kit.augment.base import Compose, Delete, OneOf, Protect, Swap  # noqa: E402
from diversity_kit.augment.chars import Keyboard, key_neighbours  # noqa: E402

NEAR = {k: v for keys in [key_neighbours("qwerty")] for a, b in keys.items() for k, v in ((a, b), (a.upper(), b.upper()))}


def sentences(n: int) -> list[str]:
    from pydoc_data.topics import topics
    text = " ".join(" ".join(body.split()) for _, body in sorted(topics.items()))
    found = dict.fromkeys(s for s in re.split(r"(?<=[.!?]) (?=[A-Z])", text) if 8 <= len(s.split()) <= 33 and len(s) < 250)
    out = list(found)[:n]
    return [out[i % len(out)] + (f" {i}" if i >= len(out) else "") for i in range(n)]


def plain_swap(texts, rate=.1, rnd=random.random):
    out = []
    for t in texts:
        words = t.split(" ")
        n = len(words)
        for _ in range(int(rate * n / 2 + rnd())):
            i, j = int(n * rnd()), int(n * rnd())
            words[i], words[j] = words[j], words[i]
        out.append(" ".join(words))
    return out


def plain_delete(texts, rate=.1, rnd=random.random):
    return [" ".join([w for w in t.split(" ") if rnd() >= rate]) or t for t in texts]


def plain_keyboard(texts, rate=.02, rnd=random.random):
    out = []
    for t in texts:
        chars = list(t)
        for _ in range(int(rate * len(chars) + rnd())):
            i = int(len(chars) * rnd())
            if options := NEAR.get(chars[i]):
                chars[i] = options[int(len(options) * rnd())]
        out.append("".join(chars))
    return out


def best(f, repeats: int) -> float:
    f()
    times = []
    for _ in range(repeats):
        gc.collect()
        begin = time.process_time()
        f()
        times.append(time.process_time() - begin)
    return max(min(times), 1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    texts = sentences(args.sentences)
    ints, strings = list(range(len(texts))), [f"row-{i}" for i in range(len(texts))]
    zh = ["我喜欢编程，我的猫喜欢键盘，图书馆今天不开门。" + str(i) for i in range(len(texts))]
    print(f"{len(texts)} sentences, mean {sum(len(t.split()) for t in texts) / len(texts):.1f} words, {sum(map(len, texts)) / len(texts):.0f} characters")
    print(f"{'':44}{'sentences/s':>14}{'x plain Python':>16}")
    for op, plain in ((Swap(.1), plain_swap), (Delete(.1), plain_delete), (Keyboard(.02), plain_keyboard)):
        floor = best(lambda: plain(texts), args.repeats)
        rows = [("plain Python, random.random", lambda: plain(texts)), (f"{op}, ids=None (hash of text)", lambda: op(texts)),
                (f"{op}, string ids", lambda: op(texts, ids=strings)), (f"{op}, integer ids", lambda: op(texts, ids=ints)),
                (f"{op}.trace, integer ids", lambda: op.trace(texts, ids=ints)), (f"{op}.trace, ids=None", lambda: op.trace(texts)),
                (f"{op}, Chinese", lambda: op(zh))]
        for name, f in rows:
            seconds = best(f, args.repeats)
            print(f"{name:44}{len(texts) / seconds:14,.0f}{floor / seconds:16.2f}")
    policy = Protect(Compose([Swap(.1), OneOf([Delete(.1), Delete(.2)])]), ["url", "email", "number", "negation"])
    print(f"{'Protect(Compose([Swap, OneOf([..])]), 4)':44}{len(texts) / best(lambda: policy(texts), args.repeats):14,.0f}")
    one = best(lambda: [op([t]) for t in texts[:200]], min(args.repeats, 3)) / min(200, len(texts))
    print(f"one text a call: {one * 1e6:.0f} microseconds (call with batches)")


if __name__ == "__main__":
    main()
