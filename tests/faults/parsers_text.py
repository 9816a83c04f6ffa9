"""Text, rows, examples and conversations, each malformed."""

import gzip
import json
from pathlib import Path

from malformed import mutated_bytes, mutated_json, mutated_lines
from parsing import TEXTS, Parser

from idiolect.text import template
from idiolect.text.conversations import Conversations as Read
from idiolect.text.corpus import Corpus
from idiolect.text.examples import Examples
from idiolect.text.read import read


class Text(Parser):
    """Plain text."""

    def make(self, root):
        (root / "a.txt").write_text("\n\n".join(TEXTS))
        (root / "b.md").write_text("# ü\n" + TEXTS[0])
        return {"a.txt": mutated_lines, "b.md": mutated_bytes}

    def read(self, root, path):
        for document in ("file", "paragraph", "line"):
            assert all(found.text.strip() for found in read([path], document=document))
        Corpus([path]).split(0.1)


def consume(path: Path, max_bad: float = 0.01) -> None:
    """Reads all and keeps nothing."""
    for found in read([path], max_bad=max_bad):
        assert found.text.strip()


class Rows(Text):
    """jsonl."""

    def make(self, root):
        rows = [{"text": text, "id": i, "more": [None, {"x": 1.5}]} for i, text in enumerate(TEXTS)]
        (root / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return {"a.jsonl": self.change}

    @staticmethod
    def change(data, draw):
        lines = data.split(b"\n")
        if draw.random() < 0.5:
            return mutated_lines(data, draw)
        i = draw.choice([i for i, line in enumerate(lines) if line])
        lines[i] = mutated_json(lines[i], draw)
        return b"\n".join(lines)

    def read(self, root, path):
        consume(path, max_bad=0.5)
        consume(path)


class Packed(Rows):
    """gz and zst."""

    def make(self, root):
        import zstandard

        text, rows = "\n".join(TEXTS).encode(), json.dumps({"text": TEXTS[0]}).encode()
        (root / "a.txt.gz").write_bytes(gzip.compress(text))
        (root / "b.jsonl.gz").write_bytes(gzip.compress(rows + b"\n") * 3)
        (root / "c.txt.zst").write_bytes(zstandard.compress(text))
        (root / "d.jsonl.zst").write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(rows + b"\n") * 2)
        return dict.fromkeys(["a.txt.gz", "b.jsonl.gz", "c.txt.zst", "d.jsonl.zst"], mutated_bytes)


class Parquet(Rows):
    """parquet."""

    cost = 8

    def make(self, root):
        import duckdb

        rows = root / "rows.jsonl"
        rows.write_text("\n".join(json.dumps({"text": text, "id": i}) for i, text in enumerate(TEXTS)))
        with duckdb.connect() as connection:
            connection.execute(f"COPY (SELECT * FROM '{rows}') TO '{root / 'a.parquet'}' (FORMAT parquet)")
        rows.unlink()
        return {"a.parquet": mutated_bytes}

    def read(self, root, path):
        consume(path)


class Fields(Rows):
    """Examples of several fields: csv, tsv, conll, jsonl with lists, plain files beside one another."""

    def make(self, root):
        words = [text.replace('"', "").split()[:9] for text in TEXTS]
        (root / "a.csv").write_text("one,two\n" + "".join(f'"{" ".join(w)}","say ""no""\n{w[0]}"\n' for w in words))
        (root / "b.tsv").write_text("one\ttwo\n" + "".join(f"{w[0]}\t{w[-1]}\n" for w in words))
        (root / "c.conll").write_text("\n\n".join("\n".join(f"{word}\tO" for word in w) for w in words))
        (root / "d.jsonl").write_text("\n".join(json.dumps({"one": w, "two": ["O"] * len(w)}) for w in words))
        for name in ("e.txt", "f.txt"):
            (root / name).write_text("\n".join(" ".join(w) for w in words))
        lines = dict.fromkeys(["a.csv", "b.tsv", "c.conll", "e.txt"], mutated_lines)
        return lines | {"d.jsonl": self.change}

    def read(self, root, path):
        listed = path.suffix in (".conll", ".jsonl")
        beside = (root / "f.txt",) if path.suffix == ".txt" else ()
        for example in Examples((path,), ("one[]", "two[]") if listed else ("one", "two"), beside):
            assert len(example) == 2
        if path.suffix == ".tsv":
            for example in Examples((path,), ("1", "2")):
                assert example["1"] is not None


class Conversations(Rows):
    """Conversations in every layout, and sets of templates."""

    SETS = ("sets.toml", "sets.json", "sets.py")

    def make(self, root):
        turns = [
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text[:80]}]
            + [{"role": "assistant", "content": text[80:160] or "yes"}]
            for text in TEXTS
        ]
        shared = [
            [{"from": "human" if said["role"] == "user" else "gpt", "value": said["content"]} for said in row[1:]]
            for row in turns
        ]
        asked = [{"instruction": row[1]["content"], "input": "", "output": row[2]["content"]} for row in turns]
        (root / "a.jsonl").write_text("\n".join(json.dumps({"messages": row}) for row in turns))
        (root / "b.jsonl").write_text("\n".join(json.dumps({"conversations": row}) for row in shared))
        (root / "c.json").write_text(json.dumps(asked))
        (root / "d.csv").write_text("prompt,response\n" + "".join(f'"{i} is?","it {i}"\n' for i in range(30)))
        pairs = [["Sum up: {text}", "{label}"], ["{text}\n\nIn short:", "{label}"]]
        (root / "sets.json").write_text(json.dumps({"sum": {"category": "summaries", "templates": pairs}}))
        (root / "sets.toml").write_text(f'[sum]\ncategory = "summaries"\ntemplates = {json.dumps(pairs)}\n')
        (root / "sets.py").write_text(f"PATTERNS = {{'sum': {pairs!r}}}\n")
        lines = dict.fromkeys(["d.csv", "sets.toml", "sets.py"], mutated_lines)
        return (
            lines
            | dict.fromkeys(["a.jsonl", "b.jsonl"], self.change)
            | dict.fromkeys(["c.json", "sets.json"], mutated_json)
        )

    def read(self, root, path):
        if path.name in self.SETS:
            for found in template.read(path).values():
                row = dict.fromkeys(found.fields, "x {y}")
                assert all(pair.prompt.fill(row) for pair in found.pairs) and found.fingerprint
            return
        rows = Read((path,), ())
        rows.layouts()
        for row in rows:
            assert row["messages"][-1]["role"] == "assistant"


PARSERS = (Text, Rows, Fields, Packed, Parquet, Conversations)
