import pytest

from idiolect.recipes import library


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder of real text: 40 documents of the Python library, 60 kB in all."""
    folder = tmp_path_factory.mktemp("text")
    for number, document in zip(range(40), library.documents(), strict=False):
        (folder / f"{number:02}.txt").write_text(document[:1500], encoding="utf-8")
    return folder


SMALL = [
    "tokenizer.size=300",
    "model.width=16",
    "model.layers=2",
    "model.context=32",
    "train.steps=12",
    "train.batch_tokens=256",
    "train.precision=fp32",
    "train.compile=no",
    "train.threads=1",
    "checkpoint.every=5",
    "validation.every=4",
    "validation.tokens=500",
    "sample.every=6",
    "sample.tokens=5",
]
"""What makes a recipe's run a matter of a second."""


@pytest.fixture(scope="session")
def small(text):
    return [f"data.train={text}", *SMALL]
