"""Tokens per second of the generation case's GPT-2: a minimal plain loop, then cases.generation.fit eager and compiled, in one run. `python tests/bench/bench_generation.py` (sizes of the gpu profile on CUDA, else of cpu).

The first-step cost of a mode of torch.compile is printed too: it pays when the run is longer than that."""
import argparse
import os
import time

import torch

os.environ.setdefault("DIVERSITY_KIT_PROFILE", "gpu" if torch.cuda.is_available() else "cpu")
from diversity_kit import kit  # noqa: E402
from diversity_kit.cases import generation as case  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--modes", nargs="*", default=["no", "default", "reduce-overhead"] if torch.cuda.is_available() else ["no"])
args = parser.parse_args()
cfg = kit.setup()
get = lambda *names: {n: cfg[f"generation_{n}"] for n in names}
config = {**get("styles", "limit", "vocab", "most", "held_out", "rows", "length", "batch", "width", "layers", "heads", "lr"), "steps": args.steps, "arm": "tagged", "looks": 1}
data, order = case.blocks(config, 0)
heads = case.control_tokens(case.world(config))
flops, peak = case.flops_per_token(config), kit.measured_peak()
share = lambda speed: f"share of peak {speed * flops / 1e12 / peak:.3f}" if peak == peak else ""                # the peak is measured on a GPU only
plain = max(case.plain_loop(config, data, order) for _ in range(args.rounds))
told = f"measured peak {peak:.0f} TFLOP/s; " if peak == peak else ""
print(f"{kit.device()}, {told}{flops / 6e6:.1f} M multiply-adds a token, {args.steps} steps of {config['batch'] * config['length']} tokens, best of {args.rounds}")
print(f"{'plain loop':20} {plain:12,.0f} tokens/s  x1.00  {share(plain)}")
for mode in args.modes:
    start = time.perf_counter()
    case.fit({**config, "compiled": mode}, data, order[: 5 * config["batch"]], heads, 0)
    first = time.perf_counter() - start
    run = max((case.fit({**config, "compiled": mode}, data, order, heads, s) for s in range(args.rounds)), key=lambda r: r.tokens_per_s)
    print(f"fit, compile {run.compiled:7} {run.tokens_per_s:12,.0f} tokens/s  x{run.tokens_per_s / plain:.2f}  {share(run.tokens_per_s)}  first 5 steps {first:.1f} s  {run.peak_mb:.0f} MB", flush=True)
