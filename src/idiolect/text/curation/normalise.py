"""One way of writing a text, whatever it says: encoding, Unicode, control characters, white space."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

from idiolect.errors import missing_extra
from idiolect.text.settings import NormaliseSettings

CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]")
"""Characters that stand for nothing: controls but tab and line ends, byte order marks, annotations, half pairs."""
ENDS = ("\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029")
"""What ends a line besides a newline."""
BLANK_END = re.compile(r"[^\S\n]\n")
EMPTY_LINES = re.compile(r"\n{3,}")
ROUNDS = 9
"""How often a text is mended again, as mending may uncover more; it never took more than 3."""


def normalise(text: str, settings: NormaliseSettings) -> str:
    """The text as the settings ask for it; doing so again changes nothing."""
    for _ in range(ROUNDS):
        before = text
        if settings.repair and not text.isascii():
            text = repaired(text)
        if settings.control:
            text = CONTROL.sub("", text)
        if settings.unicode and not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
        if settings.whitespace:
            text = _spaced(text)
        if text == before or text.isascii():
            break
    return text


def _spaced(text: str) -> str:
    """Unix line ends, no blanks at ends of lines, at most one empty line together, none at the ends."""
    if any(end in text for end in ENDS):
        text = text.replace("\r\n", "\n")
        for end in ENDS:
            text = text.replace(end, "\n")
    if " \n" in text or "\t\n" in text or (not text.isascii() and BLANK_END.search(text)):
        # a pattern that takes out all of them would be quadratic in their number
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    if "\n\n\n" in text:
        text = EMPTY_LINES.sub("\n\n", text)
    return text.rstrip().lstrip("\n")


def repaired(text: str) -> str:
    """The text with each line mended that was decoded with the wrong encoding, as ftfy does it.

    ftfy leaves a line as it is where its heuristic (`ftfy.badness`) finds nothing, but takes a third of a millisecond
    to look. All that it can find has one of few pairs of characters in it: they are looked for first.
    """
    suspect, mended = _mender()
    if not suspect(text):
        return text
    return "\n".join([mended(line) if suspect(line) else line for line in text.split("\n")])


@functools.cache
def _mender() -> tuple[Callable[[str], bool], Callable[[str], str]]:
    """Whether a text may need mending, and what mends a line."""
    try:
        import ftfy
        from ftfy import badness
    except ImportError:
        raise missing_extra("data", "ftfy", "mending text of the wrong encoding (normalise.repair)") from None
    k = badness.MOJIBAKE_CATEGORIES
    bad = "".join(k[kind] for kind in ("c1", "bad", "box", "currency", "numeric", "law"))
    low, high, start, end = k["lower_accented"], k["upper_accented"], k["start_punctuation"], k["end_punctuation"]
    # what ftfy's patterns need at least: a character of these beside another
    pairs = re.compile(
        rf"[{bad}{low}{high}ŒœÂÃ](?:(?<=[{k['c1']}ÂÃ])|(?<=[Œœ])(?![A-Za-z])|(?<=[ÎÐØÙ])(?=[^\x00-\x7f])"
        rf"|(?<=[{bad}])(?:(?=[^\x00-\x7f])|(?<=[^\x00-\x7f].))"
        rf"|(?<=[{low}])(?:(?=[{start}{end}])|(?<=[{end}‚].))"
        rf"|(?<=[{high}])(?:(?=[{start}{end}{k['common']}°])|(?<=[{low}{k['lower_common']}{end}‚].)))",
        re.DOTALL,
    )
    letters = re.compile(rf"[ВГРСΒΓΞΟ][{k['c1']}{k['bad']}{start}{end}{k['currency']}°µ][ВГРСΒΓΞΟ]|[вВ]Ђ")
    return lambda text: bool(pairs.search(text) or letters.search(text)), ftfy.fix_encoding
