"""The command line: parse, call one function of `api`, print. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence

from idiolect.errors import Exit, UserError

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What the operating system says of a disk."""

MAKING = {
    "quickstart": "The whole life once, on text that every Python ships, in minutes on a CPU.",
    "doctor": "What this machine offers and what will be used.",
    "bench": "This machine's limits, and Idiolect's own speed on it.",
    "recipes": "List the recipes that ship, or show one to start your own from.",
    "curate": "A clean corpus from a heap of files, with a report of what was dropped and why.",
    "tokenizer": "Learn, use and compare tokenizers.",
    "plan": "Parameters and memory of a recipe, before anything runs.",
    "train": "Learn a model of any family from text.",
    "resume": "Go on with a run that stopped.",
    "verify-resume": "Prove on a run's own recipe that resuming gives the uninterrupted run, bit for bit.",
    "runs": "List, show, compare and plot runs.",
}
"""The verbs of `cli.making` with their help lines, in the order of a model's life."""

USING = {
    "generate": "Continue a prompt.",
    "chat": "A conversation with a model that has learnt to answer.",
    "translate": "Answer a text, or each line of a file, with a sequence-to-sequence model.",
    "explore": "Decoding strategies side by side, the next-token distribution, and maps of what the model looked at.",
    "classify": "The label of a text, or the tag of each of its words.",
    "neighbours": "The words whose vectors are nearest to a word's, and analogies between words.",
    "fill": "What stands under the masks of a text.",
    "embed": "A text as one vector.",
    "score": "Log-probability, perplexity and bits per byte of a text.",
    "evaluate": "Score models on a file, beside the baselines.",
    "lineage": "What models were made of, and which documents are in them.",
    "export": "Write a model in another format.",
    "import": "Bring a model in from another format.",
}
"""The verbs of `cli.using`."""

VERBS = MAKING | USING
"""Every verb with its help line."""

GROUPS = {
    "recipes": {
        "list": "The recipes that ship.",
        "show": "A recipe with every key and its meaning, as TOML.",
        "templates": "Sets of prompts that turn tables into instructions, by the category of their task.",
    },
    "tokenizer": {
        "train": "Learn a tokenizer from text.",
        "encode": "Text to ids.",
        "decode": "Ids to text.",
        "compare": "The trade-offs of several kinds, in one table.",
    },
    "runs": {
        "list": "The runs below a folder.",
        "show": "One run: its settings, results and how it ended.",
        "compare": "One table over all families, in bits per byte.",
        "plot": "The curves of runs as one HTML page.",
    },
}
"""Verbs that have verbs of their own."""


def app() -> object:
    """The cyclopts application; each verb's module is imported when the verb runs."""
    from cyclopts import App, Parameter

    from idiolect import __version__

    root = App(
        name="idiolect",
        help="The whole life of a language model.",
        version=__version__,
        default_parameter=Parameter(negative=(), show_default=True),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for verb, line in VERBS.items():
        module = f"idiolect.cli.{'making' if verb in MAKING else 'using'}"
        if verb in GROUPS:
            group = App(name=verb, help=line)
            for name, text in GROUPS[verb].items():
                group.command(f"{module}:{verb}_{name}", name=name, help=text)
            root.command(group)
        else:
            function = {"import": "import_model", "export": "export_model"}.get(verb, verb.replace("-", "_"))
            root.command(f"{module}:{function}", name=verb, help=line)
    return root


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with the code of design: see `idiolect.errors.Exit`."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code. A user's mistake is two lines on stderr, never a traceback."""
    from cyclopts.exceptions import CycloptsError

    if isinstance(sys.stdout, io.TextIOWrapper):  # the name of a file need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result = app()(list(arguments), exit_on_error=False, print_error=False)  # type: ignore[operator]
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else Exit.DONE
    except UserError as error:
        return _say(error.what, error.mend, error.code)
    except CycloptsError as error:
        return _say(_one_line(error), "`idiolect --help` lists the verbs, `idiolect VERB --help` a verb's options", 2)
    except KeyboardInterrupt:
        return _say("interrupted", "run it again to start over", Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as in `idiolect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except OSError as error:
        return _system(error)
    except Exception as error:
        if _out_of_memory(error):
            return _say("out of memory", "`idiolect plan RECIPE` shows what takes it", Exit.OUT_OF_MEMORY)
        return _bug()


def _system(error: OSError) -> int:
    """What the operating system refuses where nobody thought of it, such as a name that is too long."""
    if error.errno is None:
        return _bug()
    where = f"{str(error.filename)[:200]!r}: " if error.filename is not None else ""
    code = Exit.CANNOT_WRITE if error.errno in CANNOT_WRITE else Exit.BAD_INPUT
    return _say(f"{where}{os.strerror(error.errno)}", "check the path, its permissions and the disk", code)


def _out_of_memory(error: Exception) -> bool:
    if "torch" in sys.modules:  # whose own errors of that kind are plain RuntimeErrors
        from idiolect.devices import is_out_of_memory

        return is_out_of_memory(error)
    return isinstance(error, MemoryError)


def _say(what: str, mend: str, code: int) -> int:
    print(f"error: {what}\n  mend: {mend}", file=sys.stderr)
    return int(code)


def _one_line(error: Exception) -> str:
    from pydantic import ValidationError

    cause = error.__cause__
    if isinstance(cause, ValidationError):  # of a setting behind an option
        return "; ".join(f"--{'.'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']}" for e in cause.errors())
    return " ".join(str(error).split())


def _bug() -> int:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="idiolect-", suffix=".txt", delete=False) as file:
        file.write(traceback.format_exc())
    last = traceback.format_exc().strip().splitlines()[-1]
    return _say(f"a bug of ours: {last}", f"please report it with {file.name}, which holds the traceback", Exit.BUG)
