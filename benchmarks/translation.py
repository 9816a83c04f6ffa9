"""English into German, by recurrent networks with and without attention and by a transformer: what attention buys.

The three recipes read multi30k/{train,val}.{en,de}.gz, at most MINUTES each on two cores, and translate
multi30k/test_2016_flickr.en.gz by beam search; BLEU is sacrebleu's (default tokens and smoothing) over all of it and
over quarters of its sentences by their number of words. `french` is the transformer again, into French. The heat map
of docs/gallery.md is that of the recurrent model trained here.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import sacrebleu

from benchmarks import measure
from benchmarks.measure import ROOT, Claim, Sample
from idiolect import api
from idiolect.decode.settings import AnswerSettings

MODELS: dict[str, tuple[str, list[str]]] = {
    "no attention": ("seq2seq", ["model.attention=none"]),
    "attention": ("seq2seq", []),
    "transformer": ("translate", []),
}
"""What is compared → the recipe and what is changed of it."""
MINUTES = 15
LEAST, GAIN = 30.0, 4.0
"""BLEU asked of the transformer, and asked of attention over none on the longest quarter."""
BEAM = AnswerSettings(beams=4)
QUARTERS = 4
DRAWS = 500
"""Resamples of a quarter's sentences, for the interval of a difference."""
SENTENCE = "Two young men in green shirts are playing football on a field."
PICTURE = ROOT / "docs/gallery/attention.png"
"""What the recurrent model with attention read while it translated that."""


def lines(path: Path) -> list[str]:
    """The lines of a .gz file."""
    return gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()


def trained(data: Path, scratch: Path, name: str, language: str) -> tuple[Path, Sample]:
    """The run, and its command, scoring included."""
    recipe, changes = MODELS[name]
    run, corpus = scratch / f"{name.replace(' ', '-')}-{language}", data / "multi30k"
    files = [
        f"data.train={corpus / 'train.en.gz'}",
        f"task.targets={corpus / f'train.{language}.gz'}",
        f"data.validation={corpus / 'val.en.gz'}",
        f"task.validation_targets={corpus / f'val.{language}.gz'}",
    ]
    command = [sys.executable, "-m", "idiolect", "train", recipe, *files, "sample.every=0", *changes]
    return run, measure.run([*command, "-o", run, "--json"])


def translations(run: Path, sources: Sequence[str]) -> list[str]:
    """The translation of each source, by beam search."""
    return [one["text"] for one in api.translate(run / "model", sources, BEAM)["translations"]]


def bleu(guesses: Sequence[str], references: Sequence[str], some: Sequence[int] | np.ndarray) -> float:
    """Corpus BLEU of some sentences."""
    return float(sacrebleu.corpus_bleu([guesses[i] for i in some], [[references[i] for i in some]]).score)


def quarters(sources: Sequence[str]) -> list[np.ndarray]:
    """The sentences, shortest first, in quarters of equal number."""
    return np.array_split(np.argsort([len(source.split()) for source in sources], kind="stable"), QUARTERS)


def interval(
    one: Sequence[str], other: Sequence[str], references: Sequence[str], some: np.ndarray
) -> tuple[float, float]:
    """95% of the differences of BLEU (one less other) over sentences drawn with replacement (Koehn 2004)."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        drawn = draw.choice(some, len(some))
        found.append(bleu(one, references, drawn) - bleu(other, references, drawn))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def german(data: Path, scratch: Path) -> Iterator[Claim]:
    """All three models, by quarters."""
    sources, references = (lines(data / f"multi30k/test_2016_flickr.{language}.gz") for language in ("en", "de"))
    guesses, samples = {}, {}
    for name in MODELS:
        run, samples[name] = trained(data, scratch, name, "de")
        guesses[name] = translations(run, sources)
        if name == "attention":
            PICTURE.parent.mkdir(exist_ok=True)
            api.explore(run / "model", SENTENCE, attention=PICTURE)
    yield from claims(sources, references, guesses, samples)


def claims(
    sources: Sequence[str],
    references: Sequence[str],
    guesses: Mapping[str, Sequence[str]],
    samples: Mapping[str, Sample],
) -> Iterator[Claim]:
    """BLEU by length, what attention adds where sentences are longest, and the transformer's."""
    parts, everything = quarters(sources), range(len(sources))
    longest = parts[-1]
    rows = [
        [
            f"{min(words)}–{max(words)} words",
            *(f"{bleu(found, references, some):.1f}" for found in guesses.values()),
        ]
        for some in parts
        for words in [[len(sources[i].split()) for i in some]]
    ]
    whole = {name: bleu(found, references, everything) for name, found in guesses.items()}
    rows.append(["all", *(f"{score:.1f}" for score in whole.values())])
    minutes = {name: sample.seconds / 60 for name, sample in samples.items()}
    rows.append(["minutes", *(f"{minutes[name]:.1f}" for name in guesses)])
    rows.append(["parameters", *(f"{samples[name].result['parameters']:,}" for name in guesses)])
    gained = bleu(guesses["attention"], references, longest) - bleu(guesses["no attention"], references, longest)
    low, high = interval(guesses["attention"], guesses["no attention"], references, longest)
    yield Claim(
        "Multi30k, English to German: BLEU that attention adds to a recurrent model on the longest quarter",
        f"≥ {GAIN:.0f}",
        f"{gained:.1f} (95% of resamples: {low:.1f} to {high:.1f})",
        gained >= GAIN,
        table=[["sentences", *guesses], *rows],
    )
    yield Claim(
        "Multi30k, English to German: BLEU of the transformer on test 2016",
        f"≥ {LEAST:.0f}",
        f"{whole['transformer']:.1f}",
        whole["transformer"] >= LEAST,
    )
    yield Claim(
        "Multi30k: minutes of training, the longest of the three",
        f"≤ {MINUTES}",
        f"{max(minutes.values()):.1f}",
        max(minutes.values()) <= MINUTES,
        load=max(sample.load for sample in samples.values()),
    )


def french(data: Path, scratch: Path) -> Iterator[Claim]:
    """The transformer into French; nothing is asked, but that it is above what no attention gave into German."""
    sources, references = (lines(data / f"multi30k/test_2016_flickr.{language}.gz") for language in ("en", "fr"))
    run, sample = trained(data, scratch, "transformer", "fr")
    minutes = sample.seconds / 60
    found = bleu(translations(run, sources), references, range(len(sources)))
    yield Claim(
        "Multi30k, English to French: BLEU of the transformer on test 2016",
        f"≥ {LEAST:.0f}, in ≤ {MINUTES} minutes",
        f"{found:.1f} in {minutes:.1f} minutes",
        found >= LEAST and minutes <= MINUTES,
    )


CHECKS = {"translation": german, "translation-french": french}
