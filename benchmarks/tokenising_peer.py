"""A peer that tokenises a text on two threads, run by the peers' own Python: NAME TEXT TOKENIZER.

Its documents are pieces of the text of about 2,000 characters, cut before lines that begin with a word, which changes
no token. They are in memory before the clock starts, and so are the ids when it stops: nothing is read or written.
"""

import hashlib
import json
import os
import re
import sys
import time
from array import array

THREADS = 2
PIECE = 2000


def pieces(text):
    """The text in pieces, each ending before a line that begins with a word."""
    place, start, found = re.compile(r"(?<=\S\n)(?=\w)"), 0, []
    while cut := place.search(text, start + PIECE):
        found.append(text[start : cut.start()])
        start = cut.start()
    return [*found, text[start:]]


def by_tokenizers(path):
    """encode_batch_fast of the library `tokenizers`."""
    os.environ["RAYON_NUM_THREADS"] = str(THREADS)
    from tokenizers import Tokenizer

    native = Tokenizer.from_file(path)
    native.encode_special_tokens = True  # as in every tokenizer of Idiolect, a control token's text is text
    return lambda texts: [e.ids for e in native.encode_batch_fast(texts, add_special_tokens=False)]


def by_tiktoken(path):
    """encode_ordinary_batch of tiktoken: the vocabulary's tokens ranked by their ids, cut by GPT-2's pattern."""
    import tiktoken

    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    special = {token["content"] for token in spec["added_tokens"]}
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printing}
    table |= {chr(0x100 + i): byte for i, byte in enumerate(b for b in range(256) if b not in printing)}
    ranks = {bytes(map(table.get, t)): i for t, i in spec["model"]["vocab"].items() if t not in special}
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    encoding = tiktoken.Encoding("ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=THREADS)


def main(name, text, tokenizer):
    encode = {"tokenizers": by_tokenizers, "tiktoken": by_tiktoken}[name](tokenizer)
    with open(text, encoding="utf-8", newline="") as file:
        texts = pieces(file.read())
    began = time.perf_counter()
    rows = encode(texts)
    seconds = time.perf_counter() - began
    digest = hashlib.sha256()
    for row in rows:
        digest.update(array("I", row).tobytes())
    found = {"rate": os.path.getsize(text) / 1e6 / seconds, "tokens": sum(map(len, rows)), "ids": digest.hexdigest()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
