"""learn.serve: a folder that is whole or refused, answers that do not depend on company, a service that treats a text as text."""
import asyncio
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import transformers

from diversity_kit.learn import serve

httpx = pytest.importorskip("httpx")
testclient = pytest.importorskip("fastapi.testclient")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"good bad film the a of and very not fun dull".split()]


def make(seed=0, classes=2):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    torch.manual_seed(seed)
    shape = transformers.BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=40, num_labels=classes, initializer_range=.4)
    return transformers.BertForSequenceClassification(shape).eval(), tokenizer


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    return serve.save(*model, ["no", "yes"], tmp_path_factory.mktemp("m") / "model", temperature=2.5, max_length=16, card={"data": "a | b\nc", "license": "mit"})


@pytest.fixture(scope="module")
def predictor(saved):
    return serve.Predictor(saved, batch=4, device="cpu")


def texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[4:], rng.integers(1, 13))) for _ in range(n)]


# ---- the folder

def test_plain_transformers_loads_it_with_equal_logits(saved, model):
    plain, words = transformers.AutoModelForSequenceClassification.from_pretrained(saved).eval(), transformers.AutoTokenizer.from_pretrained(saved)
    rows = words(texts(5), padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(plain(**rows).logits, model[0](**rows).logits)
    assert plain.config.id2label == {0: "no", 1: "yes"} and plain.config.label2id == {"no": 0, "yes": 1}
    card = (saved / "README.md").read_text()
    assert "license: mit" in card and "| data | a \\| b c |" in card and "2.5" in card
    assert not [p.name for p in saved.iterdir() if p.suffix in serve.CODE] and (saved / "model.safetensors").is_file()


def test_the_same_model_is_the_same_bytes_and_another_is_not(saved, model, tmp_path):
    again = serve.save(*model, ["no", "yes"], tmp_path / "again", temperature=2.5, max_length=16, card={"data": "a | b\nc", "license": "mit"})
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in saved.iterdir()}
    assert serve.verify(again)["id"] == serve.verify(saved)["id"]
    for change in (dict(temperature=2.), dict(max_length=15), dict(labels=["yes", "no"])):
        other = serve.save(*model, **{"labels": ["no", "yes"], "folder": tmp_path / "other", "temperature": 2.5, "max_length": 16} | change)
        assert serve.verify(other)["id"] != serve.verify(saved)["id"], change
    assert [p.name for p in tmp_path.iterdir()] == ["again", "other"] or sorted(p.name for p in tmp_path.iterdir()) == ["again", "other"]
    model[0].config.id2label, model[0].config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}


@pytest.mark.parametrize("change, words", [
    ({"labels": ["no"]}, "must be 2 different names"), ({"labels": ["no", "no"]}, "must be 2 different names"), ({"labels": ["no", " "]}, "must be 2 different names"),
    ({"labels": [0, 1]}, "must be 2 different names"), ({"temperature": 0}, "temperature=0"), ({"temperature": float("nan")}, "temperature=nan"), ({"temperature": 1e-320}, "temperature=1e-320"), ({"temperature": 9e-4}, "at least 0.001"), ({"max_length": 41}, "model's 40 positions"), ({"max_length": 2}, "between 3")])
