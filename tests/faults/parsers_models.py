"""Model folders of every family, adapter folders and ARPA files, each malformed."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from malformed import mutated_json, mutated_lines, mutated_tensors
from parsing import TEXTS, Parser

from idiolect import api, files
from idiolect.adapt.edits import Origin, edit
from idiolect.adapt.settings import AdapterSettings, LoraSettings, SoftPromptSettings
from idiolect.data import shards
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.interop import arpa, peft
from idiolect.interop import folder as model_folder
from idiolect.models.build import build
from idiolect.models.ngram import NGram
from idiolect.models.settings import DecoderSettings, NGramSettings, RecurrentSettings
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

DECODERS = {
    "gemma3": {
        "norm": "rms-offset",
        "norm_place": "both",
        "mlp": "geglu",
        "scaled_embedding": True,
        "qk_norm": True,
        "window": 3,
        "global_layers": [1],
        "rope_local_theta": 50.0,
        "logit_softcap": 9.0,
    },
    "phi3": {
        "rope_share": 0.5,
        "rope_scaling": {"kind": "longrope", "short": [1.0], "long": [2.0], "original_context": 5},
    },
    "mixture": {"attention_bias": "qkv", "experts": {"count": 3, "shared_width": 5, "dense_layers": [0]}},
    "smollm3": {"unrotated_layers": [1], "rope_scaling": {"kind": "yarn", "factor": 2.0, "original_context": 5}},
}
"""Further shapes of a decoder."""


def save_models(root: Path) -> list[str]:
    """A folder of each kind of model, with nothing in it that vouches for it."""
    tokenizer = train(TEXTS, TokenizerSettings(kind="bpe", size=300))
    size, small = tokenizer.size, {"width": 8, "context": 16}
    gpt2 = {"norm": "layer", "position": "learned", "attention_bias": "all", "mlp_bias": True, "mlp": "gelu"}
    settings = {
        "gpt2": DecoderSettings(layers=1, heads=2, **small, **gpt2),
        "llama": DecoderSettings(layers=1, heads=2, kv_heads=1, **small),
        "own": DecoderSettings(layers=1, heads=2, window=5, qk_norm=True, **(small | {"mlp": "relu"})),
        "lstm": RecurrentSettings(kind="lstm", **small),
        **{name: DecoderSettings(layers=2, heads=2, **small, **style) for name, style in DECODERS.items()},
    }
    models: dict[str, Any] = {name: build(s, size, seed=1) for name, s in settings.items()}
    for name in ("kneser-ney", "infinite", "stupid-backoff"):
        models[name] = counted(tokenizer, name, root / "cache")
    for name, model in models.items():
        model_folder.save(root / name, model, tokenizer, {"results": {}})
        for seal in (files.MANIFEST, model_folder.LINEAGE):
            (root / name / seal).unlink()
    return [*models]


def counted(tokenizer: Tokenizer, smoothing: Any, cache: Path) -> NGram:
    """Trigrams of TEXTS."""
    ids = {"begin_id": tokenizer.begin_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    model = NGram(NGramSettings(order=3, smoothing=smoothing), tokenizer.size, **ids)
    model.fit(shards.encode(Texts(), tokenizer, cache=cache))
    shutil.rmtree(cache)
    return model


class Texts:
    """The corpus of TEXTS."""

    fingerprint = "texts"

    def __iter__(self):
        return (type("Document", (), {"text": text, "last": True})() for text in TEXTS)


class Configs(Parser):
    """config.json of model folders of every family."""

    changed, change = model_folder.CONFIG, staticmethod(mutated_json)

    def make(self, root):
        return {f"{name}/{self.changed}": self.change for name in save_models(root)}

    def read(self, root, path):
        loaded = model_folder.load(path.parent)
        if loaded.tokenizer is not None:
            complete(loaded.model, loaded.tokenizer, ["The "], DecodeSettings(max_tokens=2))


class Weights(Configs):
    """safetensors of every family."""

    changed, change = model_folder.WEIGHTS, staticmethod(mutated_tensors)


class Index(Configs):
    """Weights in several files."""

    def make(self, root):
        names = save_models(root)[:3]
        for name in names:
            weights = root / name / model_folder.WEIGHTS
            tensors = [*model_folder._header(root / name)]
            weights.rename(weights.with_name("part-1.safetensors"))
            index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "part-1.safetensors")}
            (root / name / model_folder.INDEX).write_text(json.dumps(index))
        return {f"{name}/{model_folder.INDEX}": mutated_json for name in names}


class Arpa(Parser):
    """ARPA files, imported."""

    def make(self, root):
        tokenizer = train(TEXTS, TokenizerSettings(kind="word", size=60))
        arpa.write_arpa(counted(tokenizer, "kneser-ney", root / "cache"), tokenizer, root / "x.arpa")
        return {"x.arpa": mutated_lines}

    def read(self, root, path):
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, root / "out", ignore_errors=True)
            try:
                api.import_model(path, root / "out")
            except UserError:
                assert not (root / "out").exists(), "a part of the output is left"
                raise
            files.verify(root / "out")


ADDED = {
    "lora": LoraSettings(rank=3),
    "embedding": LoraSettings(rank=2, targets=("embedding", "attention.query")),
    "dora": LoraSettings(rank=2, dora=True),
    "adapter": AdapterSettings(width=3),
    "soft-prompt": SoftPromptSettings(tokens=3),
}


class Adapters(Parser):
    """Adapter folders, of peft's layout and our own."""

    def make(self, root):
        tokenizer = train(TEXTS, TokenizerSettings(kind="bpe", size=300))
        shape = DecoderSettings(layers=1, heads=2, width=8, context=16)
        base, made = root / "base", {}
        model_folder.save(base, build(shape, tokenizer.size, seed=1), tokenizer, {"results": {}})
        changes = {peft.CONFIG: mutated_json, peft.OWN: mutated_json}
        changes |= {peft.WEIGHTS: mutated_tensors, peft.OWN_WEIGHTS: mutated_tensors}
        for name, added in ADDED.items():
            model = model_folder.load(base, dtype=torch.float32).model
            edit(model, added, seed=2, origin=Origin(base, model_folder.fingerprint(base)))
            model_folder.save(root / name, model, tokenizer, {"results": {}})
            for seal in (files.MANIFEST, model_folder.LINEAGE):
                (root / name / seal).unlink()
            made |= {f"{name}/{file}": change for file, change in changes.items() if (root / name / file).exists()}
        shutil.copytree(root / "lora", root / "theirs")  # as peft alone would have written it
        (root / "theirs" / peft.OWN).unlink()
        return made | {f"theirs/{file}": changes[file] for file in (peft.CONFIG, peft.WEIGHTS)}

    def read(self, root, path):
        loaded = model_folder.load(path.parent)
        complete(loaded.model, loaded.tokenizer, ["The "], DecodeSettings(max_tokens=2))


PARSERS = (Configs, Weights, Index, Adapters, Arpa)
