"""Vocabularies and chat templates, each malformed."""

import json

from malformed import mutated_json, mutated_lines
from parsing import TEXTS, Parser

from idiolect.tokens import chat, templates
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

SAMPLE = "The number 8 is even; Zähler 漢字 <|endoftext|>\n\tx = [1]"


def use(tokenizer: Tokenizer) -> None:
    """Everything one does with a tokenizer."""
    ids = tokenizer.encode(SAMPLE)
    tokenizer.decode(ids)
    tokenizer.pieces(ids)
    tokenizer.oov_rate(SAMPLE)
    tokenizer.token_bytes()
    stream = tokenizer.stream()
    for id_ in range(min(tokenizer.size, 40)):
        stream.push(id_)
    stream.flush()


class Vocabularies(Parser):
    """tokenizer.json, and what lies beside it."""

    def make(self, root):
        made = {}
        for kind in ("byte", "bpe", "word", "wordpiece", "unigram", "char"):
            (root / kind).mkdir()
            train(TEXTS, TokenizerSettings(kind=kind, size=300)).save(root / kind)
            made[f"{kind}/tokenizer.json"] = mutated_json
            made[f"{kind}/tokenizer_config.json"] = mutated_json
        (root / "bpe" / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
        return made | {"bpe/special_tokens_map.json": mutated_json}

    def read(self, root, path):
        use(Tokenizer.load(path.parent))


class Merges(Parser):
    """GPT-2's pair of files."""

    def make(self, root):
        train(TEXTS, TokenizerSettings(kind="bpe", size=300)).save(root)
        model = json.loads((root / "tokenizer.json").read_text())["model"]
        (root / "tokenizer.json").unlink(), (root / "tokenizer_config.json").unlink()
        (root / "encoder.json").write_text(json.dumps(model["vocab"]))
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (root / "vocab.bpe").write_text("\n".join(["#version: 0.2", *pairs]))
        return {"encoder.json": mutated_json, "vocab.bpe": mutated_lines}

    def read(self, root, path):
        use(Tokenizer.load(root))


class ChatTemplates(Parser):
    """Chat templates: a file beside the tokenizer, an entry of its configuration, a file of one's own."""

    TALK = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": SAMPLE},
        {"role": "assistant", "content": "{{ 8 }}"},
        {"role": "user", "content": "And 9?"},
    )

    def make(self, root):
        tokenizer = train(TEXTS, TokenizerSettings(kind="bpe", size=300))
        made = {}
        for name, source in chat.BUILT_IN.items():
            lacking = chat.lacking(source, tokenizer)
            whole = tokenizer.with_controls(lacking)
            whole.templates = {templates.DEFAULT: source}
            (root / name).mkdir()
            whole.save(root / name)
            made[f"{name}/{templates.FILE}"] = mutated_lines
            (root / name / f"own{templates.ENDING}").write_text(source)
            made[f"{name}/own{templates.ENDING}"] = mutated_lines
        return made

    def read(self, root, path):
        tokenizer = Tokenizer.load(path.parent)
        talk = chat.of(tokenizer, str(path) if path.name.startswith("own") else None)
        ids, mask = talk.render(self.TALK)
        assert len(ids) == len(mask) and (ids < tokenizer.size).all()
        assert len(talk.render(self.TALK, reply=True).ids) and talk.ends is not None


PARSERS = (Vocabularies, Merges, ChatTemplates)
