"""AugmentedTrainer with K views against the plain Trainer on the same number of texts a step, in one run: `python tests/bench/bench_trainer.py`.

The plain Trainer gets its texts tokenised beforehand; AugmentedTrainer edits and tokenises them while it trains. The goal is a ratio of at most 1.10."""
import argparse
import random
import statistics
import tempfile
import time

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers

from diversity_kit import kit
from diversity_kit.augment.base import Delete, OneOf, Swap
from diversity_kit.learn.finetune import AugmentedTrainer, arguments

parser = argparse.ArgumentParser()
for name, value in {"copies": 3, "batch": 8, "steps": 8, "repeats": 5, "words": 24, "layers": 6, "width": 384}.items():
    parser.add_argument(f"--{name}", type=int, default=value)
a = parser.parse_args()
draw, words = random.Random(0), [f"w{i}" for i in range(2000)]
vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def rows(n: int) -> Dataset:
    return Dataset.from_dict({"id": list(range(n)), "text": [" ".join(draw.choices(words, k=a.words)) for _ in range(n)], "label": [i % 2 for i in range(n)]}, split="train")


def model():
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=len(vocabulary), hidden_size=a.width, num_hidden_layers=a.layers, num_attention_heads=a.width // 32,
                                                                            intermediate_size=4 * a.width, max_position_embeddings=128))


# On a CPU the time of this process, all threads: a machine that is shared changes wall time by more than the difference in question.
now = time.perf_counter if torch.cuda.is_available() else time.process_time


class Clock(transformers.TrainerCallback):
    "The time at the end of every step; differences include data loading."

    def on_train_begin(self, *args, **_):
        self.marks = []

    def on_step_end(self, *args, **_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append(now())


def seconds(make) -> float:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        make(folder, clock).train()
    return statistics.median(y - x for x, y in zip(clock.marks, clock.marks[1:]))


def settings(folder, batch):
    return arguments(folder, batch=batch, max_steps=a.steps + 1, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)


def augmented(folder, clock):
    return AugmentedTrainer(model(), settings(folder, a.batch), rows(a.batch * (a.steps + 1)), tokenizer=tokenizer, transform=OneOf([Swap(.1), Delete(.1)]), copies=a.copies, callbacks=[clock])


def plain(folder, clock):
    texts = rows(a.batch * (a.copies + 1) * (a.steps + 1))
    encoded = texts.map(lambda r: dict(tokenizer(r["text"], truncation=True, max_length=128)), batched=True, remove_columns=["text", "id"])
    return transformers.Trainer(model=model(), args=settings(folder, a.batch * (a.copies + 1)), train_dataset=encoded, callbacks=[clock],
                                data_collator=transformers.DataCollatorWithPadding(tokenizer))


transformers.logging.set_verbosity_error()
pairs = [(seconds(plain), seconds(augmented)) for _ in range(a.repeats)]
ratios = sorted(y / x for x, y in pairs)
print(f"{kit.device()}, {a.layers} layers of {a.width}, {a.batch} examples with {a.copies} copies, {a.repeats} alternating repeats")
print(f"plain {1000 * statistics.median(x for x, _ in pairs):.0f} ms a step, AugmentedTrainer {1000 * statistics.median(y for _, y in pairs):.0f} ms; "
      f"ratio {statistics.median(ratios):.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}], goal 1.10")
