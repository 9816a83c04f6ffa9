"""Filters of what owners want: sites, robots.txt, licences, and documents that are to be removed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from idiolect.errors import UserError
from idiolect.text.document import Drop
from idiolect.text.duplicates.addresses import canonical
from idiolect.text.filtering import licences, robots
from idiolect.text.filtering.page import Filter, Page
from idiolect.text.filtering.robots import Robots
from idiolect.text.settings import ConsentSettings

HOSTS = 4096
"""Sites whose rules are held in memory."""
HOST = re.compile(r"[\w-][\w.:-]*")
"""What can be the name of a folder of a site: nothing that leads elsewhere."""
BOUNDARY = re.compile(r"(?=[/?#])|$")
"""Where an address ends a part: what lies below it begins there."""


def lines_of(path: Path) -> list[str]:
    """The entries of a list: lines that are not blank and no comment (#). Raises UserError when it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}", "give a file of UTF-8 text, one entry a line") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


class Places:
    """Domains, each with its subdomains, and addresses, each with all that lies below."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries: dict[str, list[str]] = {}
        """The place as an address has it, without its scheme → as it was written."""
        for entry in entries:
            self.entries.setdefault(_place(entry), []).append(entry)

    def holding(self, address: Any) -> Iterator[str]:
        """The entries that an address falls under, as they were written."""
        if not self.entries or not isinstance(address, str) or not address:
            return
        place = _place(address)
        domain = _host(place).partition(":")[0]
        ends = {found.start() for found in BOUNDARY.finditer(place)} - {len(domain)}
        while domain:
            yield from self.entries.get(domain, ())
            domain = domain.partition(".")[2]
        for end in sorted(ends):
            yield from self.entries.get(place[:end], ())

    def holds(self, address: Any) -> str | None:
        """The first of these; None when there is none."""
        return next(self.holding(address), None)


def _place(address: str) -> str:
    """An address in one spelling without its scheme, user and `www.`; of a domain, the domain."""
    full = canonical(address if "://" in address else f"http://{address.removeprefix('*.')}")
    return full.partition("://")[2].rpartition("@")[2].removeprefix("www.")


def _host(place: str) -> str:
    return re.split("[/?#]", place, maxsplit=1)[0]


class Removed:
    """Documents that are not to be used, by id, address or domain."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.ids = dict.fromkeys(entries)
        self.places = Places(self.ids)

    @classmethod
    def of(cls, path: Path) -> Removed:
        """What a list names. Raises UserError when it cannot be read."""
        return cls(lines_of(path))

    def naming(self, ids: Iterable[Any], address: Any) -> Iterator[str]:
        """The entries that a document with these ids and this address falls under."""
        yield from (one for one in ids if one in self.ids)
        yield from self.places.holding(address)


def sites(settings: ConsentSettings) -> Filter:
    """Drops documents of sites that are blocked, or that are not among those which are allowed."""
    blocked = Places([*settings.block, *(lines_of(settings.block_list) if settings.block_list else ())])
    allowed = Places([*settings.allow, *(lines_of(settings.allow_list) if settings.allow_list else ())])

    def keep(page: Page) -> Drop | None:
        address = page.document.metadata.get("url")
        if entry := blocked.holds(address):
            return Drop("blocked site", entry)
        if allowed.entries and address and not allowed.holds(address):
            return Drop("site that is not allowed", _host(_place(str(address))))
        return None

    return keep


def honour(settings: ConsentSettings) -> Filter:
    """Drops pages whose owners keep them from crawlers, by robots.txt and the like, a list, or what came with the page.

    A folder without rules for a site, and a site without rules for a crawler, allow (RFC 9309, 2.3.1.3).
    """
    if settings.robots and not settings.robots.is_dir():
        raise UserError(f"{settings.robots} is not a folder", "give one with a folder for each host, robots.txt in it")
    opted_out = Places(lines_of(settings.opted_out) if settings.opted_out else ())
    rules = lru_cache(maxsize=HOSTS)(lambda host: _rules(settings.robots, host))

    def keep(page: Page) -> Drop | None:
        metadata = page.document.metadata
        if (field := _reserving(metadata)) is not None:
            return Drop("reserved by its header", field)
        address = metadata.get("url")
        if not isinstance(address, str) or not address:
            return None
        if entry := opted_out.holds(address):
            return Drop("opted out", entry)
        host = _host(canonical(address).partition("://")[2].rpartition("@")[2])
        crawling, mining = rules(host)
        for name, found in crawling:
            if agent := robots.refuses(found, settings.agents, address):
                return Drop(f"refused by {name}", agent)
        if mining and robots.reserved_by_file(mining, address):
            return Drop("reserved by tdmrep.json")
        return None

    return keep


def _rules(folder: Path | None, host: str) -> tuple[list[tuple[str, Robots]], str]:
    """What the files of a site say to crawlers, by the file's name, and its tdmrep.json."""
    if folder is None or not HOST.fullmatch(host):
        return [], ""
    texts = {name: _text(folder / host / name) for name in ("robots.txt", "ai.txt", "tdmrep.json")}
    return [(name, Robots.parse(texts[name])) for name in ("robots.txt", "ai.txt") if texts[name]], texts["tdmrep.json"]


def _text(path: Path) -> str:
    """The text of a site's file, as far as it is read; empty where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(robots.LARGEST).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check its permissions") from None


def _reserving(metadata: Mapping[str, Any]) -> str | None:
    """The field of a document that keeps it from training."""
    for name, value in metadata.items():
        low = name.lower().replace("_", "-")
        if low in ("x-robots-tag", "robots", "tdm-reservation") and robots.reserves(value, low):
            return name
    return None


def licence(settings: ConsentSettings) -> Filter:
    """Drops documents of a licence that is refused or not among those which are kept, or, where asked to, of none."""

    def keep(page: Page) -> Drop | None:
        found = licences.normal(page.document.metadata.get("licence"))
        if found in (None, licences.NO_LICENCE):
            return Drop(found or "unknown licence") if settings.require_licence else None
        if not licences.wanted(found, settings.licences, settings.refuse):
            return Drop("licence that is not wanted", found)
        return None

    return keep


def removed(settings: ConsentSettings) -> Filter:
    """Drops documents that are named in the removal list: by their id in the corpus or in their file, or by address."""
    listed = Removed.of(settings.removed) if settings.removed else Removed(())

    def keep(page: Page) -> Drop | None:
        document = page.document
        own = document.metadata.get("metadata")  # the document's own columns, once it has an id of ours
        ids = [document.id, document.metadata.get("id"), own.get("id") if isinstance(own, Mapping) else None]
        entry = next(listed.naming(ids, document.metadata.get("url")), None)
        return None if entry is None else Drop("removed", entry)

    return keep
