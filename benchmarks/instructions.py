"""Instruction tuning on a thousand real instructions: LoRA beside full fine-tuning, and every other way of adapting.

The base is the transformer of `idiolect quickstart`. The data folder holds instructions/instruction-data.json, of which
85% are trained on, 5% choose (learning rates, LoRA's rank, when to stop) and 10% test what was chosen.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from benchmarks.measure import Claim, Sample, say
from idiolect import api, config
from idiolect.decode.settings import ChatSettings
from idiolect.interop import folder
from idiolect.recipes import load, tasks
from idiolect.recipes.settings import Recipe

SHARES = {"train": 0.85, "validation": 0.05, "test": 0.1}
RATES = ("3e-4", "1e-3", "2e-3", "4e-3")
"""Of full fine-tuning."""
LORA = ("adapt.kind=lora", "adapt.alpha=32", "adapt.rslora=true")
EVERYWHERE = 'adapt.targets=["attention.*", "mlp.*", "embedding"]'
"""All linear layers, the head among them, whose matrix is the embedding's."""
WAYS: dict[str, list[tuple[str, ...]]] = {
    "full": [()],
    "selective": [("adapt.kind=selective", "adapt.last_blocks=1", "adapt.norms=true")],
    "lora": [(*LORA, EVERYWHERE, f"adapt.rank={rank}") for rank in (8, 16, 32, 64)],
    "lora, of the blocks alone": [(*LORA, "adapt.rank=32")],
    "lora, of the blocks alone, DoRA": [(*LORA, "adapt.rank=32", "adapt.dora=true")],
    "lora, nf4 base": [(*LORA, EVERYWHERE, "adapt.rank=32", "adapt.base=nf4")],
    "adapter": [("adapt.kind=adapter", "adapt.width=48")],
    "soft prompt": [("adapt.kind=soft-prompt", "adapt.tokens=20")],
}
"""Ways of tuning → the settings that are tried."""
OTHER_RATES: dict[str, tuple[str, ...]] = {"lora": ("3e-3",), "soft prompt": ("5e-2",)}
"""Learning rates of the other ways; RATES' last of those that are not here. Of LoRA of the blocks alone
1e-3 and 1e-2 were tried, and gave less."""
FIXED = (
    "train.steps=120",
    "validation.every=10",
    "validation.patience=3",
    "checkpoint.every=1000",
    "sample.every=0",
    "forgetting.own=false",
)
LEAST, STOPS, CLOSE = 0.9, 0.95, 1e-4


@dataclass(frozen=True)
class Tried:
    """One run."""

    changes: tuple[str, ...]
    rate: str
    sample: Sample

    @property
    def loss(self) -> float:
        """The lowest held-out loss, of the weights that were kept."""
        return float(self.sample.result["validation"]["loss"])


def parts(data: Path, scratch: Path) -> dict[str, Path]:
    """The three parts as files."""
    rows = json.loads((data / "instructions/instruction-data.json").read_text(encoding="utf-8"))
    random.Random(0).shuffle(rows)  # noqa: S311
    found, begin = {}, 0.0
    for name, share in SHARES.items():
        some = rows[round(begin * len(rows)) : round((begin + share) * len(rows))]
        found[name], begin = scratch / f"instructions-{name}.json", begin + share
        found[name].write_text(json.dumps(some), encoding="utf-8")
    return found


def settings(base: Path, files: Mapping[str, Path], held: str) -> list[str]:
    """What all runs have in common."""
    return [f"model.from={base}", f"data.train={files['train']}", f"data.validation={files[held]}"]


def tune(scratch: Path, shared: Sequence[str], way: str) -> list[Tried]:
    """Every setting of a way at every rate of it, each in a process of its own."""
    rates, found = OTHER_RATES.get(way, RATES if way == "full" else RATES[-1:]), []
    for changes in WAYS[way]:
        for rate in rates:
            name = "-".join([way, *(change for change in changes if change != EVERYWHERE), rate])
            name = name.replace(" ", "").replace("adapt.", "").replace("=", "")
            command = [sys.executable, "-m", "idiolect", "train", "sft", *shared, *FIXED, *changes]
            command += [f"train.learning_rate={rate}", "-o", str(scratch / f"sft-{name}"), "--json"]
            found.append(Tried(changes, rate, measure.run(command)))
            say(f"  {way} {' '.join(changes)} {rate}: {found[-1].loss:.3f}")
    return found


def tested(run: Path, shared: Sequence[str], scratch: Path) -> dict[str, Any]:
    """The figures of a run's model on the test part."""
    tables = config.override(config.read_toml(run / "recipe.toml"), [shared[-1]], Recipe)
    stage = tasks.prepare(config.validate(Recipe, tables, "the test"), scratch / f"test-{run.name}")
    return stage.score(folder.load(run / "model").model)


