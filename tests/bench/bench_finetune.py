"""Examples per second of fine-tuning MiniLM: eager against torch.compile, in one run. `python tests/bench/bench_finetune.py` on a CUDA machine.

A mode is worth it when what it saves over a whole grid exceeds its first-step cost, so that is printed too."""
import argparse
import os
import time

os.environ.setdefault("DIVERSITY_KIT_PROFILE", "gpu")
from diversity_kit import kit  # noqa: E402
from diversity_kit.cases import sentiment as case  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="vader/movie")
parser.add_argument("--encoder", default="minilm_l6")
parser.add_argument("--steps", type=int, default=200)
args = parser.parse_args()
rows = case.pool(args.data)
train, dev = rows["train"].sample(1000), rows["validation"].sample(256)
base = None
print(f"{kit.device()}, measured peak {kit.measured_peak():.0f} TFLOP/s")
for mode in ("no", "default", "reduce-overhead"):
    start = time.perf_counter()
    case.finetune(args.encoder, train, dev, total=20, lr=5e-5, seed=0, compiled=mode, looks=1)
    first = time.perf_counter() - start
    runs = [case.finetune(args.encoder, train, dev, total=args.steps, lr=5e-5, seed=s, compiled=mode, looks=1)[1:] for s in (1, 2)]
    rate, peak = max(r[1] for r in runs), runs[0][2]
    base = base or rate
    print(f"{mode:16} {rate:9.0f} examples/s  x{rate / base:.2f}  share of peak {case.share_of_peak(args.encoder, rate):.3f}  first 20 steps {first:.1f} s  {peak:.0f} MB  dev {runs[0][0]:.1f} %", flush=True)
