"""Batched decoding: equality with transformers' generate, and sentences per second. `python tests/bench/bench_translation.py`; on a CUDA machine also the training step, captured against eager.

A model is trained for a moment first: an untrained one never ends, and all decoders are then equally slow."""
import argparse
import os
import time

os.environ.setdefault("DIVERSITY_KIT_PROFILE", "cpu")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from diversity_kit import kit  # noqa: E402
from diversity_kit.augment.translation import Seq2Seq, beam_search, decode, pad  # noqa: E402
from diversity_kit.cases import translation as case  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="toy_parallel")
parser.add_argument("--sentences", type=int, default=256)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--models", type=int, default=8, help="models trained side by side on a GPU")
args = parser.parse_args()
device = kit.device()
if device.type == "cpu":
    torch.set_num_threads(1)
config = case.arms(only=("base",), data=args.data, lang="zh", langs=["de", "zh"], n=1000, mono=0, steps=args.steps, batch=64, width=args.width, layers=args.layers, vocab=800, words=12, lr=3e-3, dropout=0.1, test=0)["base"]
job = lambda seed, **kw: case.job(config | kw, seed, *case.training_pairs(config, seed))
start = time.perf_counter()
model, losses = case.fit(job(0))
print(f"{device}: {args.steps} eager steps in {time.perf_counter() - start:.1f} s, last loss {losses[-10:].mean():.2f}")
tok, test = case.vocabulary(config), case.pool(args.data, "zh", 12)["test"].sample(args.sentences)
rows = sorted(case.encode(tok, test.sources), key=len)
trim = lambda tokens: [r[: r.index(tok.eos_token_id)] if tok.eos_token_id in r else r for r in tokens.tolist()]


def timed(call, rounds=3):
    best = float("inf")
    for _ in range(rounds):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        out = call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return out, best


most = 40
ids, mask = pad(rows, tok.pad_token_id, device)
print(f"{'':28}{'sentences/s':>12}{'equal':>8}")
for beams in (1, 4):
    own, a = timed(lambda: decode(model, ids, mask, most) if beams == 1 else beam_search(model, ids, mask, most, beams))
    library, b = timed(lambda: model.generate(input_ids=ids, attention_mask=mask, num_beams=beams, do_sample=False, max_new_tokens=most)[:, 1:])
    equal = np.mean([x == y for x, y in zip(trim(own.tokens), trim(library))])
    print(f"beam {beams}: ours              {len(rows) / a:12.0f}\nbeam {beams}: generate          {len(rows) / b:12.0f}{equal:8.1%}")
    one, c = timed(lambda: [trim(model.generate(input_ids=ids[i:i + 1, : len(r)], attention_mask=mask[i:i + 1, : len(r)], num_beams=beams, do_sample=False, max_new_tokens=most)[:, 1:])[0] for i, r in enumerate(rows[:32])], 1)
    print(f"beam {beams}: generate, one by one {32 / c:9.0f}{np.mean([x == y for x, y in zip(one, trim(own.tokens))]):8.1%}")
_, d = timed(lambda: Seq2Seq(model, tok, name="bench").translate(list(test.sources)))
print(f"from text to text, greedy   {len(rows) / d:12.0f}")
if device.type == "cuda":
    for many in (1, args.models):
        jobs = [job(s, steps=400) for s in range(many)]
        case.fit_many(jobs[:1])
        _, e = timed(lambda: case.fit_many(jobs), 1)
        print(f"training, captured, {many} side by side: {many * 400 / e:.0f} steps/s")
    _, f = timed(lambda: case.fit(job(0)), 1)
    print(f"training, eager: {args.steps / f:.0f} steps/s")
