"""Perplexity needs no knowledge of the language: three families learn made-up DNA of a known entropy.

A Markov chain of order 3 writes the sequence: which of A, C, G, T comes next depends on the three before it, by a table
of 64 rows drawn at random. With π the share of each row's context in an endless sequence, its entropy rate is

    H = Σ_c π(c) Σ_w −p(w | c) log2 p(w | c)      bits a nucleotide

and no predictor can do better than a perplexity of 2^H. Guessing evenly gives 2² = 4. An n-gram that sees three letters
back, an LSTM and a transformer, none of which was told the order, all come to 2^H; an n-gram that sees fewer cannot.

Run it: python examples/lessons/dna.py (about a minute on two cores)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idiolect import api
from idiolect.evaluate.score import perplexity, score_text
from idiolect.interop import folder

LETTERS = "ACGT"
ORDER = 3
COMMON = ("tokenizer.kind=word", "tokenizer.pattern=[ACGT]", "data.packing=stream", "data.validation=0.02")
FITTED = (
    "model.context=16",
    "train.batch_tokens=2048",
    "train.optimizer=muon",
    "train.weight_decay=0",
    "train.threads=1",
    "train.precision=fp32",
    "train.compile=no",
    "train.device=cpu",
    "validation.every=0",
    "sample.every=0",
)
LSTM = ("model.layers=1", "model.width=96", "model.tied=false", "train.steps=320", "train.muon_learning_rate=0.03")
TRANSFORMER = ("model.layers=2", "model.width=64", "train.steps=300", "train.learning_rate=5e-3")
FAMILIES = {
    "3-gram": ("ngram", "model.order=3"),
    "4-gram": ("ngram", "model.order=4"),
    "LSTM": ("lstm", *LSTM, *FITTED),
    "transformer": ("gpt", *TRANSFORMER, *FITTED),
}
"""Name → recipe and what is changed in it."""

Table = NDArray[np.float64]
"""p(w | c): [64 contexts, 4 letters]; the context "xyz" is row 16 x + 4 y + z."""


def draw_table(rng: np.random.Generator) -> Table:
    """A row a context, uneven enough that the context matters (Dirichlet, concentration 0.6)."""
    return rng.dirichlet(np.full(4, 0.6), size=4**ORDER)


def entropy_rate(table: Table) -> float:
    """H in bits a letter. π is what stays as it is when the chain moves one letter on."""
    contexts = len(table)
    step = np.zeros((contexts, contexts))
    for c in range(contexts):
        for w in range(4):
            step[c, (4 * c + w) % contexts] += table[c, w]
    equations = np.vstack([step.T - np.eye(contexts), np.ones(contexts)])
    stationary = np.linalg.lstsq(equations, np.append(np.zeros(contexts), 1.0), rcond=None)[0]
    logs = np.log2(np.where(table > 0, table, 1.0))
    return float(-stationary @ (table * logs).sum(1))


def write_dna(table: Table, length: int, rng: np.random.Generator) -> str:
    """`length` letters of the chain."""
    bounds, draws = table.cumsum(1)[:, :3].tolist(), rng.random(length).tolist()
    context, letters = int(rng.integers(len(table))), []
    for draw in draws:
        w = sum(draw >= bound for bound in bounds[context])
        letters.append(LETTERS[w])
        context = (4 * context + w) % len(table)
    return "".join(letters)


def learn(family: str, text: Path, run: Path) -> Path:
    """Trains one of FAMILIES on the text; returns the folder of the model."""
    recipe, *changes = FAMILIES[family]
    return Path(api.train(recipe, [f"data.train={text}", *COMMON, *changes], run)["model"])


def measure(model: Path, text: str) -> float:
    """Perplexity of the text a letter; windows overlap by half, so that every letter has enough before it."""
    loaded = folder.load(model)
    context = getattr(loaded.settings, "context", None)
    scored = score_text(loaded.model, loaded.tokenizer, text, stride=context // 2 if context else None)
    assert scored.perplexity is not None and scored.tokens == len(text)
    return scored.perplexity


def guess_evenly(text: str) -> float:
    """Perplexity of p = 1/4 for every letter."""
    return perplexity(-len(text) * np.log(0.25), len(text))


def main() -> None:
    """200,000 letters to learn from, 32,768 to measure on."""
    rng = np.random.default_rng(0)
    table = draw_table(rng)
    best = 2 ** entropy_rate(table)
    train, test = write_dna(table, 200_000, rng), write_dna(table, 1 << 15, rng)
    print(f"entropy {entropy_rate(table):.4f} bits a letter, so no perplexity below {best:.4f}")
    print(f"{'uniform':>12} {guess_evenly(test):.4f}")
    with tempfile.TemporaryDirectory() as place:
        text = Path(place) / "dna.txt"
        text.write_text(train, encoding="utf-8")
        for family in FAMILIES:
            found = measure(learn(family, text, Path(place) / family), test)
            print(f"{family:>12} {found:.4f}  {found / best - 1:+.2%}", flush=True)


if __name__ == "__main__":
    main()
