"""Every verb as one function: `from idiolect import api; api.train("gpt", ["data.train=text.txt"], "run")`.

The functions live in the rooms that own them and are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

VERBS = {
    "quickstart": "idiolect.recipes.quickstart",
    "doctor": "idiolect.devices",
    "bench": "idiolect.recipes.bench",
    "curate": "idiolect.recipes.curate",
    "train_tokenizer": "idiolect.tokens.verbs",
    "encode": "idiolect.tokens.verbs",
    "decode": "idiolect.tokens.verbs",
    "compare_tokenizers": "idiolect.recipes.tokenizers",
    "list_recipes": "idiolect.recipes.load",
    "show_recipe": "idiolect.recipes.load",
    "list_templates": "idiolect.text.template",
    "plan": "idiolect.recipes.planning",
    "train": "idiolect.recipes.pretrain",
    "resume": "idiolect.recipes.pretrain",
    "verify_resume": "idiolect.recipes.verify",
    "list_runs": "idiolect.recipes.runs",
    "show_run": "idiolect.recipes.runs",
    "compare_runs": "idiolect.recipes.runs",
    "plot_runs": "idiolect.recipes.runs",
    "generate": "idiolect.decode.verbs",
    "chat": "idiolect.decode.chat",
    "translate": "idiolect.decode.verbs",
    "explore": "idiolect.decode.verbs",
    "classify": "idiolect.prompt.classify",
    "neighbours": "idiolect.decode.neighbours",
    "fill": "idiolect.decode.fill",
    "embed": "idiolect.decode.embed",
    "score": "idiolect.evaluate.verbs",
    "evaluate": "idiolect.evaluate.verbs",
    "lineage": "idiolect.interop.lineage",
    "export_model": "idiolect.interop.verbs",
    "import_model": "idiolect.interop.verbs",
}
"""The module that owns each verb; the function has the verb's name."""


def __getattr__(name: str) -> Any:
    if name not in VERBS:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(VERBS[name]), name)


def __dir__() -> list[str]:
    return sorted(VERBS)
