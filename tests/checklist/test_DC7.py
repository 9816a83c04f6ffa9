"""DC7: the mixture that GPT-3 was trained on (Brown et al. 2020, arXiv 2005.14165, table 2.2).

Its weights sum to 1.01, and its printed epochs are neither 300 billion tokens times the weight by the size nor the same
of weights that sum to one; both are shown.
"""

import json

import pytest

from idiolect import api
from idiolect.cli import run as cli
from idiolect.data.batch import IGNORE
from idiolect.recipes import load, tasks

NAMES = ["cc", "webtext2", "books1", "books2", "wikipedia"]
TOKENS = [410, 19, 12, 55, 3]  # billions
WEIGHTS = [0.60, 0.22, 0.08, 0.08, 0.03]
SHARES = [59.41, 21.78, 7.92, 7.92, 2.97]  # WEIGHTS / 1.01, in percent
RAW = [0.439, 3.474, 2.000, 0.436, 3.000]  # 300 WEIGHTS / TOKENS
EPOCHS = [0.435, 3.439, 1.980, 0.432, 2.970]  # RAW / 1.01
PRINTED = [0.44, 2.9, 1.9, 0.43, 3.4]
LETTERS = "abcde"
SMALL = ["tokenizer.kind=byte", "model.width=16", "model.layers=1", "model.heads=2", "model.context=64"]
SMALL += ["train.precision=fp32", "train.compile=no", "train.threads=1", "train.batch_tokens=8192"]
SMALL += ["validation.every=0", "sample.every=0"]


def table_2_2():
    billions = [size * 10**9 for size in TOKENS]
    said = [f"data.train={NAMES}", f"data.weights={WEIGHTS}", f"data.tokens={billions}"]
    return [*said, "train.steps=100000", "train.batch_tokens=3000000", "model.context=1000"]  # 300 billion


def test_DC7_epochs_are_planned_raw_and_normalised():
    found = api.plan("gpt", table_2_2())
    assert found["weights_sum"] == pytest.approx(1.01)
    assert [one["source"] for one in found["sources"]] == NAMES
    assert [round(100 * one["share"], 2) for one in found["sources"]] == SHARES
    assert [round(one["epochs_as_given"], 3) for one in found["sources"]] == RAW
    assert [round(one["epochs"], 3) for one in found["sources"]] == EPOCHS
    for name, printed, raw, epochs in zip(NAMES, PRINTED, RAW, EPOCHS, strict=True):
        print(f"{name:10} printed {printed:5} as given {raw:5} normalised {epochs:5}")


def test_DC7_the_factor_is_printed(capsys):
    assert cli(["plan", "gpt", *table_2_2()]) == 0
    out = capsys.readouterr().out
    assert "data.weights sum to 1.01" in out and "3.474" in out and "3.439" in out


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A text of each source, of one letter, in documents of another length; sizes are as in the table."""
    base = tmp_path_factory.mktemp("texts")
    for letter, size, length in zip(LETTERS, TOKENS, [211, 7, 61, 503, 13], strict=True):
        (base / f"{letter}.txt").write_text((letter * (length - 1) + "\n") * (size * 300 // length))
    return base


def of_text(texts, *more):
    said = [f"data.train={[str(texts / f'{letter}.txt') for letter in LETTERS]}", f"data.weights={WEIGHTS}"]
    return [*said, *SMALL, "data.document=line", *more]


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_DC7_of_a_text_each_source_has_its_share_of_a_million_tokens(texts, tmp_path, packing):
    """Weights count rows, which are of one length, so tokens: of documents, the source of the shortest has most.

    Where documents are packed, what is left empty at the ends of rows counts too.
    """
    recipe, _ = load.load("gpt", of_text(texts, f"data.packing={packing}", "train.steps=123"))
    stage = tasks.prepare(recipe, tmp_path)
    ids = [stage.tokenizer.encode(letter)[0] for letter in LETTERS]
    batches, rows, tokens, begins = stage.batches(), [0] * 5, [0] * 5, [0] * 5
    for step in range(123):  # of 8,192 tokens
        for batch in batches(step):
            for k, id_ in enumerate(ids):
                is_it = batch.ids == id_
                here = is_it.any(1)  # no row has letters of two sources
                rows[k] += int(here.sum())
                tokens[k] += int((batch.labels[here] != IGNORE).sum())
                begins[k] += int((is_it[:, 1:] & ~is_it[:, :-1]).sum())
    assert 64 * sum(rows) > 1e6
    for counted in [rows, tokens] if packing == "stream" else [rows]:
        assert [100 * n / sum(counted) for n in counted] == pytest.approx(SHARES, abs=0.5)
    assert begins[1] / sum(begins) > 0.5


def test_DC7_of_examples_each_source_has_its_share_of_examples(tmp_path):
    """Not of their tokens: the source with a share of a fifth has half of them, as its examples are longer."""
    for name, length in (("short", 5), ("long", 20)):
        rows = [{"text": name[0] * length + str(i % 7), "label": "xy"[i % 2]} for i in range(200)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [f"data.train={[str(tmp_path / 'short.jsonl'), str(tmp_path / 'long.jsonl')]}", "data.weights=[0.8, 0.2]"]
    stage = tasks.prepare(load.load("classify", [*said, "tokenizer.kind=byte", "train.batch_tokens=640"])[0], tmp_path)
    table = stage.mixture(640)
    assert [one["actual"] for one in table] == pytest.approx([0.8, 0.2], abs=0.01)
    batches, letters = stage.batches(), [0, 0]
    for step in range(64):
        for batch in batches(step):
            for k, letter in enumerate("sl"):
                letters[k] += int((batch.ids == stage.tokenizer.encode(letter)[0]).sum())
    assert letters[1] / sum(letters) == pytest.approx(0.5, abs=0.05)


def test_DC7_a_run_says_the_epochs_that_it_took(texts, tmp_path, capsys):
    said = of_text(texts, "data.packing=stream", "train.steps=3", "train.batch_tokens=2048", "data.validation=0.2")
    assert cli(["train", "gpt", *said, "-o", str(tmp_path / "run"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "data.weights sum to 1.01, and are divided by it" in err
    found = json.loads(out)["mixture"]
    rows = 3 * 2048 // 64
    for one, letter, share in zip(found, LETTERS, SHARES, strict=True):
        size = one["actual"] * rows / one["epochs"]  # in rows
        held = 0.8 * (texts / f"{letter}.txt").stat().st_size / 64
        assert size == pytest.approx(held, rel=0.2, abs=2)
        assert one["planned_epochs"] == pytest.approx(share / 100 * rows / size, rel=1e-3)
        assert abs(one["actual"] - share / 100) * rows < 2
    report = (tmp_path / "run" / "report.html").read_text()
    assert "actual epochs" in report and "planned epochs" in report
