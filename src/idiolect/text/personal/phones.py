"""Phone numbers in text: a cheap search for runs of digits, then the numbering plans of `phonenumbers`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from idiolect.errors import UserError, missing_extra, nearest

BETWEEN = r" .\-/()\u00a0\u2010-\u2015"
"""What may stand between digits."""
RUN = re.compile(rf"(?:(?<!\w)|(?<=\\[nrt]))[+(]{{0,2}}\d(?:[{BETWEEN}]{{0,3}}\d){{6,}}", re.ASCII)
"""Digits in which a number may lie; seven at least."""
GROUP = re.compile("[0-9]+")
GAP = rf"(?:\)?[{BETWEEN}]{{1,2}}|\))"
NAMED = re.compile(
    r"(?i)\b(?:tel|t[eé]l[eé]ph?one?s?|telefono|tel[eé]fono|phone|mobile?|cell(?:phone|ular)?|fax|call|whatsapp|sms|handy)"
    r"(?:\W{1,3}(?:no|nr|n°|number|us|me|him|her|at|on|is|to)\b){0,2}\W{0,4}$"
)
"""What stands before a number that is said to be one."""
BEFORE = 40
"""Characters before a number in which that is looked for."""
EXTENSION = re.compile(r"(?i),? ?(?:ext(?:ension)?\.?|x) ?\d{1,6}(?!\w)", re.ASCII)
DECIMAL = re.compile(r"\+\d+\.\d+")
LONGEST = 15
"""Digits of an international number (ITU-T E.164)."""
NOT_BEFORE = re.compile(r"(?<!\\)[\w.,+/$€£¥#§-]$|\d $", re.ASCII)
NOT_AFTER = re.compile(r"\w|[-.,/:]\d| \d|[%°€]", re.ASCII)


class Phones:
    """Finds phone numbers.

    Of any country with + or 00 before it. Those of `regions` also as they are written at home: in the groups that
    are usual there, or in any behind a word such as "phone". Bare digits without either are no phone number.
    """

    def __init__(self, regions: Sequence[str]) -> None:
        """Raises UserError without the package or for a region that it does not know."""
        try:
            import phonenumbers
        except ImportError:
            raise missing_extra("data", "phonenumbers", "finding phone numbers") from None
        self.library: Any = phonenumbers
        for region in regions:
            if region not in phonenumbers.SUPPORTED_REGIONS:
                known = nearest(region, phonenumbers.SUPPORTED_REGIONS)
                raise UserError(f"there is no region {region}{known}", "name countries by ISO 3166: US, GB, DE")
        self.regions = tuple(regions)

    def __call__(self, text: str, begin: int, stop: int) -> Iterator[tuple[int, int]]:
        """(start, end) of each number in a stretch of a text, from the first digit to the last."""
        for run in RUN.finditer(text, max(0, begin - 2), stop):
            done = run.start()
            first = self._first(text, run)
            if first:
                yield first
                done = first[1]
            for start, end in self._grouped(text, done, run.end()):
                yield start, self._with_extension(text, end)

    def _first(self, text: str, run: re.Match[str]) -> tuple[int, int] | None:
        """The number that a run begins with, when a +, a 00 or a word says that it is one."""
        start, said = run.start(), run.group()
        if DECIMAL.fullmatch(said):
            return None
        if said.lstrip("(").startswith(("+", "00")):
            regions: Sequence[str | None] = (None,)
        elif NAMED.search(text[max(0, start - BEFORE) : start]):
            regions = self.regions
        else:
            return None
        ends = [group.end() for group in GROUP.finditer(said)][:LONGEST]
        for end in reversed(ends):
            number = said[:end].lstrip("(")
            if number.startswith("00"):
                number = f"+{number[2:]}"
            if sum(map(str.isdigit, number)) <= LONGEST and any(self._valid(number, region) for region in regions):
                whole = said[:end].count("(") == said[:end].count(")")  # or the number lies in brackets
                begin = start if whole else start + len(said) - len(said.lstrip("("))
                return begin, self._with_extension(text, start + end)
        return None

    def _grouped(self, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Numbers in the groups that are usual in one of the regions."""
        for region, pattern in self._patterns.items():
            for found in pattern.finditer(text, start, end):
                if found.group().count(".") == 1 or ("." in found.group() and "-" in found.group()):
                    continue  # a decimal, a clause of a law
                before, after = text[max(0, found.start() - 2) : found.start()], text[found.end() : found.end() + 2]
                if NOT_BEFORE.search(before) or NOT_AFTER.match(after):
                    continue
                if self._valid(found.group(), region):
                    open_ = found.group().count("(") > found.group().count(")")
                    yield found.start() + open_, found.end()

    def _valid(self, number: str, region: str | None) -> bool:
        try:
            return bool(self.library.is_valid_number(self.library.parse(number, region)))
        except self.library.NumberParseException:
            return False

    def _with_extension(self, text: str, end: int) -> int:
        found = EXTENSION.match(text, end)
        return found.end() if found else end

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        """For each region, its numbers in all groupings of its numbering plan, with the trunk prefix."""
        out = {}
        for region in self.regions:
            about = self.library.PhoneMetadata.metadata_for_region(region)
            forms = {self._form(about, form) for form in about.number_format if form.pattern.count("(") > 1}
            out[region] = re.compile("|".join(sorted(forms, key=lambda form: (-len(form), form))), re.ASCII)
        return out

    def _form(self, about: Any, form: Any) -> str:
        groups = re.findall(r"\(([^()]+)\)", form.pattern)
        rule = form.national_prefix_formatting_rule or ""
        trunk = "".join(filter(str.isdigit, rule.replace("\\1", "")))
        prefix = rf"(?:{trunk}[{BETWEEN}]?)" if trunk else ""
        if not trunk and about.national_prefix:  # not written, yet never wrong: 1 of North America
            prefix = rf"(?:{about.national_prefix}{GAP})?"
        if form.national_prefix_optional_when_formatting and trunk:
            prefix += "?"
        return rf"(?:\({prefix}|{prefix}\(?){GAP.join(groups)}"
