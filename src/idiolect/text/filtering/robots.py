"""What a site lets crawlers have: robots.txt as RFC 9309 has it, and what sites say beside it about training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote

LARGEST = 500 << 10
"""Bytes of a robots.txt that are read, the least that the RFC asks for (2.5)."""
EVERYONE = "*"
UNRESERVED = re.compile(r"%(2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])")
"""Percent encodings of characters that need none: letters, digits and -._~ (RFC 3986, 2.3)."""
ENCODED = re.compile(r"%[0-9a-fA-F]{2}")
IN_QUERY = re.compile(r"%(3[aAfF]|2[fF]|40)")
"""Encodings of : ? / @, which mean themselves in a query (RFC 3986, 3.4)."""
TOKEN = re.compile(r"\*|[\w-]+")


class Rule(NamedTuple):
    """A line of a group."""

    allow: bool
    pattern: str
    """A path's beginning; * stands for anything, $ at the end for the path's end."""


class Robots:
    """The rules of one site."""

    def __init__(self, groups: dict[str, list[Rule]]) -> None:
        self.groups = groups
        """By product token, in small letters."""

    @classmethod
    def parse(cls, text: str) -> Robots:
        """The groups of a robots.txt; those of one crawler are one, and what is no rule is passed over (2.2)."""
        groups: dict[str, list[Rule]] = {}
        agents: list[str] = []
        ruled = True
        for key, value in _lines(text):
            if key == "user-agent":
                agents = [] if ruled else agents
                ruled = False
                if token := TOKEN.match(value):
                    agents.append(token.group().lower())
                    groups.setdefault(agents[-1], [])
            elif key in ("allow", "disallow"):
                ruled = True
                if value:  # an empty rule matches nothing
                    for agent in agents:
                        groups[agent].append(Rule(key == "allow", comparable(value, pattern=True)))
        return cls(groups)

    def allowed(self, agent: str, address: str) -> bool:
        """Whether a crawler may have the page: by its own group, or that of all crawlers where it has none (2.2.1).

        The longest rule that matches decides; of two that are equal the one that allows (2.2.2). Without one, and
        for robots.txt itself, the answer is yes.
        """
        path = comparable(path_of(address))
        if path == "/robots.txt":
            return True
        rules = self.groups.get(agent.lower(), self.groups.get(EVERYONE, []))
        found = [(len(rule.pattern), rule.allow) for rule in rules if matches(rule.pattern, path)]
        return max(found, default=(0, True))[1]


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Key and value of each line that has one, without comments."""
    for line in text.removeprefix("\ufeff").splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        if colon:
            yield key.strip().lower(), value.strip()


def path_of(address: str) -> str:
    """Path and query of an address, whatever it is; of none, the root."""
    rest = address.strip().partition("#")[0].partition("://")[2]
    begin = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
    return rest[begin:] if rest[begin : begin + 1] == "/" else f"/{rest[begin:]}"


def comparable(path: str, *, pattern: bool = False) -> str:
    """A path, or a rule's pattern, in the form in which both are compared (2.2.2).

    What is not ASCII is percent-encoded, what need not be encoded is not. In a path, * and $ are encoded, for a
    pattern that means them must write them so.
    """
    if pattern and path[0] not in "/*":
        path = f"/{path}"
    path = quote(path, safe="!$%&'()*+,/:;=?@[]~#", errors="replace")
    path = UNRESERVED.sub(lambda found: chr(int(found[1], 16)), path)
    path = ENCODED.sub(lambda found: found[0].upper(), path)
    path, mark, query = path.partition("?")
    path += mark + IN_QUERY.sub(lambda found: chr(int(found[1], 16)), query)
    if not pattern:
        return path.replace("*", "%2A").replace("$", "%24")
    return path[:-1].replace("$", "%24") + path[-1]


def matches(pattern: str, path: str) -> bool:
    """Whether a path begins as a pattern says, in time that grows with their lengths whatever they hold."""
    whole = pattern.endswith("$")
    first, *others = pattern[: len(pattern) - whole].split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    for number, piece in enumerate(others):
        if whole and number == len(others) - 1:
            return len(path) - len(piece) >= at and path.endswith(piece)
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return not whole or at == len(path)


def reserves(metadata_value: object, name: str) -> bool:
    """Whether a header or meta tag keeps a page from training: X-Robots-Tag or robots with noai, tdm-reservation 1."""
    said = {part.strip().lower() for part in re.split("[,:]", str(metadata_value))}
    return "1" in said if name == "tdm-reservation" else bool(said & {"noai", "noml"})


def reserved_by_file(text: str, address: str) -> bool:
    """Whether a site's tdmrep.json keeps a page from text and data mining (TDM Reservation Protocol, 2024, section 6).

    The first location that matches decides. What is not such a file reserves nothing.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return False
    path = comparable(path_of(address))
    for entry in entries if isinstance(entries, list) else ():
        where = entry.get("location") if isinstance(entry, dict) else None
        if isinstance(where, str) and where and matches(comparable(where, pattern=True), path):
            return str(entry.get("tdm-reservation")) == "1"
    return False


def refuses(robots: Robots, agents: Sequence[str], address: str) -> str | None:
    """The first of some crawlers that may not have a page."""
    return next((agent for agent in agents if not robots.allowed(agent, address)), None)
