"""Fine-tuning speed and memory beside TRL and PEFT: one GPT-2-small-shaped model, the same rows, batch and precision.

python -m benchmarks.finetuning OVERRIDE …      one run of `idiolect train sft`, its steps' speed
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from benchmarks.measure import Claim, Sample
from benchmarks.suite import Suite
from idiolect import api, config
from idiolect.recipes import tasks
from idiolect.recipes.settings import Recipe
from idiolect.tokens.tokenizer import Tokenizer

SKIP, STEPS = 3, 12
"""Steps that warm up and are not counted, as in finetuning_peer.py, and all steps."""
PEER = Path(__file__).with_name("finetuning_peer.py")
LENGTH, RANK, ALPHA = 512, 8, 16.0
ASKED = {"lora": (3.5, 0.5), "full": (2.5, 0.75)}
"""Way → tokens a second and peak memory, both as a multiple of TRL's."""
PROMPT = "### Instruction:\n{}\n\n### Response:\n"
"""How the built-in template `instruction` spells a row, for the peer."""


def instructions(suite: Suite) -> list[tuple[str, str]]:
    """Real instructions and their answers, some 60 tokens each."""
    rows = json.loads(suite.data("instructions/instruction-data.json").read_text(encoding="utf-8"))
    return [("\n\n".join(p for p in (row["instruction"], row["input"]) if p), row["output"]) for row in rows]


def long_rows(suite: Suite) -> list[tuple[str, str]]:
    """WikiText in rows that fill the length on both sides: a quarter is the prompt, nothing is padding."""
    words = suite.data("wikitext-2/valid.txt").read_text(encoding="utf-8").split()
    size = LENGTH * 9 // 10  # words; more than LENGTH tokens
    parts = [words[i : i + size] for i in range(0, len(words) - size, size)]
    return [(" ".join(part[: size // 4]), " ".join(part[size // 4 :])) for part in parts]


ROWS = {"instructions": (instructions, 16, 1024), "rows of 512 tokens": (long_rows, 4, 2048)}
"""Data → what reads it, the peer's examples a step, our positions a step (about as many tokens)."""


def base(suite: Suite) -> Path:
    """A new folder with GPT-2 small in `model`, random, as `transformers` makes and writes it, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    where, tokenizer = suite.folder("finetuning"), Tokenizer.load(suite.data("gpt2-tokenizer/encoder.json").parent)
    torch.manual_seed(0)
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    GPT2LMHeadModel(GPT2Config(vocab_size=tokenizer.size, **none)).save_pretrained(where / "model")
    tokenizer.save(where / "model")
    return where


def tuning(suite: Suite, data: str) -> Iterator[Claim]:
    """LoRA and full fine-tuning on one kind of rows."""
    read, examples, positions = ROWS[data]
    where = base(suite)
    pairs = read(suite)
    spelled = [{"prompt": PROMPT.format(a), "completion": b} for a, b in pairs]
    for name, rows in (("ours", [{"prompt": a, "response": b} for a, b in pairs]), ("theirs", spelled)):
        (where / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for way, (faster, smaller) in ASKED.items():
        theirs = {"lora": way == "lora", "rows_a_step": examples}
        sides: dict[str, measure.Side] = {
            "Idiolect": partial(ours, suite, where, way, positions),
            "TRL": partial(peer, suite, where, theirs),
        }
        turns = measure.in_turn(sides, suite.rounds)
        memory = turns.peak("Idiolect") / turns.peak("TRL")
        steps = {side: statistics.median(turns.values(side, "step")) for side in sides}
        claim = measure.compare(
            *(turns, "Idiolect", "TRL"),
            name=f"{NAMES[way]}, GPT-2 small, bf16, {data}, {examples} a step",
            at_least=faster,
            peer_name=f"{suite.package('trl')}, {suite.package('peft')}",
            key="rate",
            unit="tokens/s",
            note=f"real tokens, without padding; a step takes {steps['Idiolect']:.2f} s, theirs {steps['TRL']:.2f} s.",
        )
        yield replace(
            claim,
            asked=f"{claim.asked}, peak memory ≤ {smaller:g} ×",
            measured=f"{claim.measured}, peak memory {memory:.2f} ×",
            reached=claim.reached and memory <= smaller,
        )


NAMES = {"lora": f"LoRA of rank {RANK}", "full": "full fine-tuning"}


def ours(suite: Suite, where: Path, way: str, positions: int) -> Sample:
    """One run of `idiolect train sft`."""
    words: Mapping[str, Any] = {
        "model.from": where / "model",
        "data.train": where / "ours.jsonl",
        "train.batch_tokens": positions,
        "train.steps": STEPS,
        "validation.tokens": 2000,
        "sample.every": 0,
        "task.answers": 0,
        "forgetting.own": "false",
        **({"adapt.kind": "lora", "adapt.rank": RANK, "adapt.alpha": ALPHA} if way == "lora" else {}),
    }
    return measure.run(suite.child("finetuning", *(f"{key}={value}" for key, value in words.items())))


def peer(suite: Suite, where: Path, settings: Mapping[str, Any]) -> Sample:
    """The same by TRL."""
    more = {"model": str(where / "model"), "rows": str(where / "theirs.jsonl"), "length": LENGTH, "steps": STEPS}
    more |= {"rank": RANK, "alpha": ALPHA, "rate": 2e-4, "seed": 0, **settings}
    return measure.run([suite.peers_python, PEER, json.dumps(more)], cwd=suite.scratch)


def main() -> None:
    """Trains, and prints real tokens a second, without padding, and the median time of a step."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        api.train("sft", [*sys.argv[1:], "track.log_every=1"], run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        recipe = config.validate(Recipe, config.read_toml(run / "recipe.toml"), "the run")
        batches = tasks.prepare(recipe, run).batches()
    steps = []
    for line in (line for line in lines if "tokens_per_second" in line):
        real = sum(
            int((batch.ids >= 0).sum() if batch.segments is None else (batch.segments >= 0).sum())
            for batch in batches(line["step"] - 1)
        )
        steps.append((line["tokens"] / line["tokens_per_second"], real))
    counted = steps[SKIP:]
    rate = sum(real for _, real in counted) / sum(seconds for seconds, _ in counted)
    print(json.dumps({"rate": rate, "step": statistics.median(s for s, _ in counted)}))


CLAIMS = {
    "finetuning": partial(tuning, data="instructions"),
    "finetuning-long": partial(tuning, data="rows of 512 tokens"),
}
TRIED = ""

if __name__ == "__main__":
    main()
