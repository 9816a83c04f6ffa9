"""What curation reads, each with whole input to be made malformed: tables, pages, archives, web archives."""

import gzip
import io
import json
import re
import tarfile
import zipfile

from malformed import NUMBERS, mutated_bytes, mutated_json, mutated_lines
from parsing import TEXTS, Parser

from idiolect.errors import UserError
from idiolect.text.curation.normalise import normalise
from idiolect.text.document import Document
from idiolect.text.reading.raw import raw_documents
from idiolect.text.settings import NormaliseSettings, ReadingSettings

SETTINGS = ReadingSettings(deadline=1, max_bad=0.5)
ROWS = [{"text": text, "url": f"http://example.org/{i}", "n": i} for i, text in enumerate(TEXTS)]
PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><link rel="canonical" href="http://example.org/x">
<title>Zähler</title></head><body><nav><a href="/">Home</a></nav><main><h1>One</h1><p>{}</p><ul><li>Two &amp; &#51;</ul>
<table><tr><td>Four</table><pre>five</pre><script>six()</script><!-- seven --></main></body></html>"""
TAGS = [b"<b>", b"<p>", b"<i><table>", b"</p>", b"<a href=x>", b"<svg>", b"&#x", b"<!--", b"<select>", b"<div>"]
VALUES = [b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"7" * 11, b"-1", b"S", b"L", b"x", b"g", b"2", b"../"]
"""Sizes and types of headers in tar files."""
LENGTH = re.compile(rb"(?<=Content-Length: )\d+")


class Raw(Parser):
    """Files that `raw_documents` reads."""

    def read(self, root, path):
        unread = []
        for found in raw_documents(path, SETTINGS):
            found.id.encode("utf-8")
            if isinstance(found, Document):
                assert found.text.strip()
                text = normalise(found.text, NormaliseSettings())
                json.dumps([text, dict(found.metadata)], ensure_ascii=False).encode("utf-8")
            else:
                unread.append(found.drop)
        if unread:
            raise UserError(f"{unread[0].reason}: {unread[0].value}"[:500], "it is left out")


class RawRows(Raw):
    """csv, tsv and jsonl."""

    def make(self, root):
        (root / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
        quoted = ['"' + row["text"].replace('"', '""') + f'",{row["url"]}\n' for row in ROWS]
        (root / "b.csv").write_text("text,url\n" + "".join(quoted))
        (root / "c.tsv").write_text("url\ttext\n" + "".join(f"u\t{' '.join(row['text'].split())}\n" for row in ROWS))
        return {"a.jsonl": self.change, "b.csv": mutated_lines, "c.tsv": mutated_lines}

    @staticmethod
    def change(data, draw):
        lines = data.split(b"\n")
        i = draw.randrange(len(lines))
        lines[i] = mutated_json(lines[i], draw)
        return b"\n".join(lines) if draw.random() < 0.5 else mutated_lines(data, draw)


class RawPlain(Raw):
    """Plain text of any encoding, and pages."""

    cost = 2

    def make(self, root):
        (root / "a.txt").write_text("\n\n".join(TEXTS))
        (root / "b.md").write_bytes("Größe, Länge, Fülle: schöne Wörter.".encode("latin-1"))
        (root / "c.txt").write_bytes("\ufeffZähler".encode("utf-16-le"))
        (root / "d.html").write_text(PAGE.format(TEXTS[0]))
        return {"a.txt": mutated_bytes, "b.md": mutated_bytes, "c.txt": mutated_bytes, "d.html": self.change}

    @staticmethod
    def change(data, draw):
        """Sometimes with a tag many times over."""
        if draw.random() < 0.7:
            return mutated_bytes(data, draw)
        tag = draw.choice(
            [b"<b>", b"<p>", b"<i><table>", b"</p>", b"<a href=x>", b"<svg>", b"&#x", b"<!--", b"<select>"]
        )
        at = draw.randrange(len(data))
        return data[:at] + tag * draw.choice([9, 999, 9999]) + data[at:]


def record(kind, about, block):
    """A WARC record."""
    header = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://example.org/\r\nContent-Type: {about}\r\n"
    return header.encode() + f"Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"


def crawl():
    page = PAGE.format(TEXTS[0]).encode()
    plain = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
    packed = gzip.compress(page)
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)
    wrapped = b"Content-Type: text/html\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    return b"".join(
        [
            record("warcinfo", "application/warc-fields", b"software: none\r\n"),
            record("response", "application/http; msgtype=response", plain),
            record("response", "application/http; msgtype=response", b"HTTP/1.1 200 OK\r\n" + wrapped),
            *(record("conversion", "text/plain", text.encode()) for text in TEXTS[:3]),
        ]
    )


class WebArchives(Raw):
    """WARC and WET."""

    cost = 2

    def make(self, root):
        (root / "a.warc").write_bytes(crawl())
        (root / "b.warc.gz").write_bytes(gzip.compress(crawl()))
        return {"a.warc": self.change, "b.warc.gz": self.packed}

    @staticmethod
    def change(data, draw):
        """Often with a length that lies."""
        if draw.random() < 0.5:
            return draw.choice([mutated_bytes, mutated_lines])(data, draw)
        lengths = [*LENGTH.finditer(data)]
        found = draw.choice(lengths)
        length = draw.choice([*NUMBERS, int(found[0]) + draw.randrange(-50, 50), draw.randrange(len(data))])
        return data[: found.start()] + b"%d" % length + data[found.end() :]

    @classmethod
    def packed(cls, data, draw):
        if draw.random() < 0.5:
            return mutated_bytes(data, draw)
        return gzip.compress(cls.change(gzip.decompress(data), draw), 1)


class Archives(Raw):
    """zip and tar."""

    def make(self, root):
        rows = "\n".join(map(json.dumps, ROWS)).encode()
        contents = {"a/b.txt": TEXTS[0].encode(), "a/c.jsonl": rows, "d.jsonl.gz": gzip.compress(rows)}
        with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        for name, mode in (("b.tar", "w"), ("c.tar.gz", "w:gz"), ("d.tgz", "w:gz")):
            with tarfile.open(root / name, mode) as archive:
                for inside, content in contents.items():
                    # a name that takes more than one header
                    about = tarfile.TarInfo("a" * 120 + "/" + inside if name == "b.tar" else inside)
                    about.size = len(content)
                    archive.addfile(about, io.BytesIO(content))
        return {"a.zip": mutated_bytes, "b.tar": self.change, "c.tar.gz": mutated_bytes, "d.tgz": self.packed}

    @staticmethod
    def change(data, draw):
        """Mostly in a header, whose sum is then made right."""
        if draw.random() < 0.3:
            return mutated_bytes(data, draw)
        out = bytearray(data)
        headers = [at for at in range(0, len(out), 512) if out[at + 257 : at + 262] == b"ustar"]
        at = draw.choice(headers)
        place = draw.choice([0, 100, 124, 124, 124, 136, 156, 157, 345])  # name, mode, size, time, type, link, prefix
        value = draw.choice(
            [b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"7" * 11, b"-1", b"S", b"L", b"x", b"g", b"2", b"../"]
        )
        out[at + place : at + place + len(value)] = value
        out[at + 148 : at + 156] = b" " * 8
        out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
        return bytes(out)

    @classmethod
    def packed(cls, data, draw):
        return gzip.compress(cls.change(gzip.decompress(data), draw), 1)


class RawParquet(Raw):
    """parquet that a child reads."""

    cost = 20

    def make(self, root):
        import duckdb

        rows = root / "rows.jsonl"
        rows.write_text("\n".join(map(json.dumps, ROWS)))
        with duckdb.connect() as connection:
            connection.execute(f"COPY (SELECT * FROM '{rows}') TO '{root / 'a.parquet'}' (FORMAT parquet)")
        rows.unlink()
        return {"a.parquet": mutated_bytes}


PARSERS = (RawRows, RawPlain, WebArchives, Archives, RawParquet)
