"""Greedy decoding with a cache, batch 1: a Llama of 110M weights a token, a prompt of 128 tokens, 256 more.

The folder is written by transformers and read by all (llama.cpp has its weights in its own format); decoding_peer.py
says what it holds, and times the peers. A text's first token stands for reading the prompt, the others for decoding.

python -m benchmarks.decoding time FOLDER PRECISION       what `idiolect generate` calls, timed as the peers are
python -m benchmarks.decoding agree FOLDER                argmax of bf16 against fp32, position by position
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import decoding_peer, measure
from benchmarks.measure import Claim
from benchmarks.suite import Suite
from idiolect import devices
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings, Precision
from idiolect.decode.verbs import load_with_tokenizer
from idiolect.tokens import learn
from idiolect.tokens.settings import TokenizerSettings

HUGGING_FACE, LLAMA_CPP, AGREE = 1.3, 1.1, 0.99
"""How many times as fast as both, and the share of argmaxes that bf16 has in common with fp32: what is asked."""
BYTES = {"fp32": 4, "bf16": 2}
PEERS = ("default", "compiled", "llama.cpp")
POSITIONS = 16
"""Read at once where all logits are looked at."""


def ours(folder: Path, precision: Precision) -> dict[str, Any]:
    """Timings as `decoding_peer.timed` takes them."""
    prompt = _text(folder)[: decoding_peer.PROMPT]
    loaded = load_with_tokenizer(folder, precision)

    def generate(new: int) -> tuple[int, ...]:
        settings = DecodeSettings(max_tokens=new, temperature=0)
        return complete(loaded.model, loaded.tokenizer, [prompt], settings)[0].ids

    return decoding_peer.timed(generate)


def agreement(folder: Path) -> float:
    """The share of the text's positions, its own tokens before each, where bf16 and fp32 have the same argmax."""
    ids = torch.tensor([_text(folder)])
    both = [_argmaxes(load_with_tokenizer(folder, precision).model, ids) for precision in ("fp32", "bf16")]
    return float((both[0] == both[1]).double().mean())


def _argmaxes(model: Any, ids: Tensor) -> Tensor:
    state, found = model.init_state(1, ids.shape[1]), []
    for part in ids.split(POSITIONS, 1):
        logits, state = model.step(part, state)
        found.append(logits.argmax(-1))
    return torch.cat(found, 1)


def _text(folder: Path) -> list[int]:
    return json.loads((folder / "text.json").read_text(encoding="utf-8"))


def claims(suite: Suite) -> Iterator[Claim]:
    """fp32 and bf16, each against transformers at its better setting and against llama.cpp."""
    folder, script = suite.folder("decoding"), decoding_peer.__file__
    versions = {"transformers": suite.package("transformers"), "llama.cpp": suite.package("llama-cpp-python")}
    read = measure.run([suite.peers_python, script, "make", folder]).result["read"]
    words = [f"w{number}" for number in range(decoding_peer.VOCABULARY - decoding_peer.CONTROL)]
    learn.from_vocabulary(words, TokenizerSettings(kind="word", size=decoding_peer.VOCABULARY)).save(folder)
    agree = measure.run(suite.child("decoding", "agree", folder)).result["agree"]
    env = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "OMP_NUM_THREADS": str(devices.threads())}
    reference: list[int] = []
    for precision, size in BYTES.items():
        measure.say(f" {precision}")
        commands = {"Idiolect": suite.child("decoding", "time", folder, precision)}
        for peer in PEERS:
            commands[peer] = [suite.peers_python, script, peer, folder, precision, str(devices.threads())]
        sides = {name: lambda c=command: measure.run(c, env=env) for name, command in commands.items()}
        turns = measure.in_turn(sides, suite.rounds)
        speed = {name: measure.spread(turns.values(name, "rate")).median for name in sides}
        reference = reference or turns.samples["Idiolect"][0].result["ids"]
        same = {name: all(s.result["ids"] == reference for s in turns.samples[name]) for name in sides}
        better = max(("default", "compiled"), key=speed.__getitem__)
        table = [["", "decoding, tokens/s", "prompt, tokens/s", "peak memory, MB", "ids of fp32"]]
        for name in sides:
            prompt = measure.spread(turns.values(name, "prefill")).median
            peak, equal = f"{turns.peak(name) / 1e6:,.0f}", "yes" if same[name] else "NO"
            table.append([_called(name, versions), f"{speed[name]:.1f}", f"{prompt:,.0f}", peak, equal])
        exact = same["Idiolect"] and (same[better] or precision == "bf16") and agree >= AGREE
        for peer, least in ((better, HUGGING_FACE), ("llama.cpp", LLAMA_CPP)):
            yield measure.compare(
                *(turns, "Idiolect", peer),
                name=f"decoding, Llama of 110M, {precision}, batch 1"
                + (", beside llama.cpp" if peer == "llama.cpp" else ", beside transformers"),
                at_least=least,
                peer_name=_called(peer, versions),
                key="rate",
                unit="tokens/s",
                holds=exact,
                limit=f"what memory gives, {suite.limits.read / 1e9:.1f} GB/s",
                share=speed["Idiolect"] * read * size / suite.limits.read,
                table=table if peer == better else (),
                note=f"prompt of {decoding_peer.PROMPT} tokens, {decoding_peer.NEW} more, {devices.threads()} threads; "
                f"weights of {read * size / 1e6:.0f} MB are read for a token. Random weights that know one text by "
                f"heart; bf16 and fp32 have the same argmax at {agree:.1%} of its positions.",
            )


def _called(name: str, versions: dict[str, str]) -> str:
    settings = {"default": ", generate", "compiled": ", generate, static cache, compiled"}
    if name in settings:
        return versions["transformers"] + settings[name]
    return versions.get(name, name)


CLAIMS = {"decoding": claims}
TRIED = """
- Weights copied out of their files, side by side in huge pages: 30.7 instead of 36.1 and 39.9 ms a token in fp32, 21.6
  and 20.8 instead of 22.6 and 24.0 in bf16 (in turn within one process, one core, other programs at work); kept.
- Each tensor read through a mapping of its own that ends with it: loading 134M weights as bf16 takes 0.32 instead of
  0.79 GB at its peak; kept.
- Two or four rows of weights at a time for a single vector, called into the caches ahead: no faster than one row that
  the processor follows by itself (bf16: 20 against 19 GB/s; fp32: 12 against 17 to 24); left out.
"""


def main() -> None:
    """Prints what one run found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["time", "agree"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("precision", nargs="?", choices=list(BYTES), default="fp32")
    asked = parser.parse_args()
    timed = asked.what == "time"
    print(json.dumps(ours(asked.folder, asked.precision) if timed else {"agree": agreement(asked.folder)}))


if __name__ == "__main__":
    main()
