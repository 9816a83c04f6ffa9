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
LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
TRAILING = re.compile(r"[^\S\n]\n")
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
    text = LINE_ENDS.sub("\n", text)
    if TRAILING.search(text):  # a pattern that takes out all of them would be quadratic in their number
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    return EMPTY_LINES.sub("\n\n", text.rstrip().lstrip("\n"))


def repaired(text: str) -> str:
    """The text with each line mended that was decoded with the wrong encoding, as ftfy does it.

    ftfy leaves a line as it is where its heuristic (`ftfy.badness`) finds nothing in it, but takes a millisecond to
    look. All that it may find has one of few characters beside another that is not ASCII: that is looked for first.
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
    kinds = badness.MOJIBAKE_CATEGORIES
    needed = ("c1", "bad", "lower_accented", "upper_accented", "box", "currency", "numeric", "law")
    strong = "".join(kinds[kind] for kind in needed) + "ŒœÂÃ"
    other = "".join(kinds[kind] for kind in ("c1", "bad", "start_punctuation", "end_punctuation", "currency")) + "°µ"
    # one character is enough of c1, œ before no letter, and  or Ã; else there is one beside it
    pairs = re.compile(
        rf"[{strong}](?:(?<=[{kinds['c1']}ÂÃ])|(?<=[Œœ])(?![A-Za-z])|(?=[^\x00-\x7f])|(?<=[^\x00-\x7f].))", re.DOTALL
    )
    letters = re.compile(rf"[ВГРСΒΓΞΟ][{other}][ВГРСΒΓΞΟ]|[вВ][Ђ]")
    return lambda text: bool(pairs.search(text) or letters.search(text)), ftfy.fix_encoding
