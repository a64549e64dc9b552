"""Texts a second of a saved classifier, in one run: sorted against unsorted batches, and clients that share passes against one pass a request.

    python tests/bench/bench_serve.py [--clients 16] [--requests 20] [--repeats 3]

The model has MiniLM's shape with random weights (the speed does not depend on them); the texts are sentences of Python's manual, 8 to 33 words."""
import argparse
import asyncio
import os
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
from bench_augment import sentences  # noqa: E402

from diversity_kit.learn import serve  # noqa: E402


def saved(folder: str):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(sentences(2000), trainers.WordPieceTrainer(vocab_size=8000, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    shape = transformers.BertConfig(vocab_size=len(tokenizer), hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=2)
    return serve.save(transformers.BertForSequenceClassification(shape), tokenizer, ["no", "yes"], f"{folder}/model", max_length=128)


def unsorted(predictor, texts):
    "The same forward passes in the order the texts came in."
    for a in range(0, len(texts), predictor.batch):
        rows = predictor.tokenizer(texts[a:a + predictor.batch], truncation=True, max_length=predictor.max_length, padding=True, return_tensors="pt")
        with torch.inference_mode():
            predictor.model(**rows.to(predictor.model.device))


async def clients(service, n: int, requests: int, texts) -> float:
    "Wall seconds of n clients that each send `requests` single texts, one after the other."
    import httpx
    async with service.router.lifespan_context(service), httpx.AsyncClient(transport=httpx.ASGITransport(app=service), base_url="http://x", timeout=600) as c:
        async def one(k):
            for r in range(requests):
                answer = await c.post("/predict", json={"texts": [texts[(k * requests + r) % len(texts)]]})
                assert answer.status_code == 200
        begin = time.perf_counter()
        await asyncio.gather(*map(one, range(n)))
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("clients", 16), ("requests", 20), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    texts = sentences(320)
    with tempfile.TemporaryDirectory() as folder:
        predictor = serve.Predictor(saved(folder))
        predictor(texts[:32])
        timed = {"sorted": [], "unsorted": [], "shared": [], "alone": []}
        for _ in range(args.repeats):                                     # in turns, so that a busy moment meets all of them
            for name, do in (("sorted", lambda: predictor(texts)), ("unsorted", lambda: unsorted(predictor, texts))):
                begin = time.perf_counter()
                do()
                timed[name].append(time.perf_counter() - begin)
            for name, most in (("shared", None), ("alone", 1)):
                service = serve.app(predictor)
                if most:
                    predictor.batch, kept = 1, predictor.batch
                    service = serve.app(predictor, max_texts=1)
                timed[name].append(asyncio.run(clients(service, args.clients, args.requests, texts)))
                if most:
                    predictor.batch = kept
    best, n = {k: min(v) for k, v in timed.items()}, args.clients * args.requests
    print(f"{len(texts)} texts in batches of {predictor.batch}: sorted {len(texts) / best['sorted']:.0f} texts/s, unsorted {len(texts) / best['unsorted']:.0f}; ratio {best['unsorted'] / best['sorted']:.2f}")
    print(f"{args.clients} clients, {n} requests of one text: shared passes {n / best['shared']:.0f} requests/s, one pass a request {n / best['alone']:.0f}; ratio {best['alone'] / best['shared']:.2f}")


if __name__ == "__main__":
    main()
