"""What a model looked at: the weights of its attention over the tokens of a text, as maps, a page or a picture.

Shapes: L layers, H heads, T tokens that read, S tokens that are read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idiolect import files
from idiolect.decode.read import device_of, prompt_ids, still
from idiolect.decode.settings import DecodeSettings
from idiolect.decode.translate import alignments, source_ids, translate
from idiolect.errors import UserError, missing_extra
from idiolect.models import decoder, encoder
from idiolect.models.contract import SequenceToSequence
from idiolect.models.decoder import Decoder
from idiolect.models.encoder import Encoder
from idiolect.report import Axes, Report, visible

CELLS = 1 << 18
"""Most squares that are drawn in all."""
KINDS = (".png", ".html")


@dataclass(frozen=True)
class Map:
    """The weights of one head, or the mean of several."""

    name: str
    """Which attention, and which head of it."""
    rows: tuple[str, ...]
    """The tokens that read."""
    columns: tuple[str, ...]
    """The tokens that are read."""
    weights: tuple[tuple[float, ...], ...]
    """[T][S]; each row sums to 1."""
    axes: Axes
    """What the rows and the columns are."""


@dataclass(frozen=True)
class Seen:
    """What a model looked at while it read and wrote."""

    source: str
    target: str | None
    """What a sequence-to-sequence model wrote, or was told to; None for a model that only reads."""
    maps: tuple[Map, ...]


def look(model: Any, tokenizer: Any, text: str, target: str | None, settings: DecodeSettings) -> Seen:
    """Every map of a model over a text, and over `target` (else over what it writes itself) where it answers texts.

    Raises UserError for a model without attention, and for a target that the model has no use for.
    """
    if isinstance(model, SequenceToSequence):
        source = source_ids(model, tokenizer, text)
        if target is None:
            answer = translate(model, tokenizer, [source], settings)[0]
            ids, target = list(answer.ids), answer.text
        else:
            ids = source_ids(model, tokenizer, target).tolist()
        rows, columns = tokenizer.pieces(ids), tokenizer.pieces(source.tolist())
        weights = alignments(model, tokenizer, source, ids)
        return Seen(text, target, tuple(_maps("attention", weights, rows, columns, ("target", "source"))))
    if target is not None:
        raise UserError("target is for models that answer a text, and this one only reads it", "leave it out")
    maps: Callable[[Any, Tensor], Tensor]
    if isinstance(model, Encoder):
        read, maps = tokenizer.framed(tokenizer.encode(text)), encoder.attention_maps
    elif isinstance(model, Decoder):
        read, maps = prompt_ids(model, tokenizer, text, settings), decoder.attention_maps
    else:
        raise UserError(
            "this model has no attention to look at", "use a transformer, or a seq2seq model with attention"
        )
    with still(model):
        weights = maps(model, torch.tensor(read, device=device_of(model))).float().cpu()
    tokens = tokenizer.pieces(read)
    return Seen(text, None, tuple(_maps("self-attention", weights, tokens, tokens, ("position", "reads"))))


def _maps(name: str, weights: Tensor, rows: Sequence[str], columns: Sequence[str], axes: Axes) -> Iterator[Map]:
    """weights [L, H, T, S] as maps: the mean of all heads, where there are several, then each."""
    L, H = weights.shape[:2]
    heads = {f"{name}, layer {i + 1}, head {j + 1}": weights[i, j] for i in range(L) for j in range(H)}
    if L * H == 1:
        heads = {name: weights[0, 0]}
    else:
        heads = {f"{name}, mean of all heads": weights.mean((0, 1)), **heads}
    for each, values in heads.items():
        yield Map(each, tuple(rows), tuple(columns), tuple(map(tuple, values.tolist())), axes)


def write(seen: Seen, path: Path) -> None:
    """The maps as a picture (.png, which needs matplotlib) or a page (.html), whole or not at all.

    Raises UserError for another kind of file, and for more squares than anyone could look at.
    """
    if path.suffix.lower() not in KINDS:
        raise UserError(f"{path}: a heat map is a {' or a '.join(KINDS)} file", "give the file such a name")
    cells = sum(len(each.rows) * len(each.columns) for each in seen.maps)
    if cells > CELLS:
        raise UserError(f"{len(seen.maps)} maps of {cells:,} squares in all are too many to draw", "shorten the text")
    if path.suffix.lower() == ".html":
        page(seen).write(path)
    else:
        picture(seen, path)


def page(seen: Seen) -> Report:
    """The maps as a page; hovering a square shows its tokens and its weight."""
    report = Report("What the model looked at").text("Text", seen.source)
    if seen.target is not None:
        report.text("Answer", seen.target)
    for each in seen.maps:
        report.heat(each.name, each.rows, each.columns, each.weights, each.axes)
    return report


def picture(seen: Seen, path: Path) -> None:
    """The maps as a PNG, side by side when there are several. Raises UserError when matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("plot", "matplotlib", "a picture as PNG") from None
    maps = seen.maps
    across = min(len(maps), 4)
    down = -(-len(maps) // across)
    width = max(2.5 + 0.24 * len(each.columns) for each in maps)
    height = max(2.0 + 0.24 * len(each.rows) for each in maps)
    figure = Figure(figsize=(width * across, height * down), dpi=130, layout="constrained")
    for place, each in enumerate(maps, 1):
        axes = figure.add_subplot(down, across, place)
        axes.imshow(each.weights, cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
        for axis, tokens in ((axes.xaxis, each.columns), (axes.yaxis, each.rows)):
            axis.set_ticks(range(len(tokens)), [visible(token) for token in tokens], fontsize=8)
            for label in axis.get_ticklabels():
                label.set_parse_math(False)  # a dollar is a dollar
        axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
        for label in axes.get_xticklabels():
            label.set(rotation=60, ha="left", rotation_mode="anchor")
        axes.xaxis.set_label_position("top")
        axes.set_ylabel(each.axes[0])
        axes.set_xlabel(each.axes[1])
        axes.set_title(each.name, fontsize=10)
    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_png(drawn)
    files.write_bytes(path, drawn.getvalue())
