"""The verb `bench`: what this machine does at most, and how much of it Idiolect reaches, in under a minute."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from idiolect import devices, seeds
from idiolect.data.batch import Batch
from idiolect.data.shards import Shards, encode
from idiolect.decode.generate import stream
from idiolect.decode.settings import DecodeSettings
from idiolect.models.build import build
from idiolect.models.ngram import NGram
from idiolect.models.settings import DecoderSettings, NGramSettings, RecurrentSettings
from idiolect.plan import limits
from idiolect.plan.flops import flops_per_token, mfu
from idiolect.recipes import library
from idiolect.recipes.prepare import say
from idiolect.text.corpus import Corpus
from idiolect.tokens import learn
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer
from idiolect.train import loop, objectives, optimisers
from idiolect.train.settings import Resolved, TrainSettings

TEXT, VOCABULARY = 8 << 20, 4096
"""Bytes of text, the standard library's own source, and the tokens of the BPE learnt from it."""
TRAINED, ROWS = DecoderSettings(layers=6, heads=6, width=384, context=256), 12
DECODED = DecoderSettings(layers=12, heads=12, width=768, context=512)
COUNTED, SCORED = 300_000, 30_000
"""Tokens that a 5-gram is counted from, and tokens after them that it scores."""
WARM_UP, STEPS = 2, 8
"""Optimiser steps not measured (the first allocate, and choose kernels), and measured."""
PROMPT, NEW = 32, 64
"""Tokens read and written."""


class Document(NamedTuple):
    """One document, as `NGram.fit` reads it."""

    ids: np.ndarray
    offsets: np.ndarray


def bench() -> dict[str, Any]:
    """This machine's limits and our own speeds on it: training, decoding, text to shards, n-grams.

    Rates are a second. `mfu` and `share_of_bandwidth` say how much of the limit a speed is (see `plan.limits`).
    """
    say("measuring the limits of this machine")
    limit = limits.measure()
    with tempfile.TemporaryDirectory(prefix="idiolect-bench-") as scratch:
        say("text to shards, and n-grams")
        text = Path(scratch) / "text.txt"
        text.write_text(library.source(TEXT), encoding="utf-8")
        corpus = Corpus([text])
        tokenizer = learn.train((d.text for d in corpus), TokenizerSettings(kind="bpe", size=VOCABULARY))
        began = time.perf_counter()
        shards = encode(corpus, tokenizer, cache=Path(scratch))
        rate = shards.bytes / (time.perf_counter() - began)
        counting = ngram(shards, tokenizer)
    say("training, and decoding")
    return {
        "device": limit.device,
        "hardware": limit.hardware,
        "threads": limit.threads,
        "torch": limit.torch,
        "limits": {
            "matmul_flops": dict(limit.matmul),
            "copy_bytes": limit.copy,
            "read_bytes": limit.read,
            "vector_bytes": dict(limit.vector),
        },
        "training": training(limit, tokenizer.size),
        "decoding": decoding(limit, tokenizer),
        "tokenising": {"bytes_per_second": rate},
        "ngram": counting,
    }


def training(limit: limits.Limits, vocabulary: int) -> dict[str, Any]:
    """Steps of a small transformer, in the precision that a run here would choose."""
    precision = devices.fastest(limit.device, devices.race(limit.device))
    resolved = Resolved.model_validate({"device": limit.device, "precision": precision, "threads": limit.threads})
    rate = ROWS * TRAINED.context / statistics.median(step_seconds(TRAINED, vocabulary, ROWS, resolved, STEPS))
    share = mfu(flops_per_token(TRAINED, vocabulary).total, rate, limit.matmul[precision])
    return {"precision": precision, "tokens_per_second": rate, "mfu": share}


def step_seconds(
    settings: DecoderSettings | RecurrentSettings, vocabulary: int, rows: int, resolved: Resolved, steps: int
) -> list[float]:
    """Wall clock of each of `steps` steps of the one training loop, on ids drawn at random."""
    train = TrainSettings(steps=WARM_UP + steps, batch_tokens=rows * settings.context, warmup_steps=0)
    model: Any = build(settings, vocabulary)
    model.to(resolved.device)
    ids = torch.randint(0, vocabulary, (rows, settings.context + 1), generator=seeds.generator(0, "bench"))
    batch = Batch(ids[:, :-1], ids[:, 1:])
    times: list[float] = []
    loop.fit(
        model,
        lambda step: [batch],
        objectives.next_token,
        optimisers.build(model, train),
        lambda step: 1.0,
        settings=train,
        resolved=resolved,
        hooks=[lambda step: times.append(step.seconds)],
    )
    return times[WARM_UP:]


def decoding(limit: limits.Limits, tokenizer: Tokenizer) -> dict[str, Any]:
    """Greedy tokens one after another from a transformer of random weights; the prompt's reading is left out."""
    model: Any = build(DECODED, tokenizer.size)
    model.eval().to(limit.device)
    prompt = torch.randint(2, tokenizer.size, (PROMPT,), generator=seeds.generator(0, "prompt")).tolist()
    asked = DecodeSettings(max_tokens=NEW + 1, temperature=0)
    with devices.pinned(limit.threads, deterministic=False):
        times = [time.perf_counter() for _ in stream(model, tokenizer, prompt, asked)]
    rate = 1 / statistics.median(later - earlier for earlier, later in itertools.pairwise(times))
    held = sum(weight.nbytes for weight in model.parameters())
    return {
        "precision": "fp32",
        "tokens_per_second": rate,
        "weight_bytes": held,
        "share_of_bandwidth": rate * held / limit.read,
    }


def ngram(shards: Shards, tokenizer: Tokenizer) -> dict[str, float]:
    """A 5-gram counted from the text's first tokens, and the ones after them scored in one batch."""
    counted, scored = np.split(shards.ids[: COUNTED + SCORED].astype(np.int64), [COUNTED])
    marks = {"begin_id": tokenizer.begin_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    model = NGram(NGramSettings(), tokenizer.size, **marks)
    began = time.perf_counter()
    model.fit(Document(counted, np.array([0, len(counted)])))
    middle = time.perf_counter()
    model.score(torch.from_numpy(scored)[None])
    ended = time.perf_counter()
    return {
        "counted_tokens_per_second": len(counted) / (middle - began),
        "scored_tokens_per_second": len(scored) / (ended - middle),
    }
