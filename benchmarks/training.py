"""Training speed beside nanoGPT and word_language_model, and the newcomer's run; ours always through `idiolect train`.

python -m benchmarks.training RECIPE KEY=VALUE …      one run of `idiolect train`, its steps' speed and its loss
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import Claim, Sample, Turns
from benchmarks.suite import Suite
from idiolect import api
from idiolect.data import shards
from idiolect.models.settings import DecoderSettings, RecurrentSettings
from idiolect.plan.flops import flops_per_token, mfu
from idiolect.text.corpus import Corpus
from idiolect.tokens import learn
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

WITHIN = 1.005
"""How much higher our held-out loss may be than the peer's after as many tokens."""
SKIP = 3
"""Steps that warm up and are not counted, as in training_peer.py."""
PEER = Path(__file__).with_name("training_peer.py")
GPT2 = {"norm": "layer", "mlp": "gelu", "position": "learned"}
NEWCOMER = {"half": 1.886, "whole": 1.70}
"""Held-out nats a character to reach, in half the time that nanoGPT's laptop recipe takes, and in all of it."""
NEWCOMER_STEPS = {"half": 350, "whole": 800}
NEWCOMER_RECIPE = "model.layers=4 model.heads=4 model.width=128 model.context=64 train.batch_tokens=1024"
NEWCOMER_RECIPE += " train.optimizer=muon tokenizer.kind=char data.packing=stream"
"""What a user with this much time would give: nanoGPT's shape, and Muon instead of AdamW."""
LAPTOP = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=50 --block_size=64 --batch_size=12 --n_layer=4 "
    "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0 --always_save_checkpoint=True"
)
"""The flags of nanoGPT's README for a laptop, and the weights of the last step kept."""


@dataclass(frozen=True)
class Job:
    """One model and its data, the same for both sides."""

    kind: str
    """The peer's, as training_peer.py names it."""
    checkout: str
    model: DecoderSettings | RecurrentSettings
    rows: int
    steps: int
    rate: float
    train: Path
    held: Path
    tokenizer: Path
    vocabulary: int
    ours: Mapping[str, Any]
    """Further settings of our run …"""
    theirs: Mapping[str, Any]
    """… and of the peer's."""

    @property
    def flops(self) -> float:
        """Operations a token."""
        return flops_per_token(self.model, self.vocabulary).total

    def train_ours(self, suite: Suite, seed: int, **changes: Any) -> Sample:
        """One run of `idiolect train` with validation, checkpoints and a line of log a step."""
        model = self.model.model_dump(exclude_none=True, exclude={"kind"})
        settings = {
            **{f"model.{key}": value for key, value in model.items()},
            "data.train": self.train,
            "data.validation": self.held,
            "data.packing": "stream",
            "tokenizer.from": self.tokenizer,
            "train.batch_tokens": self.rows * self.model.context,
            "train.steps": self.steps,
            "train.learning_rate": self.rate,
            "train.seed": seed,
            "sample.every": 0,
            "validation.every": self.steps // 2,
            "validation.tokens": 20_000,
            "checkpoint.every": self.steps // 2,
            **self.ours,
            **changes,
        }
        recipe = "gpt" if self.kind == "nanogpt" else "lstm"
        words = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()]
        return measure.run(suite.child("training", recipe, *words))

    def train_theirs(self, suite: Suite, seed: int, **changes: Any) -> Sample:
        """The peer."""
        s = {"seed": seed, "rate": self.rate, "steps": self.steps, "rows": self.rows, "context": self.model.context}
        s |= {"width": self.model.width, "layers": self.model.layers, "vocabulary": self.vocabulary, "held_out": True}
        s |= {"train": f"{self.train}.npy", "held": f"{self.held}.npy", **self.theirs, **changes}
        checkout = suite.peer(self.checkout)
        return measure.run([suite.peers_python, PEER, self.kind, checkout, json.dumps(s)], cwd=suite.scratch)

    def in_turn(self, suite: Suite, theirs: Mapping[str, Mapping[str, Any]], rounds: int) -> Turns:
        """Both in turn, a round with a seed of its own; `theirs` names settings of the peer."""
        seeds = {side: iter(range(1000)) for side in ("Idiolect", *theirs)}
        sides: dict[str, measure.Side] = {"Idiolect": lambda: self.train_ours(suite, next(seeds["Idiolect"]))}
        for name, changes in theirs.items():
            sides[name] = partial(self._theirs, suite, seeds[name], changes)
        return measure.in_turn(sides, rounds)

    def _theirs(self, suite: Suite, seeds: Iterator[int], changes: Mapping[str, Any]) -> Sample:
        return self.train_theirs(suite, next(seeds), **changes)


