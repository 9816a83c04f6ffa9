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
from idiolect.decode.translate import alignments, source_ids, start_id, translate
from idiolect.errors import UserError, missing_extra
from idiolect.models import decoder, encoder, encoder_decoder
from idiolect.models.contract import SequenceToSequence
from idiolect.models.decoder import Decoder
from idiolect.models.encoder import Encoder
from idiolect.models.encoder_decoder import EncoderDecoder
from idiolect.report import Axes, Report, visible

CELLS = 1 << 18
"""Most squares that are drawn in all."""
KINDS = (".png", ".html")
ANSWER, CAUSAL, BOTH_WAYS = ("written", "source"), ("position", "looks back at"), ("position", "looks at")
"""The names of the axes."""


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
        return _answered(model, tokenizer, text, target, settings)
    if target is not None:
        raise UserError("target is for models that answer a text, and this one only reads it", "leave it out")
    maps_of: Callable[[Any, Tensor], Tensor]
    if isinstance(model, Decoder):
        ids, axes, maps_of = prompt_ids(model, tokenizer, text, settings), CAUSAL, decoder.attention_maps
    elif isinstance(model, Encoder):
        ids, axes, maps_of = tokenizer.framed(tokenizer.encode(text)), BOTH_WAYS, encoder.attention_maps
    else:
        what = "this model has no attention to look at"
        raise UserError(what, "use a transformer, or a seq2seq model with attention")
    with still(model):
        weights = maps_of(model, torch.tensor(ids, device=device_of(model)))
    tokens = tokenizer.pieces(ids)
    return Seen(text, None, tuple(_maps("self-attention", weights, tokens, tokens, axes)))


def _answered(model: Any, tokenizer: Any, text: str, target: str | None, settings: DecodeSettings) -> Seen:
    """The maps of a model that answers a text: of the source as it wrote, and of each side within itself."""
    source = source_ids(model, tokenizer, text)
    if target is None:
        answer = translate(model, tokenizer, [source], settings)[0]
        ids, target = list(answer.ids), answer.text
    else:
        ids = source_ids(model, tokenizer, target).tolist()
    written, read = tokenizer.pieces(ids), tokenizer.pieces(source.tolist())
    if not isinstance(model, EncoderDecoder):
        weights = alignments(model, tokenizer, source, ids)
        return Seen(text, target, tuple(_maps("attention", weights, written, read, ANSWER)))
    begun = [start_id(model.settings, tokenizer), *ids[:-1]]
    with still(model):
        device = device_of(model)
        maps = encoder_decoder.attention_maps(model, torch.tensor(begun, device=device), source.to(device))
    before = tokenizer.pieces(begun)
    return Seen(
        text,
        target,
        (
            *_maps("cross-attention", maps.source, written, read, ANSWER),
            *_maps("self-attention of the decoder", maps.decoder, before, before, CAUSAL),
            *_maps("self-attention of the encoder", maps.encoder, read, read, BOTH_WAYS),
        ),
    )


def _maps(name: str, weights: Tensor, rows: Sequence[str], columns: Sequence[str], axes: Axes) -> Iterator[Map]:
    """weights [L, H, T, S] as maps: the mean of all heads, where there are several, then each."""
    (L, H), weights = weights.shape[:2], weights.float().cpu()
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