def test_what_does_not_fit_is_not_saved(model, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        serve.save(*model, **{"labels": ["no", "yes"], "folder": tmp_path / "m", "max_length": 16} | change)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("classes, kind, words", [(2, "multi_label_classification", "problem_type='multi_label_classification'"), (2, "regression", "problem_type='regression'"), (1, "regression", "problem_type='regression'"),
                                                  (1, None, "the model has 1 output")])
def test_what_does_not_choose_one_class_is_refused(saved, tmp_path, classes, kind, words):
    one, tokenizer = make(classes=classes)
    one.config.problem_type = kind
    with pytest.raises(ValueError, match=words):
        serve.save(one, tokenizer, ["no", "yes"][:classes], tmp_path / "m", max_length=16)
    assert not list(tmp_path.iterdir())
    config = json.loads((saved / "config.json").read_text())
    names = {"id2label": {"0": "no"}, "label2id": {"no": 0}} if classes == 1 else {}
    folder = copy(saved, tmp_path / "n")
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": kind} | names))
    told = json.loads((folder / serve.MANIFEST).read_text())
    told |= {"labels": ["no", "yes"][:classes], "files": told["files"] | {"config.json": serve.kit.sha256_of(folder / "config.json")}}
    (folder / serve.MANIFEST).write_text(json.dumps(told))
    with pytest.raises(ValueError, match=words):
        serve.verify(folder)


def test_a_model_that_chooses_one_class_may_say_so(tmp_path):
    one, tokenizer = make()
    one.config.problem_type = "single_label_classification"
    assert serve.verify(serve.save(one, tokenizer, ["no", "yes"], tmp_path / "m", max_length=16))["labels"] == ["no", "yes"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    broken, tokenizer = make()
    with torch.no_grad():
        broken.classifier.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="classifier.weight"):
        serve.save(broken, tokenizer, ["no", "yes"], tmp_path / "m", max_length=16)
    tokenizer.add_tokens([f"w{i}" for i in range(5)])
    with pytest.raises(ValueError, match="do not belong together"):
        serve.save(make()[0], tokenizer, ["no", "yes"], tmp_path / "m", max_length=16)
    assert not list(tmp_path.iterdir())


# What would be loaded as another network

def test_a_network_that_plain_transformers_does_not_know_is_not_saved(tmp_path):
    "Its tensors would be missing for the class that is loaded, and drawn at random."
    from diversity_kit.learn import peft as tuning
    mean, words = tuning.base_model("random"), tuning.tokenizer("random")
    tuning.merge(tuning.inject(mean, "lora", rank=2))
    with pytest.raises(ValueError, match="is another network"):
        serve.save(mean, words, ["no", "yes"], tmp_path / "m", max_length=16)
    with pytest.raises(ValueError, match="no model of transformers"):
        serve.save(tuning.inject(tuning.base_model("random"), "prefix"), words, ["no", "yes"], tmp_path / "m", max_length=16)
    peft, (bert, vocabulary) = pytest.importorskip("peft"), make()
    adapted = peft.get_peft_model(bert, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    with pytest.raises(ValueError, match="merge_and_unload"):
        serve.save(adapted, vocabulary, ["no", "yes"], tmp_path / "m", max_length=16)
    assert not list(tmp_path.iterdir())
    serve.verify(serve.save(adapted.merge_and_unload(), vocabulary, ["no", "yes"], tmp_path / "m", max_length=16))


def test_a_tuned_model_is_saved_once_its_layers_are_taken_out(tmp_path):
    from diversity_kit.learn import peft as tuning
    bert, words = make()
    tuning.inject(bert, "lora", rank=2)
    for m in bert.modules():
        if isinstance(m, tuning.LoRALinear):
            torch.nn.init.normal_(m.B)
    with pytest.raises(ValueError, match="tensors are (missing|unexpected)"):
        serve.save(bert, words, ["no", "yes"], tmp_path / "m", max_length=16)
    with torch.no_grad():
        want = torch.softmax(bert(**words(["good film"], return_tensors="pt")).logits.double(), -1)[0].numpy()
    tuning.merge(bert, unwrap=True)
    got = serve.Predictor(serve.save(bert, words, ["no", "yes"], tmp_path / "m", max_length=16), device="cpu").probabilities(["good film"])[0]
    assert np.allclose(got[0], want, atol=1e-5)


def test_what_answers_otherwise_than_it_did_is_not_kept(model, tmp_path, monkeypatch):
    real = type(model[0]).save_pretrained

    def forgetful(self, folder, **k):
        twin = make(seed=0)[0]
        with torch.no_grad():
            twin.classifier.bias[0] += .01
        real(twin, folder, **k)
    monkeypatch.setattr(type(model[0]), "save_pretrained", forgetful)
    with pytest.raises(ValueError, match="answers otherwise .by up to 0.01"):
        serve.save(*model, ["no", "yes"], tmp_path / "m", max_length=16)
    assert not list(tmp_path.iterdir())


def roberta(length):
    torch.manual_seed(0)
    _, words = make()
    return transformers.RobertaForSequenceClassification(transformers.RobertaConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=length, pad_token_id=0)).eval(), words


def test_a_length_is_tried_before_it_is_promised(tmp_path):
    "RoBERTa counts its positions from the padding's number + 1: of 40 positions 39 can be used here."
    with pytest.raises(ValueError, match="fails on 40 tokens"):
        serve.save(*roberta(40), ["no", "yes"], tmp_path / "m", max_length=40)
    predictor = serve.Predictor(serve.save(*roberta(40), ["no", "yes"], tmp_path / "m", max_length=39), device="cpu")
    assert predictor(["good " * 100])[0].truncated


def test_training_goes_on_after_a_save(tmp_path):
    bert, words = make()
    bert.train()
    serve.save(bert, words, ["no", "yes"], tmp_path / "m", max_length=16)
    assert bert.training and bert.bert.training


def test_how_the_tokenizer_was_used_does_not_matter(saved, tmp_path):
    bert, words = make()
    words(["good film", "bad"], truncation=True, max_length=7, padding=True)
    again = serve.save(bert, words, ["no", "yes"], tmp_path / "again", temperature=2.5, max_length=16)
    assert serve.verify(again)["id"] == serve.verify(saved)["id"] and words.backend_tokenizer.truncation["max_length"] == 7


def test_a_rename_that_fails_brings_the_old_model_back(model, tmp_path, monkeypatch):
    folder = serve.save(*model, ["no", "yes"], tmp_path / "m", max_length=16)
    before, real, calls = serve.verify(folder), os.replace, []

    def second_fails(a, b):
        calls.append(b)
        if len(calls) == 2:
            raise OSError("disk")
        real(a, b)
    monkeypatch.setattr(serve.os, "replace", second_fails)
    with pytest.raises(OSError, match="disk"):
        serve.save(*model, ["no", "yes"], folder, temperature=3., max_length=16)
    assert serve.verify(folder) == before and [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_foreign_folder_stays_as_it_is(model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is no saved model"):
        serve.save(*model, ["no", "yes"], tmp_path / "mine", max_length=16)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"] and len(list(tmp_path.iterdir())) == 1


def test_a_save_that_fails_midway_leaves_the_old_model(model, tmp_path, monkeypatch):
    folder = serve.save(*model, ["no", "yes"], tmp_path / "m", max_length=16)
    before = serve.verify(folder)
    monkeypatch.setattr(type(model[1]), "save_pretrained", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        serve.save(*model, ["no", "yes"], folder, temperature=3., max_length=16)
    assert serve.verify(folder) == before and len(list(tmp_path.iterdir())) == 1


def copy(saved, to):
    import shutil
    shutil.copytree(saved, to)
    return to


def test_damage_is_found_and_named(saved, tmp_path):
    def broken(how):
        folder = copy(saved, tmp_path / str(len(list(tmp_path.iterdir()))))
        how(folder)
        return folder
    cut = broken(lambda f: (f / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:-100]))
    with pytest.raises(ValueError, match="model.safetensors is not the file that was saved"):
        serve.Predictor(cut)
    with pytest.raises(ValueError, match="tokenizer.json is missing"):
        serve.Predictor(broken(lambda f: (f / "tokenizer.json").unlink()))
    with pytest.raises(ValueError, match="config.json is not the file"):
        serve.Predictor(broken(lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("yes", "sure"))))
    with pytest.raises(ValueError, match="damaged"):
        serve.Predictor(broken(lambda f: (f / serve.MANIFEST).write_text("{")))
    with pytest.raises(FileNotFoundError, match="is no saved model"):
        serve.Predictor(tmp_path)
    serve.verify(broken(lambda f: (f / "README.md").write_text("my notes")))      # the card is the reader's to edit


def retold(saved, to, **change):
    folder = copy(saved, to)
    told = json.loads((folder / serve.MANIFEST).read_text())
    (folder / serve.MANIFEST).write_text(json.dumps(told | change))
    return folder


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "model-00001-of-00002.safetensors", "sub/config.json", "vocab.txt", ".hidden"])
def test_a_file_that_was_not_saved_with_it_is_refused(saved, tmp_path, name):
    "transformers would load an adapter that lies beside a model, and answer otherwise under the same id."
    folder = copy(saved, tmp_path / "m")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(ValueError, match=f"holds {name}, which was not saved with it"):
        serve.verify(folder)