def gpt(suite: Suite, name: str, model: DecoderSettings, rows: int, steps: int, tokenizer: Path, text: str) -> Job:
    """A job for nanoGPT: the first nine tenths of a text to train on, its last characters held out."""
    folder, cut = suite.folder(name), len(text) * 9 // 10
    held = text[cut:] if tokenizer.name == "characters" else text[cut : cut + 20_000]
    train, vocabulary = _write(folder, tokenizer, text[:cut], held)
    warmup = steps // 10
    theirs = {"heads": model.heads, "warmup": warmup, "compile": False, "precision": "bf16"}
    ours = {"train.warmup_steps": warmup}
    return Job(
        *("nanogpt", "nanoGPT", model, rows, steps, 1e-3),
        *(train, folder / "held.txt", tokenizer, vocabulary, ours, theirs),
    )


def _write(folder: Path, tokenizer: Path, train: str, held: str) -> tuple[Path, int]:
    """Both texts, and beside each its ids for the peer; the path of the first, and the size of the vocabulary."""
    loaded = Tokenizer.load(tokenizer)
    for name, text in (("train", train), ("held", held)):
        path = folder / f"{name}.txt"
        path.write_text(text, encoding="utf-8", newline="")
        np.save(f"{path}.npy", shards.encode(Corpus([path]), loaded).ids[:])
    return folder / "train.txt", loaded.size


def characters(suite: Suite) -> tuple[Path, str]:
    """A tokenizer of tinyshakespeare's characters, and the text."""
    text, folder = suite.data("tinyshakespeare/input.txt").read_text(encoding="utf-8"), suite.folder("tokenizer")
    learn.train([text], TokenizerSettings(kind="char")).save(folder / "characters")
    return folder / "characters", text


def subwords(suite: Suite) -> tuple[Path, str]:
    """GPT-2's tokenizer, and WikiText-2's validation text."""
    folder = suite.folder("tokenizer") / "gpt2"
    Tokenizer.load(suite.data("gpt2-tokenizer/encoder.json").parent).save(folder)
    return folder, suite.data("wikitext-2/valid.txt").read_text(encoding="utf-8")


SMALL = DecoderSettings(layers=6, heads=6, width=384, context=256, **GPT2)  # type: ignore[arg-type]
MEDIUM = DecoderSettings(layers=12, heads=12, width=768, context=512, **GPT2)  # type: ignore[arg-type]
LAPTOP_SIZE = DecoderSettings(layers=4, heads=4, width=128, context=64, **GPT2)  # type: ignore[arg-type]
SETTINGS = {"bf16": {}, "bf16, compiled": {"compile": True}}
"""nanoGPT's two ways in bf16; its own train.py knows only fp32 on a CPU."""


def small(suite: Suite) -> Iterator[Claim]:
    """S: 6 layers of 384, characters."""
    job = gpt(suite, "small", SMALL, 12, 40, *characters(suite))
    turns = job.in_turn(suite, SETTINGS, suite.rounds)
    best = max(SETTINGS, key=lambda side: statistics.median(turns.values(side, "rate")))
    name = "training, 6 layers of 384, context 256, characters of tinyshakespeare, 12 rows"
    yield _compared(suite, job, turns, best, name, 1.5)


def medium(suite: Suite) -> Iterator[Claim]:
    """M: GPT-2 small, its 50,257 tokens."""
    job = gpt(suite, "medium", MEDIUM, 4, 12, *subwords(suite))
    side = "bf16, compiled"
    turns = job.in_turn(suite, {side: SETTINGS[side]}, suite.rounds)
    name = "training, GPT-2 small (12 layers of 768, 50,257 tokens), context 512, 4 rows"
    claim = _compared(suite, job, turns, side, name, 1.3)
    memory = turns.peak("Idiolect") / turns.peak(side)
    yield replace(
        claim,
        asked=f"{claim.asked}, peak memory ≤ 1 ×",
        measured=f"{claim.measured}, peak memory {memory:.2f} ×",
        reached=claim.reached and memory <= 1,
    )


