"""The errors a user can cause, and the exit codes they end with."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    BUG = 1
    BAD_INPUT = 2
    IN_USE = 3
    CANNOT_WRITE = 4
    DIVERGED = 5
    NO_SANDBOX = 6
    OUT_OF_MEMORY = 7
    CHECK_FAILED = 8
    STOPPED = 75
    INTERRUPTED = 130


class UserError(Exception):
    """Something the user can mend: one line of what is wrong, one of how to mend it; shown without a traceback."""

    def __init__(self, what: str, mend: str, code: Exit = Exit.BAD_INPUT) -> None:
        super().__init__(what, mend)
        self.what = what
        self.mend = mend
        self.code = code

    def __str__(self) -> str:
        return f"{self.what}\n{self.mend}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None. Initials count as close: "lr" is "learning_rate"."""
    names = list(known)
    initials = [full for full in names if "".join(word[:1] for word in full.split("_")) == name]
    return next(iter(initials or get_close_matches(name, names, n=1)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean "x"?)` for the known name closest to `name`, or an empty text when none is close."""
    close = closest(name, known)
    return f' (did you mean "{close}"?)' if close else ""


def missing_extra(extra: str, package: str, purpose: str) -> UserError:
    """The error for a package of an optional extra that is not installed."""
    return UserError(
        f"{purpose} needs the package {package}, which is not installed",
        f"install it with: pip install 'idiolect[{extra}]'",
    )