@pytest.mark.parametrize("change, words", [
    ({"temperature": 0.}, "temperature=0.0 must be"), ({"temperature": -1.}, "temperature=-1.0"), ({"temperature": "1"}, "temperature='1'"), ({"temperature": float("nan")}, "temperature=nan"), ({"temperature": True}, "temperature=True"), ({"temperature": 1e-5}, "temperature=1e-05"),
    ({"max_length": 500}, "model's 40 positions"), ({"max_length": 16.5}, "max_length=16.5"), ({"max_length": 2}, "max_length=2"), ({"labels": ["yes", "no"]}, r"calls the classes \['yes', 'no'\]"), ({"labels": ["a", "b", "c"]}, "2 different names"),
    ({"labels": "no"}, "2 different names"), ({"labels": None}, "2 different names"), ({"files": {}}, "holds config.json, which was not saved")])
def test_a_manifest_must_fit_its_model(saved, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        serve.Predictor(retold(saved, tmp_path / "m", **change))


@pytest.mark.parametrize("lost, words", [("config.json", "no config.json"), ("model.safetensors", "no weights"), ("tokenizer", "no a? ?tokenizer")])
def test_a_manifest_must_name_what_answers(saved, tmp_path, lost, words):
    files = json.loads((saved / serve.MANIFEST).read_text())["files"]
    folder = retold(saved, tmp_path / "m", files={k: v for k, v in files.items() if not k.startswith(lost)})
    for f in folder.iterdir():
        if f.name.startswith(lost):
            f.unlink()
    with pytest.raises(ValueError, match=words):
        serve.verify(folder)


def test_weights_of_another_network_are_refused_at_load(saved, tmp_path):
    "A manifest can be made to fit any files; the tensors must still be those of the network in config.json."
    from safetensors.torch import load_file, save_file

    from diversity_kit import kit
    folder = copy(saved, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("classifier.bias")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    told = json.loads((folder / serve.MANIFEST).read_text())
    told["files"]["model.safetensors"] = kit.sha256_of(folder / "model.safetensors")
    (folder / serve.MANIFEST).write_text(json.dumps(told))
    with pytest.raises(ValueError, match="1 tensors are missing for a BertForSequenceClassification, the first is classifier.bias"):
        serve.Predictor(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pkl", "modeling.py", "sub/evil.PT"])
def test_a_file_that_could_run_is_refused_unopened(saved, tmp_path, name):
    folder = copy(saved, tmp_path / "m")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"never read")
    with pytest.raises(ValueError, match="can run code"):
        serve.Predictor(folder)


# ---- the answers

def test_answers_do_not_depend_on_batch_or_order(saved, predictor):
    asked = texts(40)
    alone = np.array([predictor.probabilities([t])[0][0] for t in asked])
    order = np.random.default_rng(1).permutation(40)
    for size in (1, 3, 40):
        got, _ = serve.Predictor(saved, batch=size, device="cpu").probabilities([asked[i] for i in order])
        assert abs(got - alone[order]).max() < 1e-6
    assert alone.std(0).min() > .01 and np.allclose(alone.sum(1), 1)          # the texts differ, so an order that is lost would show


def test_probabilities_are_the_softmax_at_the_temperature(predictor, model):
    row = model[1](["good film"], return_tensors="pt")
    with torch.no_grad():
        want = torch.softmax(model[0](**row).logits.double() / 2.5, -1)[0].numpy()
    got = predictor(["good film"])[0]
    assert np.allclose([got.probabilities["no"], got.probabilities["yes"]], want, atol=1e-6)
    assert got.label == ("no", "yes")[want.argmax()] and got.probability == max(got.probabilities.values()) and not got.truncated


def test_a_cut_is_told_and_only_the_beginning_counts(predictor):
    long = " ".join(["good"] * 14)
    a, b, c = predictor([long, long + " bad bad bad", "good"])
    assert (a.truncated, b.truncated, c.truncated) == (False, True, False) and abs(a.probability - b.probability) < 1e-6      # [CLS] + 14 + [SEP] = 16


def test_any_script_gets_an_answer_and_nothing_gets_none(predictor):
    odd = ["这部电影很好", "рекомендую", "👩‍👩‍👧", "\x00", "é" * 500, "<b>", "../../etc/passwd"]
    assert [p.label in ("no", "yes") for p in predictor(odd)] == [True] * len(odd)
    assert predictor([]) == []


@pytest.mark.parametrize("bad, kind, words", [("good", TypeError, "put the one text into a list"), (["good", None], TypeError, "text 1 is a NoneType"), (["good", b"x"], TypeError, "text 1 is a bytes"),
                                              (["good", " \n"], ValueError, "text 1 is empty"), (["\ud800"], ValueError, "text 0 holds half a surrogate"), (7, TypeError, "must be a list")])
def test_unusable_texts_are_named(predictor, bad, kind, words):
    with pytest.raises(kind, match=words):
        predictor(bad)


def test_many_threads_get_their_own_answers(predictor):
    asked = [texts(6, seed) for seed in range(12)]
    want, got = [predictor.probabilities(t)[0] for t in asked], [None] * 12
    threads = [threading.Thread(target=lambda i=i: got.__setitem__(i, predictor.probabilities(asked[i])[0])) for i in range(12)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert max(abs(a - b).max() for a, b in zip(want, got)) < 1e-6


# ---- the service

@pytest.fixture()
def client(predictor):
    with testclient.TestClient(serve.app(predictor, max_texts=8, max_chars=100, max_bytes=10_000), raise_server_exceptions=False) as c:
        yield c


def test_it_answers_what_the_predictor_answers(client, predictor):
    asked = texts(5)
    got = client.post("/predict", json={"texts": asked}).json()
    assert got["model"] == predictor.id and [g["label"] for g in got["predictions"]] == [p.label for p in predictor(asked)]
    assert np.allclose([g["probability"] for g in got["predictions"]], [p.probability for p in predictor(asked)], atol=1e-6)
    assert client.post("/predict", json={"texts": []}).json()["predictions"] == []
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["labels"] == ["no", "yes"] and health["answered"] == 5 and health["model"] == predictor.id
    assert client.get("/docs").status_code == 404 and "/predict" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize("body, status, words", [
    ({"texts": ["a"] * 9}, 413, "9 texts, at most 8"), ({"texts": ["a" * 101]}, 413, "text 0 has 101 characters"), ({"texts": ["a" * 1_000_000]}, 413, "larger than 10,000 bytes"), ({"texts": ["a"] * 10_000}, 413, "larger than 10,000 bytes"),
    ({"texts": ["a", " "]}, 422, "text 1 is empty"), ({"texts": ["a", 1]}, 422, "text 1 is not a str"), ({"texts": "a"}, 422, "texts"), ({"texts": None}, 422, "texts"), ({}, 422, "texts"), ([], 422, "body"),
    ({"texts": ["a"], "model": "x"}, 422, "another field"), (b"texts=a", 422, "body"), (b'{"texts": ["\\ud800"]}', 422, "surrogate"), (b"", 422, "body"), (pickle.dumps(["a"]), 400, "parsing the body")])
def test_every_unusable_request_has_its_answer(client, body, status, words):
    r = client.post("/predict", **({"content": body, "headers": {"content-type": "application/json"}} if isinstance(body, bytes) else {"json": body}))
    assert r.status_code == status and words in r.json()["detail"], r.text
    assert client.post("/predict", json={"texts": ["good"]}).status_code == 200      # and the service goes on


def test_a_body_of_unknown_length_is_limited_too(client):
    pieces = (b'{"texts": ["' + b"a" * 5000 if i == 0 else b"a" * 5000 for i in range(10))
    r = client.post("/predict", content=pieces, headers={"content-type": "application/json"})
    assert r.status_code == 413


@pytest.mark.parametrize("text", ["/etc/passwd", "<script>alert(1)</script>", "{{ 7*7 }}", "__import__('os').system('true')", "file:///etc/passwd", "${jndi:ldap://x}"])
def test_a_text_is_a_text_and_is_not_sent_back(client, predictor, text, monkeypatch):
    import builtins
    opened = []
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    monkeypatch.setattr(pickle, "loads", lambda *a: pytest.fail("unpickled"))
    r = client.post("/predict", json={"texts": [text]})
    assert r.status_code == 200 and text not in r.text and r.headers["content-type"] == "application/json" and not opened
    assert r.json()["predictions"][0]["label"] == predictor([text])[0].label
    bad = client.post("/predict", json={"texts": [text, 3]})
    assert bad.status_code == 422 and text not in bad.text


@pytest.mark.parametrize("body", [{"texts": ["fine"], "<img src=x onerror=alert(1)>": 1}, {"<img src=x onerror=alert(1)>": ["fine"]}, {"texts": {"<img src=x onerror=alert(1)>": 1}}, {"texts": ["fine", {"<img src=x onerror=alert(1)>": 1}]}])
def test_no_field_name_is_sent_back(client, body):
    r = client.post("/predict", json=body)
    assert r.status_code == 422 and "img" not in r.text and len(r.text) < 300


@pytest.mark.parametrize("body", [{"texts": [0] * 700_000}, {"texts": ["a"] + [0] * 700_000}, {"texts": [], **{f"f{i}": 0 for i in range(150_000)}}, {"texts": [[]] * 100_000}, [0] * 700_000])
def test_a_large_body_of_wrong_things_is_answered_at_once(predictor, body):
    "An error collected for every item would hold up everybody for seconds and fill a gigabyte."
    with testclient.TestClient(serve.app(predictor, max_texts=8), raise_server_exceptions=False) as c:
        content = json.dumps(body)
        parsing = min(_seconds(json.loads, content) for _ in range(3))
        taken = min(_seconds(c.post, "/predict", content=content, headers={"content-type": "application/json"}) for _ in range(2))
        r = c.post("/predict", content=content, headers={"content-type": "application/json"})
    assert r.status_code in (413, 422) and len(r.text) < 300 and taken < .3 + 5 * parsing


def _seconds(call, *args, **kwargs):
    begin = time.perf_counter()
    call(*args, **kwargs)
    return time.perf_counter() - begin


class Slow:
    "A predictor that notes its passes and waits in each."
    id, labels, batch, max_length = "slow", ("no", "yes"), 4, 16
    check = staticmethod(serve.Predictor.check)

    def __init__(self, seconds=.05, fail=False):
        self.passes, self.seconds, self.fail = [], seconds, fail

    def __call__(self, asked):
        self.passes.append(len(asked))
        time.sleep(self.seconds)
        if self.fail:
            raise RuntimeError("secret words")
        return [serve.Prediction("yes", len(t) / 100, {"yes": len(t) / 100}, False) for t in asked]


def together(service, bodies):
    "Status and answer of requests that are sent at once, within the application's lifespan."
    async def go():
        async with service.router.lifespan_context(service), httpx.AsyncClient(transport=httpx.ASGITransport(app=service), base_url="http://x") as c:
            got = await asyncio.wait_for(asyncio.gather(*(c.post("/predict", json={"texts": b}) for b in bodies)), 60)
            return [(r.status_code, r.json()) for r in got]
    return asyncio.run(go())


def test_concurrent_clients_share_passes_and_get_their_own(predictor):
    slow = Slow()
    bodies = [["a" * (1 + i), "b" * (20 + i)] for i in range(20)]
    got = together(serve.app(slow), bodies)
    assert all(s == 200 and [p["probability"] for p in a["predictions"]] == [(1 + i) / 100, (20 + i) / 100] for i, (s, a) in enumerate(got))
    assert sum(slow.passes) == 40 and len(slow.passes) < 10
    real = together(serve.app(predictor), [texts(3, i) for i in range(10)])
    assert all(np.allclose([p["probability"] for p in a["predictions"]], predictor.probabilities(texts(3, i))[0].max(1), atol=1e-6) for i, (_, a) in enumerate(real))


def test_a_pass_has_at_most_so_many_texts():
    slow = Slow()
    got = together(serve.app(slow, max_texts=8), [["a"] * n for n in (1, 8, 7, 2, 8, 3, 3, 3)])
    assert all(s == 200 for s, _ in got) and max(slow.passes) <= 8 and sum(slow.passes) == 35 and len(slow.passes) < 8


def test_one_request_does_not_fail_its_neighbours():
    class Picky(Slow):
        def __call__(self, asked):
            if any(len(t) > 50 for t in asked):
                raise IndexError("index out of range in self")
            return super().__call__(asked)
    got = together(serve.app(Picky()), [["a"], ["a" * 60], ["b"], ["c", "d"]])
    assert [s for s, _ in got] == [200, 500, 200, 200] and [len(a["predictions"]) for s, a in got if s == 200] == [1, 1, 2]


def test_a_request_of_no_texts_costs_no_pass():
    slow = Slow()
    assert together(serve.app(slow), [[], [], ["a"]])[0] == (200, {"model": slow.id, "predictions": []}) and slow.passes == [1]


def test_a_full_line_says_so_and_a_failing_model_tells_nothing():
    got = together(serve.app(Slow(.2), max_waiting=3), [["a"]] * 12)
    assert {s for s, _ in got} == {200, 503} and sum(s == 200 for s, _ in got) >= 3
    failed = together(serve.app(Slow(0, fail=True)), [["a"]] * 3)
    assert {s for s, _ in failed} == {500} and all("secret" not in json.dumps(a) and "RuntimeError" in a["detail"] for _, a in failed)


def test_what_is_in_line_at_the_end_is_answered():
    slow = Slow(.2)
    service = serve.app(slow, max_texts=1)

    async def go():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=service), base_url="http://x") as c:
            async with service.router.lifespan_context(service):
                asked = [asyncio.create_task(c.post("/predict", json={"texts": ["a"]})) for _ in range(6)]
                await asyncio.sleep(.1)
            return [r.status_code for r in await asyncio.wait_for(asyncio.gather(*asked), 30)]
    assert asyncio.run(go()) == [200] * 6


# ---- files and the command

def lines(path):
    return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_keeps_its_records_and_order(saved, predictor, tmp_path, capsys):
    from diversity_kit.cli import main
    source, asked = tmp_path / "in.jsonl", texts(25) + ["很好", "good " * 40]
    source.write_text("".join(json.dumps({"id": f"r{i}", "text": t, "stars": i}) + "\n" for i, t in enumerate(asked)))
    assert main(["predict", str(saved), str(source), str(tmp_path / "out.jsonl"), "--batch", "7"]) == 0
    rows, want = lines(tmp_path / "out.jsonl"), predictor(asked)
    assert [(r["id"], r["stars"], r["predicted"], r["truncated"]) for r in rows] == [(f"r{i}", i, p.label, p.truncated) for i, p in enumerate(want)]
    assert np.allclose([r["probability"] for r in rows], [p.probability for p in want], atol=2e-6) and rows[-1]["truncated"]
    assert "27 records" in capsys.readouterr().out
    counts = serve.predict_file(predictor, source, tmp_path / "again.jsonl.gz", rows=4)
    import gzip
    again = [json.loads(x) for x in gzip.open(tmp_path / "again.jsonl.gz", "rt")]
    plain = lambda rs: [{k: v for k, v in r.items() if k != "probability"} for r in rs]
    assert sum(counts.values()) == 27 and plain(again) == plain(rows) and np.allclose([r["probability"] for r in again], [r["probability"] for r in rows], atol=2e-6)


@pytest.mark.parametrize("rows", [0, -1, 2.5])
def test_a_file_needs_at_least_one_row_at_a_time(predictor, tmp_path, rows):
    (tmp_path / "in.jsonl").write_text('{"text": "good"}\n')
    with pytest.raises(ValueError, match=f"rows={rows} must be"):
        serve.predict_file(predictor, tmp_path / "in.jsonl", tmp_path / "out.jsonl", rows=rows)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("text, words", [('{"id": 1, "text": "good"}\n{"id": 2, "text": " "}\n', "in.jsonl:2: the text is empty"), ('{"id": 1, "text": "good", "predicted": 1}\n', "has a field 'predicted'"), ('{"id": 1}\n', "in.jsonl:1"), ("no\n", "in.jsonl:1")])
def test_a_bad_record_is_named_and_nothing_is_written(saved, tmp_path, capsys, text, words):
    from diversity_kit.cli import main
    (tmp_path / "in.jsonl").write_text(text)
    assert main(["predict", str(saved), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 2
    assert words in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]
    assert main(["predict", str(saved), str(tmp_path / "in.jsonl"), str(tmp_path / "in.jsonl")]) == 2
    assert main(["predict", str(tmp_path), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 2


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_command_serves_on_this_machine_and_ends_cleanly(saved):
    pytest.importorskip("uvicorn")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    child = subprocess.Popen([sys.executable, "-m", "diversity_kit.cli", "serve", str(saved), "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(300):
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).json()["status"] == "ok"
                break
            except httpx.TransportError:
                assert child.poll() is None, child.stderr.read()
                time.sleep(.2)
        assert httpx.post(f"http://127.0.0.1:{port}/predict", json={"texts": ["good film"]}, timeout=20).json()["predictions"][0]["label"] in ("no", "yes")
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=30)
        assert child.returncode in (0, -signal.SIGTERM) and "Traceback" not in err and f"http://127.0.0.1:{port}" in out
    finally:
        child.kill()