def _compared(suite: Suite, job: Job, turns: Turns, side: str, name: str, at_least: float) -> Claim:
    losses = {who: statistics.mean(turns.values(who, "loss")) for who in ("Idiolect", side)}
    ours = statistics.median(turns.values("Idiolect", "rate"))
    peak = suite.limits.matmul["bf16"]
    others = [who for who in turns.samples if who not in ("Idiolect", side)]
    slower = [f"{who}: {statistics.median(turns.values(who, 'rate')):,.0f} tokens/s. " for who in others]
    peer = "word_language_model" if job.kind == "lstm" else "nanoGPT"
    return measure.compare(
        *(turns, "Idiolect", side),
        name=name,
        at_least=at_least,
        peer_name=f"{peer}, {suite.peer_version(job.checkout.split('/')[0])}, {side}",
        key="rate",
        unit="tokens/s",
        asked=f"≥ {at_least:g} × {peer}, {side}",
        holds=losses["Idiolect"] <= WITHIN * losses[side],
        limit=f"bf16 products, {peak / 1e9:,.0f} GFLOP/s",
        share=mfu(job.flops, ours, peak),
        note=f"held-out loss after {job.steps} steps: {losses['Idiolect']:.4f}, theirs {losses[side]:.4f} (mean of the "
        f"rounds, each with a seed of its own; ours may be 0.5% higher). {''.join(slower)}The peer's share of the "
        f"limit is {mfu(job.flops, statistics.median(turns.values(side, 'rate')), peak):.0%}.",
        details={"losses": losses},
    )


