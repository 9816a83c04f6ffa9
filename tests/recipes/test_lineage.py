"""Every document that a model was trained on, and those of the models it was made from, can be asked for."""

import gzip
import json

import pytest

from idiolect import api, config, files
from idiolect.cli import run as cli
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.recipes import library, load, passports, pretrain, tasks
from idiolect.runs import Run
from idiolect.text import passport
from idiolect.text.curation.identity import identity
from idiolect.text.passport import Passport, Section


def corpus(path, ids, first=0):
    """A file of documents as a curation writes them."""
    texts = [text[:1500] for text, _ in zip(library.documents(), range(first + len(ids)), strict=False)][first:]
    rows = [
        {
            "id": id_,
            "text": text,
            "url": f"https://www.site{number % 3}.example/{id_}",
            "source": "crawl",
            "licence": "CC-BY-4.0" if number % 2 else None,
        }
        for number, (id_, text) in enumerate(zip(ids, texts, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def models(small, tmp_path_factory):
    """A model of 20 documents of which 2 were held out; one tuned from it on 6, of which 3 were; and an adapter."""
    base = tmp_path_factory.mktemp("lineage")
    corpus(base / "first.jsonl", [f"one-{number}" for number in range(20)])
    corpus(base / "second.jsonl", [f"two-{number}" for number in range(6)], first=20)
    rest = [text for text in small[1:] if not text.startswith(("model.", "tokenizer."))]
    api.train("gpt", [*small, f"data.train={base / 'first.jsonl'}", "train.steps=2"], base / "parent")
    second = [*rest, f"data.train={base / 'second.jsonl'}", "data.validation=0.5", "train.steps=2"]
    api.train("continue", [*second, f"model.from={base / 'parent'}"], base / "child")
    api.train("lora", [*second, "adapt.rank=2", f"model.from={base / 'child'}"], base / "adapter")
    return base


def listed(path):
    return list(passport.read(path / "model" / passport.FILE))


def test_the_documents_of_a_model_are_those_it_was_trained_on_in_order(models):
    first, *documents = listed(models / "parent")
    lineage = json.loads((models / "parent/model/lineage.json").read_text())
    assert first == Section(corpus=lineage["fingerprints"]["data.train"])
    assert [one.id for one in documents] == [f"one-{number}" for number in range(18)]  # the last tenth is held out
    assert documents[1] == Passport("one-1", "https://www.site1.example/one-1", "crawl", "CC-BY-4.0")
    assert lineage["documents"] == {"count": 18, "sha256": files.sha256(models / "parent/model" / passport.FILE)}
    assert lineage["parents"] == []
    files.verify(models / "parent/model")


def test_what_went_into_a_parent_is_in_its_children(models):
    ours, theirs = listed(models / "child"), listed(models / "parent")
    assert ours[: len(theirs)] == theirs
    assert [one.id for one in ours[len(theirs) + 1 :]] == ["two-0", "two-1", "two-2"]
    grandchild = listed(models / "adapter")
    assert grandchild[: len(ours)] == ours and len(grandchild) == len(ours) + 4
    lineage = json.loads((models / "adapter/model/lineage.json").read_text())
    (parent,) = lineage["parents"]
    assert parent["fingerprint"] == folder.fingerprint(models / "child")
    assert parent["lineage"]["parents"][0]["fingerprint"] == folder.fingerprint(models / "parent")


def test_lineage_says_what_models_were_made_of(models):
    found = api.lineage([models / "parent", models / "adapter"])
    parent, adapter = found["models"]
    assert parent["documents"] == 18 and parent["licences"] == {"unknown": 9, "CC-BY-4.0": 9}
    assert parent["sources"] == {"crawl": 18} and parent["unknown"] == [] and "[model]" in parent["recipe"]
    assert [one["documents"] for one in adapter["corpora"]] == [18, 3, 3]
    assert [one["path"] for one in adapter["parents"]] == [str(models / name / "model") for name in ("child", "parent")]
    assert (found["asked"], found["contained"]) == ([], False)


def test_documents_are_found_by_id_and_address_and_removal_lists_by_more(models, tmp_path):
    runs = [models / "parent", models / "child"]
    found = api.lineage(runs, ["one-3", "two-1", "one-19", "HTTPS://www.SITE2.example:443/two-2#top", "three"])
    by_entry = {one["entry"]: one["models"] for one in found["asked"]}
    assert list(by_entry.values()) == [
        {str(runs[0]): 1, str(runs[1]): 1},
        {str(runs[1]): 1},
        {},  # held out
        {str(runs[1]): 1},
        {},
    ]
    assert found["contained"]
    (tmp_path / "removal.txt").write_text("# of May\nsite1.example\none-1\nhttps://site0.example/two-3\nnone.example\n")
    found = api.lineage(runs[:1], removal=tmp_path / "removal.txt")
    assert [sum(one["models"].values()) for one in found["asked"]] == [6, 1, 0, 0]
    shown = found["asked"][0]["examples"][str(runs[0])]
    assert len(shown) == 5
    assert shown[0] == {
        "id": "one-1",
        "url": "https://www.site1.example/one-1",
        "source": "crawl",
        "licence": "CC-BY-4.0",
    }


def test_the_verb_says_so_by_its_exit_code(models, tmp_path, capsys):
    assert cli(["lineage", str(models / "parent"), "--document", "one-3", "--document", "no", "--json"]) == 8
    assert json.loads(capsys.readouterr().out)["contained"]
    assert cli(["lineage", str(models / "child"), "--document", "no"]) == 0
    out = capsys.readouterr().out
    assert "no: in none" in out and f"made from   {models / 'parent' / 'model'}" in out
    assert "18 documents" in out and "3 documents" in out
    (tmp_path / "list.txt").write_text("two-0\n")
    assert cli(["lineage", str(models / "child"), "--removal", str(tmp_path / "list.txt")]) == 8
    assert f"two-0: 1 in {models / 'child'}" in capsys.readouterr().out


def test_an_export_keeps_the_documents_and_an_import_has_none(models, tmp_path):
    api.export_model(models / "adapter", tmp_path / "whole")
    assert list(passport.read(tmp_path / "whole" / passport.FILE)) == listed(models / "adapter")
    for name in (files.MANIFEST, passport.FILE, "lineage.json"):
        (tmp_path / "whole" / name).unlink()
    api.import_model(tmp_path / "whole", tmp_path / "foreign")
    found = api.lineage([tmp_path / "foreign"], ["one-3"])
    assert found["models"][0]["unknown"] == [str(tmp_path / "foreign")] and not found["contained"]


def test_a_child_of_a_model_without_documents_says_that_they_are_unknown(models, small, tmp_path):
    api.import_model(models / "parent", tmp_path / "foreign")
    (tmp_path / "foreign" / passport.FILE).unlink()
    (tmp_path / "foreign" / files.MANIFEST).unlink()
    files.write_manifest(tmp_path / "foreign", kind="model")
    rest = [text for text in small[1:] if not text.startswith(("model.", "tokenizer."))]
    given = [*rest, f"data.train={models / 'second.jsonl'}", f"model.from={tmp_path / 'foreign'}", "train.steps=1"]
    api.train("continue", given, tmp_path / "child")
    (made,) = api.lineage([tmp_path / "child"])["models"]
    assert made["unknown"] == [str(tmp_path / "foreign")] and made["documents"] == 5


def test_a_damaged_list_is_refused(models, tmp_path):
    api.import_model(models / "parent", tmp_path / "copy")
    path = tmp_path / "copy" / passport.FILE
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    with pytest.raises(UserError, match="changed or damaged"):
        api.lineage([tmp_path / "copy"])
    (tmp_path / "copy" / files.MANIFEST).unlink()
    for bad in (b"not packed", gzip.compress(b"[1]\n"), gzip.compress(b'{"other": 1}\n'), gzip.compress(b"{")):
        path.write_bytes(bad)
        with pytest.raises(UserError, match="damaged|is no document"):
            api.lineage([tmp_path / "copy"])
    (tmp_path / "copy/lineage.json").write_text('{"parents": 7}')
    with pytest.raises(UserError, match="not as Idiolect writes it"):
        api.lineage([tmp_path / "copy"])
    with pytest.raises(UserError, match="no model folder"):
        api.lineage([tmp_path / "nothing"])


def test_a_changed_text_is_added_to_what_a_run_was_trained_on(small, tmp_path):
    corpus(tmp_path / "text.jsonl", [f"a-{number}" for number in range(20)])
    given = [*small, f"data.train={tmp_path / 'text.jsonl'}", "train.steps=4", "checkpoint.every=2"]
    recipe, _ = load.load("gpt", given)
    run = Run.create(tmp_path / "run")
    with run.lock():
        files.write_text(run.recipe, config.dump(recipe))
    pretrain.resume_with(run, [lambda done: "stopped" if done.step == 2 else None])
    before = passports.file_of(run).read_bytes()
    pretrain.resume_with(run, [lambda done: "stopped" if done.step == 2 else None])
    assert passports.file_of(run).read_bytes() == before  # once
    corpus(tmp_path / "text.jsonl", [f"b-{number}" for number in range(20)])
    with pytest.raises(UserError, match="not what the run began with"):
        api.resume(run.folder)
    assert passports.file_of(run).read_bytes() == before
    api.resume(run.folder, accept_change=True)
    ids = [one.id for one in listed(run.folder) if isinstance(one, Passport)]
    assert ids == [f"{name}-{number}" for name in "ab" for number in range(18)]


def test_the_bytes_depend_on_the_documents_alone(models, small, tmp_path):
    stage = tasks.prepare(load.load("gpt", [*small, f"data.train={models / 'first.jsonl'}"])[0], tmp_path)
    passports.keep(Run(tmp_path), stage)
    assert passports.file_of(Run(tmp_path)).read_bytes() == (models / "parent/model" / passport.FILE).read_bytes()


def test_from_a_crawl_to_the_models_and_back(small, tmp_path):
    """What a site wants removed is found in the model by the corpus's own ids, and is not in the next corpus."""
    rows = [
        {"url": f"https://site{number % 4}.example/{number}", "licence": "cc by 4.0", "text": text[:1500]}
        for number, text in zip(range(24), library.documents(), strict=False)
    ]
    (tmp_path / "crawl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = ['curate.filters=["removed"]', "curate.near.drop=false"]
    api.curate([tmp_path / "crawl.jsonl"], tmp_path / "corpus", overrides=plain, workers=1)
    api.train("gpt", [*small, f"data.train={tmp_path / 'corpus'}", "train.steps=1"], tmp_path / "run")
    id_ = identity(rows[5]["url"], rows[5]["text"])
    (tmp_path / "removal.txt").write_text(f"{id_}\nsite2.example\n")
    found = api.lineage([tmp_path / "run"], [rows[6]["url"]], tmp_path / "removal.txt")
    assert [list(one["models"].values()) for one in found["asked"]] == [[1], [1], [5]]  # of 21: 2, 6, 10, 14, 18
    assert found["asked"][1]["examples"][str(tmp_path / "run")][0]["url"] == rows[5]["url"]
    without = [*plain, f"curate.consent.removed={tmp_path / 'removal.txt'}"]
    result = api.curate([tmp_path / "crawl.jsonl"], tmp_path / "next", overrides=without, workers=1)
    assert result["dropped"] == {"removed": 7} and result["documents_out"] == 17
    api.train("gpt", [*small, f"data.train={tmp_path / 'next'}", "train.steps=1"], tmp_path / "clean")
    assert not api.lineage([tmp_path / "clean"], removal=tmp_path / "removal.txt")["contained"]


# Of every task


def test_plain_text_is_known_by_file_and_number(small, text, tmp_path):
    stage = tasks.prepare(load.load("gpt", small)[0], tmp_path)
    found = list(stage.corpus.passports())
    assert len(found) == 36 and found[3] == Passport("03.txt:0", None, "03.txt", None)


def test_examples_and_conversations_have_passports_too(tmp_path):
    rows = [{"source": f"s{i}", "target": f"t{i}", "id": f"p{i}", "license": "mit"} for i in range(10)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    talks = [{"prompt": f"question {i}", "response": f"answer {i}"} for i in range(10)]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talks))
    (tmp_path / "labels.tsv").write_text("text\tlabel\n" + "".join(f"word {i}\t{'ab'[i % 2]}\n" for i in range(10)))
    (tmp_path / "general.txt").write_text("some general text\n" * 20)
    size = ["tokenizer.kind=byte", "tokenizer.size=256"]

    def ids(recipe, file, *more):
        given = [f"data.train={tmp_path / file}", *size, *more]
        stage = tasks.prepare(load.load(recipe, given)[0], tmp_path / recipe)
        return list(stage.corpus.passports())

    pairs = ids("t5", "pairs.jsonl", "task.kind=pairs")
    assert [one.id for one in pairs] == [f"p{i}" for i in range(9)]
    assert pairs[0] == Passport("p0", None, "pairs.jsonl", "mit")  # the field source is what is learnt from
    assert ids("classify", "labels.tsv")[8].id == "labels.tsv:8"
    found = ids("sft", "talk.jsonl", f"data.replay={tmp_path / 'general.txt'}")
    assert [one.id for one in found] == [*(f"talk.jsonl:{i}" for i in range(9)), "general.txt:0"]
