"""Random Unicode strings through the word transforms and compositions: nothing may raise, every promise is checked on every string.

    python tests/bench/fuzz_words.py [--strings 100000] [--seed 0]

Half of the strings are drawn from all code points (surrogates too), half from an alphabet of words, marks, joiners, emoji and spaces where the
rules meet. Checked: as many texts as came in; none emptied; applying the trace gives the call's result; no lone surrogate that was not there;
rate 0 is the identity; protected matches are still there; and, on a tenth, the same output alone, in reverse order and from other pieces."""
import argparse
import random
import re
import time

from diversity_kit.augment import base
from diversity_kit.augment.base import Compose, Delete, Keep, OneOf, Protect, RandomApply, SomeOf, Swap, apply
from diversity_kit.augment.words import AEDA, ShuffleSentences, SpanCutoff, WordDropout

PIECES = ["a", "the", "not", "n't", "don't", "it's", " ", "  ", "\t", "\n", "\r\n", ".", ",", "!", "?", "-", "://", "http://x.y/z", "www.a.b", "@", "#", "{x}", "42", "3.5%",
          "我", "不喜欢", "编程", "。", "，", "日本語", "カタカナ", "ｦ", "한국어", "ไทย", "שלום", "مرحبا", "é", "e\u0301", "\u0301", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "\ufe0f", "\u00ad", "\u200b",
          "\u2028", "\x00", "\ud800", "\U0010ffff", "“", "”", "’", "\u3000"]
SMALL = [Swap(.1), Swap(.5), Swap(1.), Swap(.4, skip=("the", "not")), Swap(.3, segment="jieba"), Delete(.1), Delete(.5), Delete(1.), Delete(.4, skip=("not",)),
         Delete(.3, segment="jieba"), AEDA(.2), AEDA(1.), WordDropout(.3), WordDropout(1.), SpanCutoff(.3), SpanCutoff(1.), ShuffleSentences(.5), ShuffleSentences(1.)]
MANY = [Protect(Swap(1.), ("negation", "url", "placeholder")), Protect(Delete(1.), "number"), Compose([Swap(.5), Delete(.3), AEDA(.2)]), OneOf([Swap(1.), Delete(.5), AEDA(.5)]),
        SomeOf([Swap(.3), Delete(.3), WordDropout(.3)], (0, 3)), RandomApply(Delete(.8), .5), Keep(Delete(.6), len)]
ZERO = [Swap(0.), Delete(0.), AEDA(0.), WordDropout(0.), ShuffleSentences(0.)]


def keeps(before: str, after: str) -> bool:
    return len(after) > len(before) // 2


MANY[-1] = Keep(Delete(.6), keeps)


def strings(n: int, rnd: random.Random) -> list[str]:
    wild = lambda: "".join(map(chr, (rnd.randrange(0x110000) if rnd.random() < .5 else rnd.randrange(0x250) for _ in range(rnd.randint(0, 40)))))
    tame = lambda: "".join(rnd.choices(PIECES, k=rnd.randint(0, 25)))
    return [wild() if i % 2 else tame() for i in range(n)]


def matches(text: str, op: Protect) -> list[str]:
    return [m.group() for p in op.compiled() for m in p.finditer(text)]


def check(op, texts: list[str], ids: range, seed: int) -> None:
    out, edits = op(texts, seed=seed, ids=ids), op.trace(texts, seed=seed, ids=ids)
    assert len(out) == len(edits) == len(texts)
    for t, o, e in zip(texts, out, edits):
        assert apply(t, e) == o, (op, t, o)
        assert bool(t) == bool(o), (op, t, o)
        assert re.search("[\ud800-\udfff]", t) or not re.search("[\ud800-\udfff]", o), (op, t, o)
        if isinstance(op, Protect):
            assert not (lost := [m for m in matches(t, op) if m not in o]), (op, t, o, lost)
    some = ids[:len(ids) // 10]
    assert [op([texts[i]], seed=seed, ids=[some[i]])[0] for i in range(len(some))] == out[:len(some)], op
    assert op(texts[::-1], seed=seed, ids=ids[::-1])[::-1] == out, op


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rnd, begin, batch = random.Random(args.seed), time.monotonic(), 1000
    for a in range(0, args.strings, batch):
        texts, ids = strings(min(batch, args.strings - a), rnd), range(a, min(a + batch, args.strings))
        base._CHARS = rnd.choice((300, 3000, 1 << 18))                     # pieces of every size give the same
        for op in SMALL + MANY:
            check(op, texts, ids, args.seed)
        for op in ZERO:
            assert op(texts, ids=ids) == texts and not any(op.trace(texts, ids=ids)), op
        if not a % (10 * batch):
            print(f"{a + batch} strings, {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{args.strings} strings x {len(SMALL + MANY + ZERO)} transforms: nothing raised, every check held ({time.monotonic() - begin:.0f} s)")


if __name__ == "__main__":
    main()