def out_of_box(suite: Suite) -> Iterator[Claim]:
    """What a CPU user gets who follows nanoGPT's README, fp32 and not compiled, against ours without a flag."""
    rows, found = [], {}
    jobs = {
        "GPT-2 small": gpt(suite, "medium", MEDIUM, 4, 6, *subwords(suite)),
        "6 × 384": gpt(suite, "small", SMALL, 12, 20, *characters(suite)),
        "4 × 128, context 64": gpt(suite, "laptop", LAPTOP_SIZE, 12, 200, *characters(suite)),
    }
    for name, job in jobs.items():
        fp32 = {"fp32": {"precision": "fp32", "held_out": False}}
        turns = found[name] = job.in_turn(suite, fp32, min(suite.rounds, 3))
        ours, theirs = (statistics.median(turns.values(side, "rate")) for side in ("Idiolect", "fp32"))
        rows.append([name, f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f} ×"])
    yield measure.compare(
        *(found["GPT-2 small"], "Idiolect", "fp32"),
        name="training out of the box, no flag of speed given: GPT-2 small, 4 rows of 512",
        at_least=3.0,
        peer_name=f"nanoGPT, {suite.peer_version('nanoGPT')}, as its README runs it on a CPU: fp32, not compiled",
        key="rate",
        unit="tokens/s",
        asked="≥ 3 × nanoGPT as its README runs it on a CPU",
        table=[["model", "Idiolect, tokens/s", "nanoGPT, tokens/s", "ratio"], *rows],
        note="the smaller the model, the smaller the share of products; in bf16 they are "
        f"{suite.limits.matmul['bf16'] / suite.limits.matmul['fp32']:.2f} times as fast as in fp32 here",
    )


def lstm(suite: Suite) -> Iterator[Claim]:
    """2 × 200, the 33,278 words of WikiText-2 (its own training text is not at hand: names fill the vocabulary)."""
    folder, texts = suite.folder("lstm"), {}
    checkout = suite.peer("examples/word_language_model")
    for part in ("valid", "test"):
        texts[part] = (checkout / f"data/wikitext-2/{part}.txt").read_text(encoding="utf-8")
    words = list(dict.fromkeys(texts["valid"].split()))
    size = 33_278 - 3  # besides the three special tokens
    words = [word for word in words if word != "<unk>"]
    words += [f"filling{i}" for i in range(size - len(words))]
    settings = TokenizerSettings(kind="word", pattern=r"\S+", size=33_278)
    learn.from_vocabulary(words, settings).save(folder / "words")
    train, vocabulary = _write(folder, folder / "words", texts["valid"], texts["test"][:200_000])
    model = RecurrentSettings(kind="lstm", layers=2, width=200, context=35, dropout=0.2)
    ours = {"train.optimizer": "sgd", "train.schedule": "constant", "train.warmup_steps": 0, "train.clip": 0.25}
    ours |= {"train.weight_decay": 0, "model.tied": False}
    job = Job(
        *("lstm", "examples/word_language_model", model, 20, 150, 20.0, train, folder / "held.txt"),
        *(folder / "words", vocabulary, ours, {"dropout": 0.2, "clip": 0.25}),
    )
    name = "training, LSTM 2 × 200, 33,278 words, 20 rows of 35"
    turns = job.in_turn(suite, {"fp32": {}}, suite.rounds)
    exact = job.train_ours(suite, 0, **{"train.precision": "fp32"}).result["rate"]
    bound = suite.limits.matmul["fp32"] / job.flops
    claim = _compared(suite, job, turns, "fp32", name, 4.0)
    yield replace(
        claim,
        note=f"{claim.note} The peer has no bf16 of its own. Ours in fp32: {exact:,.0f} tokens/s; what fp32 products "
        f"allow at most is {bound:,.0f}. Both losses are of windows that begin without a state.",
    )


def newcomer(suite: Suite) -> Iterator[Claim]:
    """nanoGPT's laptop recipe on tinyshakespeare from a cold start to its end, and ours in half and all of its time."""
    text, folder = suite.data("tinyshakespeare/input.txt").read_text(encoding="utf-8"), suite.folder("newcomer")
    cut = int(len(text) * 0.9)
    (folder / "train.txt").write_text(text[:cut], encoding="utf-8", newline="")
    (folder / "held.txt").write_text(text[cut:], encoding="utf-8", newline="")
    theirs, loss = _laptop(suite, folder, text)
    runs: dict[str, list[Sample]] = {}
    for part, steps in NEWCOMER_STEPS.items():
        words = f"{NEWCOMER_RECIPE} train.steps={steps} sample.every=0".split()
        words += [f"data.train={folder}/train.txt", f"data.validation={folder}/held.txt"]
        for seed in range(3):
            run = suite.folder("run") / "run"
            command = suite.idiolect("train", "gpt", *words, f"train.seed={seed}", "--json", "-o", run)
            cold = {"IDIOLECT_CACHE": str(suite.folder("cache"))}  # kernels are compiled, text is encoded anew
            runs.setdefault(part, []).append(measure.run(command, env=cold))
            measure.say(f"  {part}: {runs[part][-1].seconds:.1f} s of {theirs:.1f}")
    for part, allowed in (("half", theirs / 2), ("whole", theirs)):
        found = statistics.median(sample.result["validation"]["loss"] for sample in runs[part])
        seconds = statistics.median(sample.seconds for sample in runs[part])
        spent = measure.spread([sample.seconds for sample in runs[part]])
        yield Claim(
            f"the newcomer's run on tinyshakespeare in {'half ' if part == 'half' else ''}the time of nanoGPT's recipe",
            f"≤ {NEWCOMER[part]} nats a character in ≤ {allowed:.1f} s",
            f"{found:.3f} in {seconds:.1f} s",
            found <= NEWCOMER[part] and seconds <= allowed,
            "s",
            ours=spent,
            peer_name=f"nanoGPT, {suite.peer_version('nanoGPT')}: {theirs:.1f} s to {loss:.3f}",
            load=max(sample.load for sample in runs[part]),
            note=f"`idiolect train gpt {NEWCOMER_RECIPE} train.steps={NEWCOMER_STEPS[part]}`, from the start of the "
            "process to its end, tokenizer, checkpoints, validation and the saved model included; median of three "
            "seeds; all windows of the last tenth, for both.",
        )


def _laptop(suite: Suite, folder: Path, text: str) -> tuple[float, float]:
    """The seconds of nanoGPT's train.py with its README's flags, and the loss of its last weights over all windows."""
    checkout = folder / "nanoGPT"
    checkout.mkdir()
    for name in ("train.py", "model.py", "configurator.py"):
        (checkout / name).write_bytes(suite.peer(f"nanoGPT/{name}").read_bytes())
    (checkout / "config").mkdir()
    recipe = "config/train_shakespeare_char.py"
    (checkout / recipe).write_bytes(suite.peer(f"nanoGPT/{recipe}").read_bytes())
    data = checkout / "data/shakespeare_char"
    data.mkdir(parents=True)
    (data / "input.txt").write_text(text, encoding="utf-8", newline="")
    (data / "prepare.py").write_bytes(suite.peer("nanoGPT/data/shakespeare_char/prepare.py").read_bytes())
    (data / "requests.py").touch()  # it is imported to download what lies there already
    prepared = measure.run([suite.peers_python, "prepare.py"], cwd=data, last_line=False)
    command = [suite.peers_python, "-W", "ignore", "train.py", recipe, *LAPTOP.split(), f"--out_dir={folder}/out"]
    trained = [measure.run(command, cwd=checkout, last_line=False) for _ in range(3)]
    np.save(folder / "held.npy", np.fromfile(data / "val.bin", dtype=np.uint16))
    settings = {"checkpoint": f"{folder}/out/ckpt.pt", "held": f"{folder}/held.npy", "context": 64, "rows": 64}
    scored = measure.run([suite.peers_python, PEER, "score", checkout, json.dumps(settings)])
    seconds = statistics.median(sample.seconds for sample in trained)
    return seconds + prepared.seconds, scored.result["loss"]


CLAIMS = {
    "training-small": small,
    "training-medium": medium,
    "training-out-of-box": out_of_box,
    "training-lstm": lstm,
    "training-newcomer": newcomer,
}
TRIED = """
On a CPU whose vector units multiply bf16 (AVX-512 BF16) four fifths of a step are products, at 233 GFLOP/s a core at
most. What was tried there, with what it gave on two cores of an AMD EPYC of the fourth generation:

- A transformer block as one function of some twenty calls into C++ (`models/fused_block.py`), weights read in fp32 as
  they lie, gradients in fp32, attention in registers, the residual stream added to by the products: 1.33 to 1.38 ×
  nanoGPT in bf16 at 6 layers of 384, before what follows; kept.
- Weights laid out once for all threads, each thread's rows in its second cache, results stored as soon as they are
  summed: products from 185 to 212 GFLOP/s a core, a step on one core from 1,240 to 1,132 ms; kept.
- Scratch memory that begins with a cache line: nothing on one core, but on two the weight gradients took 8.6 instead of
  10.6 ms and the step 582 instead of 606; kept.
- Calling rows, panels or results into the cache ahead of their use: nothing, whatever the distance; dropped.
- Stores without masks, rows of results at other distances from one another: nothing.
- Huge pages for all memory (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`): 1%; left to who starts the program.
- The clipping of gradients left to the optimiser's own pass: a pass over all gradients less, 2 to 4 ms; kept.
- Muon's matrices iterated together by shape, in bf16 where the run is: 21 → 10 ms a step at 4 layers of 128; kept.

What stays short at 6 layers of 384: nanoGPT in bf16, compiled, reaches six tenths of the rate of the products here, so
1.5 × would be nine tenths of it, attention counted whole. Ours spends about 470 of 600 ms in products (205 to 215 of
233 GFLOP/s a core), 46 in attention, 16 in passes over the activation of the MLP, 10 in norms and the optimiser.

The LSTM's step has 44 MFLOP a token, nine tenths of them in the 33,278 rows of the head:

- Recurrence and its gradients in C++ (`models/fused_lstm.h`), each thread with its own rows of the batch through all
  positions: 32 → 18 ms of core time a step; kept.
- The gradient of the head's bias summed while the product lays out its operand: 14 → 2 ms of core time; kept.
- Panels shared as above: 65 → 49 and 52 → 47 ms of core time for logits and their gradient; kept.
- What was left beside products: softmax over 23 million logits (8 ms of about 110, then with two exponentials a logit,
  now with one), dropout's draws, which come one after the other (2 ms), the optimiser and passes over gradients.
"""


def main() -> None:
    """Trains, and prints the median speed of a step and the held-out loss as JSON."""
    recipe, *words = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        result = api.train(recipe, [*words, "track.log_every=1"], Path(folder) / "run")
        lines = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
    rates = [line["tokens_per_second"] for line in map(json.loads, lines) if "tokens_per_second" in line]
    print(json.dumps({"rate": statistics.median(rates[SKIP:]), "loss": result["validation"]["loss"]}))


if __name__ == "__main__":
    main()
