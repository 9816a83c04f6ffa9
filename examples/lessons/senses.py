"""A model that hears and one that sees: what is read need not be text.

An encoder reads vectors. Those of words come from an embedding; those of a sound or a picture are there already, up to
one matrix. So the same encoder reads frames [S, F]: S moments of a sound, each the strength of F frequencies, or S
lines of a picture, each of F points. The decoder writes text, as ever.

    tones.jsonl    the keys of a telephone, each two tones at once, in noise   → "three one four"
    shapes.jsonl   16 × 16 points with a shape drawn on them, in noise         → "a small hollow circle at the top left"

These are toys: real speech and real pictures take models of another size, and are not what this library is for.

Run it: python examples/lessons/senses.py FOLDER, and then
    idiolect train seq2seq data.train=FOLDER/tones.jsonl model.source_features=24 … (see tests/checklist/test_LM18.py)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Example = tuple[Array, str]
"""Frames [S, F], and the text that belongs to them."""

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LOW, HIGH = (697, 770, 852, 941), (1209, 1336, 1477)
"""The two tones of a key, by its row and its column (DTMF: ITU-T recommendation Q.23), in hertz."""
KEYS = {0: (3, 1), **{digit: divmod(digit - 1, 3) for digit in range(1, 10)}}
RATE, STEP, LOWEST, FREQUENCIES = 4000, 96, 14, 24
"""Samples a second; samples a frame; the first of the frequencies in a frame, and how many: 583 to 1,542 Hz."""
SIDE = 16


def tones(rng: np.random.Generator) -> Example:
    """One to four keys, pressed for 60 to 110 ms with 40 to 80 ms between them, in noise."""
    digits = rng.integers(0, 10, rng.integers(1, 5)).tolist()
    parts = [np.zeros(int(RATE * rng.uniform(0.02, 0.06)))]
    for digit in digits:
        row, column = KEYS[digit]
        time = np.arange(int(RATE * rng.uniform(0.06, 0.11))) / RATE
        loud, phase = rng.uniform(0.5, 1.5), rng.uniform(0, 2 * np.pi, 2)
        pressed = np.sin(2 * np.pi * LOW[row] * time + phase[0]) + np.sin(2 * np.pi * HIGH[column] * time + phase[1])
        parts += [loud * pressed, np.zeros(int(RATE * rng.uniform(0.04, 0.08)))]
    sound = np.concatenate(parts)
    return spectrum(sound + rng.normal(0, 0.1, len(sound))), " ".join(WORDS[digit] for digit in digits)


def spectrum(sound: Array) -> Array:
    """Frames [S, FREQUENCIES]: the logarithm of the strength of each frequency in each STEP samples."""
    frames = sound[: len(sound) // STEP * STEP].reshape(-1, STEP)
    strength = np.abs(np.fft.rfft(frames * np.hanning(STEP)))
    return np.log(0.5 + strength[:, LOWEST : LOWEST + FREQUENCIES])


def shapes(rng: np.random.Generator) -> Example:
    """A shape, small or large, filled or hollow, in one of the corners, in noise: [SIDE, SIDE]."""
    inside: dict[str, Callable[[Array, Array, float], NDArray[np.bool_]]] = {
        "square": lambda x, y, r: np.maximum(abs(x), abs(y)) <= r,
        "circle": lambda x, y, r: np.hypot(x, y) <= r,
        "diamond": lambda x, y, r: abs(x) + abs(y) <= r,
        "triangle": lambda x, y, r: (abs(y) <= r) & (2 * abs(x) <= y + r),
    }
    shape = str(rng.choice(list(inside)))
    size, filled = rng.integers(2), rng.integers(2)
    down, right = rng.integers(2, size=2)
    radius = (2.3, 3.6)[size]
    middle = np.array([4.0, 4.0]) + (7, 7) * np.array([down, right]) + rng.uniform(-0.3, 0.3, 2)
    y, x = np.mgrid[:SIDE, :SIDE] - middle[:, None, None]
    drawn = inside[shape](x, y, radius)
    if not filled:
        drawn &= ~inside[shape](x, y, radius - 1.3)
    place = f"{('top', 'bottom')[down]} {('left', 'right')[right]}"
    caption = f"a {('small', 'large')[size]} {('hollow', 'filled')[filled]} {shape} at the {place}"
    return drawn + rng.normal(0, 0.1, (SIDE, SIDE)), caption


def write(path: Path, make: Callable[[np.random.Generator], Example], count: int, seed: int) -> None:
    """`count` examples as a jsonl file, a row each."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            frames, text = make(rng)
            file.write(json.dumps({"frames": frames.round(3).tolist(), "text": text}) + "\n")


def main(arguments: list[str]) -> None:
    """Writes both files, and shows one example of each."""
    folder = Path(arguments[0] if arguments else ".")
    for make, count in ((tones, 3000), (shapes, 2000)):
        path = folder / f"{make.__name__}.jsonl"
        write(path, make, count, seed=0)
        frames, text = make(np.random.default_rng(1))
        print(f"{path}: {count} examples, such as {len(frames)} frames of {frames.shape[1]} numbers: {text}")


if __name__ == "__main__":
    main(sys.argv[1:])
