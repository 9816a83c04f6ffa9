"""Web pages: how many a second become text in the child that reads them, and how many in this process.

python -m benchmarks.curating_pages ARCHIVE child    the documents of a WARC file, as curation reads them
python -m benchmarks.curating_pages ARCHIVE here     the same, in this process, which a page may hang or crash
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.curating_filters import MENU, prose
from benchmarks.curating_near import ONE_CORE
from benchmarks.suite import Suite
from idiolect.text.reading import html
from idiolect.text.reading.raw import raw_documents
from idiolect.text.reading.warc import Record, records
from idiolect.text.reading.web import Payload, payload
from idiolect.text.settings import ReadingSettings
from idiolect.text.stream import chunks

PAGES = 2_000
AT_LEAST = 0.83
"""Of the speed in this process: a child may cost a fifth."""
LARGEST = ReadingSettings().largest


def page(texts: Sequence[str], number: int) -> bytes:
    """An article of some texts between menus, with as much script and style as pages have."""
    draw = random.Random(number)
    links = "".join(f'<li class="item-{i}"><a href="/{i}/{number}">{draw.choice(MENU)}</a></li>' for i in range(99))
    body = "".join(f"<p>{part.replace('<', '&lt;')}</p>\n" for text in texts for part in text.split("\n\n"))
    code = "".join(f"window.v{i} = {{id: {draw.random()}, name: 'value-{i}'}};\n" for i in range(199))
    style = "".join(f".item-{i} {{ order: {i} }} " for i in range(99))
    return f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Page {number}</title>
<link rel="canonical" href="https://site{number % 97}.example/{number}"><style>{style}</style>
<script>{code}</script></head><body><header><nav><ul>{links}</ul></nav></header><main><article><h1>Page {number}</h1>
{body}</article></main><aside><ul>{links}</ul></aside><footer>{draw.choice(MENU)}</footer></body></html>""".encode()


def archive(texts: Sequence[str], path: Path) -> float:
    """Writes PAGES pages as a WARC file; the mean bytes of a page."""
    total = 0
    with open(path, "wb") as out:
        for number in range(PAGES):
            body = page([texts[(3 * number + i) % len(texts)] for i in range(3)], number)
            block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
            about = f"WARC-Type: response\r\nWARC-Target-URI: https://site{number % 97}.example/{number}\r\n"
            header = f"WARC/1.0\r\n{about}Content-Type: application/http\r\nContent-Length: {len(block)}\r\n\r\n"
            out.write(header.encode() + block + b"\r\n\r\n")
            total += len(body)
    return total / PAGES


def read(path: Path, side: str) -> dict[str, object]:
    """The pages of an archive as text, and how many a second."""
    if side == "child":
        found: Iterator[str] = (one.text for one in raw_documents(path, ReadingSettings()))  # type: ignore[union-attr]
    else:
        found = directly(path)
    next(found)  # by then the child is there
    began = time.perf_counter()
    characters = [len(text) for text in found]
    return {"rate": len(characters) / (time.perf_counter() - began), "characters": sum(characters)}


def directly(path: Path) -> Iterator[str]:
    """The main content of each page, read in this process."""
    for record in records(chunks(path), LARGEST):
        assert isinstance(record, Record)
        held = payload(record, LARGEST)
        assert isinstance(held, Payload)
        yield html.page(held.data, held.charset, True)[0]


def claim(suite: Suite) -> Iterator[measure.Claim]:
    """Both read the same archive, in turn, on one core."""
    path = suite.folder("pages") / "crawl.warc"
    mean = archive(prose(suite, 3 * PAGES), path)
    sides: dict[str, measure.Side] = {
        name: lambda name=name: measure.run(suite.child("curating_pages", path, name), env=ONE_CORE)  # type: ignore[misc]
        for name in ("child", "here")
    }
    turns = measure.in_turn(sides, suite.rounds)
    one, other = (turns.samples[name][0].result["characters"] for name in sides)
    assert one == other, "they do not read the same text"
    yield measure.compare(
        turns,
        "child",
        "here",
        name=f"web pages of {mean / 1000:.0f} kB as text, one core",
        at_least=AT_LEAST,
        peer_name="the same in one process",
        key="rate",
        unit="pages/s",
    )


CLAIMS = {"curating-pages": claim}
TRIED = ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads an archive one way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("side", choices=["child", "here"])
    asked = parser.parse_args(arguments)
    print(json.dumps(read(asked.archive, asked.side)))


if __name__ == "__main__":
    main()