def tuning(data: Path, scratch: Path) -> Iterator[Claim]:
    """Everything, from one base."""
    api.quickstart(scratch / "quickstart")
    base, files = scratch / "quickstart/gpt/model", parts(data, scratch)
    shared = settings(base, files, "validation")
    tried = {way: tune(scratch, shared, way) for way in WAYS}
    best = {way: min(runs, key=lambda one: one.loss) for way, runs in tried.items()}
    before = _before(base, shared, scratch)
    gained = {way: before - one.loss for way, one in best.items()}
    share = gained["lora"] / gained["full"]
    rows = [[way, *_row(one), f"{gained[way] / gained['full']:.0%}"] for way, one in best.items()]
    header = ["way", "settings", "rate", "trained", "bytes", "tokens/s", "peak MB", "held-out loss", "of full's gain"]
    every = [f"{way} {' '.join(one.changes)} {one.rate}: {one.loss:.3f}" for way, of in tried.items() for one in of]
    yield Claim(
        "1,100 instructions, quickstart's transformer: LoRA's share of full fine-tuning's gain in held-out loss",
        f"≥ {LEAST:.0%}",
        f"{share:.1%} (before {before:.3f}, full {best['full'].loss:.3f}, LoRA {best['lora'].loss:.3f})",
        share >= LEAST,
        table=[header, *rows],
        details={"before": before, "tried": every},
    )
    test = settings(base, files, "test")
    for way in ("full", "lora"):
        found = tested(Path(best[way].sample.result["run"]), test, scratch)
        yield Claim(
            f"{way}: share of {found['answers']} test prompts whose answer ends by itself",
            f"≥ {STOPS:.0%}",
            f"{found['stops']:.1%}",
            found["stops"] >= STOPS,
        )
        yield Claim(
            f"{way}: loss of test answers after their own prompt, and after another's",
            "own < another's",
            f"{found['loss']:.3f} < {found['loss_other_prompt']:.3f}",
            found["loss"] < found["loss_other_prompt"],
        )
    yield parity(base, Path(best["lora"].sample.result["model"]), files["test"])


def _before(base: Path, shared: Sequence[str], scratch: Path) -> float:
    """The held-out loss of the base, asked as the tuned models are."""
    recipe, _ = load.load("sft", shared)
    return float(tasks.prepare(recipe, scratch / "before").score(folder.load(base, dtype=torch.float32).model)["loss"])


def _row(one: Tried) -> list[str]:
    result = one.sample.result
    numbers = [change.removeprefix("adapt.") for change in one.changes if change != EVERYWHERE]
    adapted = result.get("adapt", {"trainable": result["parameters"], "bytes": 4 * result["parameters"]})
    return [
        " ".join(numbers[1:]),
        one.rate,
        f"{adapted['trainable']:,}",
        f"{adapted['bytes']:,}",
        f"{result['tokens_per_second']:,.0f}",
        f"{one.sample.peak_bytes / 1e6:,.0f}",
        f"{one.loss:.3f}",
    ]


def parity(base: Path, adapter: Path, test: Path) -> Claim:
    """The adapter opened by peft over the base opened by transformers: logits of a test prompt, and a greedy answer."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    loaded = folder.load(adapter, dtype=torch.float32)
    model: Any = loaded.model
    asked = json.loads(test.read_text(encoding="utf-8"))[0]
    content = "\n\n".join(part for part in (asked["instruction"], asked["input"]) if part)
    spelled = AutoTokenizer.from_pretrained(adapter).apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
    )
    ids = torch.tensor([spelled])
    with torch.no_grad():
        logits = model.head(model.body(ids))
        difference = float((theirs(ids).logits - logits).abs().max())
        written = theirs.generate(ids, max_new_tokens=40, do_sample=False, eos_token_id=loaded.tokenizer.end_id)
    answer = loaded.tokenizer.decode([i for i in written[0, ids.shape[1] :].tolist() if i != loaded.tokenizer.end_id])
    said = api.chat(adapter, content, ChatSettings(temperature=0.0, max_tokens=40))["text"]
    return Claim(
        "the LoRA folder in peft over the base in transformers: largest logit difference; the greedy answer",
        f"≤ {CLOSE:.0e}; the same",
        f"{difference:.1e}; {'the same' if answer == said else f'{answer!r}, not {said!r}'}",
        difference <= CLOSE and answer == said,
        peer_name=f"peft {peft.__version__}",
    )


CHECKS = {"instructions": tuning}
