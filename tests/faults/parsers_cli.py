"""What comes from a command line or a caller, malformed."""

import contextlib
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import malformed
from malformed import mutated_arguments, mutated_lines
from parsers_models import save_models
from parsing import TEXTS, Parser

from idiolect import api, cli, files
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import Exit, UserError
from idiolect.interop import folder as model_folder
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

LONGEST = 1 << 17
"""Characters of a text that a model reads: a million tokens honestly take longer than SECONDS."""


class Words(Parser):
    """Text and numbers from a command line or a caller: prompts, ids, stop strings."""

    def make(self, root):
        save_models(root)
        self.loaded = [model_folder.load(root / name) for name in ("llama", "lstm", "kneser-ney", "infinite")]
        return {}

    @contextlib.contextmanager
    def case(self, root, mutators, draw):
        loaded = draw.choice(self.loaded)
        text = mutated_lines(draw.choice(TEXTS)[: draw.choice([5, 40, 900])].encode(), draw).decode(
            "utf-8", "surrogateescape"
        )[:LONGEST]
        number = draw.choice(malformed.NUMBERS)
        asked = {draw.choice([*DecodeSettings.model_fields]): malformed.nasty(draw), "max_tokens": 2}
        yield draw.choice(
            [
                lambda: complete(loaded.model, loaded.tokenizer, [text], settings(asked)),
                lambda: complete(
                    loaded.model, loaded.tokenizer, [text[:9]], settings({"stop": (text,), "max_tokens": 2})
                ),
                lambda: api.score(root / "llama", text),
                lambda: loaded.tokenizer.decode([0, number]),
                lambda: loaded.tokenizer.decode(loaded.tokenizer.encode(text)),
                lambda: api.explore(root / "lstm", "a", DecodeSettings(max_tokens=2), candidates=[text]),
            ]
        )


def settings(asked: dict[str, Any]) -> DecodeSettings:
    """As the command line makes them."""
    from pydantic import ValidationError

    try:
        return DecodeSettings(**asked)
    except ValidationError as error:
        raise UserError(str(error), "as cyclopts says") from None


class CommandLine(Parser):
    """Arguments of every verb that returns soon."""

    cost = 4

    def make(self, root):
        save_models(root)
        train(TEXTS, TokenizerSettings(kind="bpe", size=300)).save(files.make_folder(root / "tok") or root / "tok")
        (root / "text.txt").write_text(TEXTS[0])
        commands = [
            "tokenizer encode {root}/tok Hello",
            "tokenizer decode {root}/tok 5 6 7 --json",
            "generate {root}/gpt2 Hello --max-tokens 2 --top-k 3 --seed 1 --json",
            "generate {root}/llama Hi --max-tokens 2 --stop x --temperature 0.5",
            "score {root}/kneser-ney Hello --stride 3",
            "score {root}/gpt2 {root}/text.txt --file --json",
            "explore {root}/own Hi --max-tokens 2 --candidates a --html {root}/outs/out.html",
            "plan gpt model.layers=2 train.steps=5 tokenizer.size=300 --json",
            "recipes show gpt",
            "runs show {root}/none",
            "runs compare {root}/none {root}/none",
            "export {root}/kneser-ney {root}/outs/out --to arpa",
            "export {root}/lstm {root}/outs/out",
            "import {root}/llama {root}/outs/out",
            "evaluate {root}/lstm --on {root}/text.txt --json",
            "resume {root}/none train.steps=3 --accept-change --step 4",
            "tokenizer train {root}/text.txt --out {root}/outs/out --size 280 --kind bpe",
        ]
        (root / "outs").mkdir()
        self.commands = [[word.format(root=root) for word in command.split()] for command in commands]
        return {}

    @contextlib.contextmanager
    def case(self, root, mutators, draw):
        command = draw.choice(self.commands)
        verb = 2 if command[0] in cli.GROUPS and draw.random() < 0.9 else 1
        arguments = command[:verb] + mutated_arguments(command[verb:], draw)

        def run():
            out, err = (
                io.TextIOWrapper(io.BytesIO(), "utf-8"),
                io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace"),
            )
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                sys.argv, code = ["idiolect"], cli.run(arguments)
            err.flush()
            said = err.buffer.getvalue().decode()
            assert code != Exit.BUG, f"{arguments}: {said}"
            if code:
                assert not any((root / "outs").iterdir()), f"{arguments}: a part of the output is left"
                raise UserError(*told(said, arguments), code)

        here = Path.cwd()
        (root / "here").mkdir(exist_ok=True)
        try:
            os.chdir(root / "here")
            yield run
        finally:
            os.chdir(here)
            shutil.rmtree(root / "here")
            shutil.rmtree(root / "outs")
            (root / "outs").mkdir()


def told(said: str, arguments: list[str]) -> tuple[str, str]:
    """What and how to mend, of the last lines on stderr."""
    assert "Traceback" not in said, said
    *_, last = said.rpartition("error: ")
    what, found, mend = last.strip("\n").rpartition("\n  mend: ")
    assert found, (arguments, said)
    return what, mend


PARSERS = (Words, CommandLine)
