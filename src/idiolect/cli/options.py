"""Options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from idiolect.decode.settings import Precision

Json = Annotated[bool, Parameter(help="Print exactly one JSON object on stdout.")]
KeptIn = Annotated[
    Precision,
    Parameter(
        help="What the weights are kept in: as they are stored, fp32, or bf16, which is half the memory to read and "
        "slightly less exact."
    ),
]
Adapter = Annotated[Path | None, Parameter(help="An adapter folder (or its run) to put on the model.")]
Out = Annotated[Path, Parameter(name=["--out", "-o"])]
Flat = Parameter(name="*")
