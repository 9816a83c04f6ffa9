"""Other people's folders: what lies in them and is not used, chat templates, and the score of what was imported."""

import contextlib
import json
import math
import os
import resource
import time

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    SmolLM3Config,
    T5Config,
)

from idiolect import api, files
from idiolect.cli import run
from idiolect.errors import UserError
from idiolect.interop.folder import load, save
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings
from idiolect.tokens import templates
from idiolect.tokens.tokenizer import Tokenizer

from .test_gguf import loud, tokenizer_of

TOKENIZER = tokenizer_of()
V = TOKENIZER.size
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=V, n_layer=2, n_head=3, n_embd=33, n_positions=61, bos_token_id=0, eos_token_id=0),
    "llama": LlamaConfig(
        vocab_size=V,
        hidden_size=28,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=61,
        bos_token_id=0,
        eos_token_id=0,
    ),
}


@pytest.fixture
def theirs(tmp_path):
    """A folder of a name that transformers writes, its model and its tokenizer."""

    def make(name="llama", **settings):
        torch.manual_seed(0)
        model = loud(AutoModelForCausalLM.from_config(CONFIGS[name]))
        (tmp_path / "spec").mkdir()
        TOKENIZER.save(tmp_path / "spec")
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "spec" / "tokenizer.json"), **settings)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name, model, tokenizer

    return make


ROLES = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}


def edit(path, **changes):
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(config | changes))


# --- what is scored ---


@pytest.mark.parametrize("name", CONFIGS)
def test_score_json_is_what_transformers_gives_an_imported_model(name, theirs, capsys):
    folder, model, tokenizer = theirs(name, **ROLES)
    text = "the cat sat, naïve 12\n"
    for place in (folder, folder.parent / "imported"):
        if place != folder:
            api.import_model(folder, place, check=True)
        assert run(["score", str(place), text, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        ids = tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            logs = model(torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0].double().log_softmax(-1)
        each = [float(logs[t, id_]) for t, id_ in enumerate(ids)]
        assert found["ids"] == ids and found["tokens"] == len(ids) and found["first_scored"] is True
        assert found["logprobs"] == pytest.approx(each, abs=1e-5)
        assert found["logprob"] == pytest.approx(math.fsum(each), abs=1e-4)
        assert found["bits_per_byte"] == pytest.approx(-math.fsum(each) / (23 * math.log(2)), rel=1e-6)


def test_without_anything_to_begin_a_text_the_first_token_is_left_out(theirs, capsys):
    folder, model, tokenizer = theirs("gpt2")
    spec = json.loads((folder / "tokenizer.json").read_text())  # neither an end of text nor padding is in it
    spec["added_tokens"] = []
    own = {piece: i - 2 for piece, i in spec["model"]["vocab"].items() if i > 1}
    spec["model"]["vocab"] = own
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    small = loud(AutoModelForCausalLM.from_config(GPT2Config(vocab_size=V - 2, n_layer=1, n_head=3, n_embd=33)))
    small.save_pretrained(folder)
    assert run(["score", str(folder), "the cat", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ids = [id_ - 2 for id_ in tokenizer.encode("the cat", add_special_tokens=False)]
    with torch.no_grad():
        logs = small(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = math.fsum(float(logs[t, id_]) for t, id_ in enumerate(ids[1:]))
    assert found["ids"] == ids and found["tokens"] == len(ids) - 1 and found["first_scored"] is False
    assert found["logprob"] == pytest.approx(expected, abs=1e-4)
    left = 7 - len(TOKENIZER.pieces([ids[0] + 2])[0])
    assert found["bits_per_byte"] == pytest.approx(-expected / (left * math.log(2)), rel=1e-6)


# --- what is left alone ---


def test_code_and_pickles_are_named_and_never_run(theirs, tmp_path):
    folder, _, _ = theirs(**ROLES)
    for name in ("config.json", "tokenizer_config.json"):
        edit(
            folder / name, auto_map={"AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.Slow", "evil.Fast"]}
        )
    (folder / "evil.py").write_text("raise SystemExit('this must never run')")
    (folder / "training_args.bin").write_bytes(b"PK\x03\x04 a pickle of torch")
    found = api.import_model(folder, tmp_path / "out")
    assert found["notes"] == [
        "code is never run: evil.py",
        "pickles are not read: training_args.bin",
        "code is never run: auto_map of config.json",
        "code is never run: auto_map of tokenizer_config.json",
    ]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert "evil.py" not in written and "training_args.bin" not in written
    assert not any("auto_map" in (tmp_path / "out" / name).read_text() for name in written if name.endswith("json"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_with_a_way_out(name, theirs):
    folder, _, _ = theirs(**ROLES)
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(UserError, match=f"{name} is a pickle, which can run code") as error:
        load(folder)
    assert "save_pretrained" in error.value.mend
    with pytest.raises(UserError, match="is a pickle"):
        api.import_model(folder / name, folder.parent / "out")


def test_weights_that_are_not_there_at_all(theirs):
    folder, _, _ = theirs(**ROLES)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors does not exist"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "beginning", "message"),
    [
        ("words.arpa", b"PK\x03\x04", "is a pickle"),
        ("words.arpa", b"\x80\x02}q", "is a pickle"),
        ("words.arpa", b"\x80\x05\x95", "is a pickle"),
        ("model.gguf", b"GGUF\x03", "is a GGUF file; these are written, not read"),
        ("model.safetensors", b"\x10", "holds weights alone"),
    ],
)
def test_files_of_other_kinds_are_not_taken_for_arpa(name, beginning, message, tmp_path):
    (tmp_path / name).write_bytes(beginning + b"rest")
    with pytest.raises(UserError, match=message):
        api.import_model(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"])
def test_nothing_outside_the_folder_is_read(name, theirs, tmp_path):
    folder, _, _ = theirs(**ROLES, chat_template="{{ messages }}")
    (folder / name).rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder / name)
    with pytest.raises(UserError, match="points outside the folder"):
        load(folder)


def test_a_folder_of_templates_that_lies_elsewhere(theirs, tmp_path):
    folder, _, _ = theirs(**ROLES)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tool_use.jinja").write_text("{{ tools }}")
    os.symlink(tmp_path / "elsewhere", folder / templates.FOLDER)
    with pytest.raises(UserError, match="points outside the folder"):
        load(folder)


def test_special_ids_that_mean_nothing_are_said_to_be_left_out(theirs, tmp_path):
    folder, _, _ = theirs(**ROLES)
    edit(folder / "config.json", eos_token_id=[0, 7], pad_token_id=10**12, bos_token_id="<s>")
    edit(folder / "generation_config.json", eos_token_id=True, temperature=0.6)
    found = api.import_model(folder, tmp_path / "out")["notes"]
    assert found == [
        "bos_token_id of config.json is left out: <s> is no id of the model",
        f"eos_token_id of config.json is left out where the tokenizer ends no text: [7] {TOKENIZER.pieces([7])[0]!r}",
        "pad_token_id of config.json is left out: 1000000000000 is no id of the model",
        "eos_token_id of generation_config.json is left out: True is no id of the model",
    ]
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == ids


@pytest.mark.parametrize("text", ["[1, 2", "[]", "\x00", '{"eos_token_id": ' + "[" * 100_000])
def test_a_generation_config_that_is_none(text, theirs, tmp_path):
    folder, _, _ = theirs(**ROLES)
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=r"generation_config\.json"):
        api.import_model(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_our_own_folders_have_no_notes(tmp_path):
    save(tmp_path / "model", build(DecoderSettings(layers=1, heads=1, width=6), V), TOKENIZER, {"recipe": "made"})
    assert "notes" not in api.import_model(tmp_path / "model", tmp_path / "out")


# --- sizes that no file has ---

SMALL = {"vocab_size": 43, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 29}
T5 = {"vocab_size": 43, "d_model": 24, "d_kv": 6, "d_ff": 29, "num_layers": 2, "num_heads": 4}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 7, "num_key_value_heads": 2}
SIZES = {
    "qwen3_moe": (Qwen3MoeConfig(**SMALL, **EXPERTS), AutoModelForCausalLM),
    "qwen2_moe": (
        Qwen2MoeConfig(**SMALL, **EXPERTS, shared_expert_intermediate_size=11),
        AutoModelForCausalLM,
    ),
    "gemma3_text": (Gemma3TextConfig(**SMALL, num_key_value_heads=2), AutoModelForCausalLM),
    "smollm3": (SmolLM3Config(**SMALL, num_key_value_heads=2, pad_token_id=0), AutoModelForCausalLM),
    "bert": (BertConfig(**SMALL), AutoModelForMaskedLM),
    "t5": (T5Config(**T5), AutoModelForSeq2SeqLM),
}
BEYOND = [10**9, 2**40, 10**18, 10**30]


@pytest.mark.parametrize("name", SIZES)
def test_no_number_of_a_config_takes_memory_or_time(name, tmp_path):
    """Each number in turn is larger than anything: refused, or without effect, before anything of that size is made."""
    config, opener = SIZES[name]
    opener.from_config(config).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    numbers = [key for key, value in config.items() if type(value) in (int, float)]
    assert len(numbers) >= 10
    load(tmp_path)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for key in numbers:
        for value in BEYOND:
            (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
            with contextlib.suppress(UserError):
                load(tmp_path)
    assert time.monotonic() - began < len(numbers) * len(BEYOND)  # a second each, of which few take a hundredth
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # in KB


# --- chat templates ---

ODD = "{% for m in messages %}{{ m['content'] }}{% endfor %}\r\n  é \u2028 {{ ''.__class__.__mro__ }}\n"


@pytest.mark.parametrize("place", ["file", "config"])
def test_a_template_goes_in_and_out_to_the_byte_and_is_never_run(place, theirs, tmp_path):
    folder, _, _ = theirs(**ROLES)
    if place == "file":
        (folder / templates.FILE).write_bytes(ODD.encode())
    else:
        edit(folder / "tokenizer_config.json", chat_template=ODD)
    api.import_model(folder, tmp_path / "in")
    api.export_model(tmp_path / "in", tmp_path / "out")
    for name in ("in", "out"):
        assert (tmp_path / name / templates.FILE).read_bytes() == ODD.encode()
        assert load(tmp_path / name).tokenizer.templates == {"default": ODD}
        assert templates.FILE in files.verify(tmp_path / name)["files"]


def test_several_templates_keep_their_names(theirs, tmp_path):
    several = {"default": "{{ messages }}", "tool_use": "{{ tools }}", "rag": "{{ documents }}"}
    folder, _, _ = theirs(**ROLES, chat_template=several)
    found = api.import_model(folder, tmp_path / "in", check=True)
    assert "chat templates" in found["compared"]
    assert load(tmp_path / "in").tokenizer.templates == several
    assert AutoTokenizer.from_pretrained(tmp_path / "in").chat_template == several
    listed = [{"name": name, "template": text} for name, text in several.items()]  # as transformers 4 has it
    (folder / "old").mkdir()
    edit(folder / "old" / "tokenizer_config.json", chat_template=listed, **ROLES)
    (folder / "old" / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    assert Tokenizer.load(folder / "old").templates == several


def test_a_changed_template_of_ours_is_noticed(tmp_path):
    tokenizer = tokenizer_of()
    tokenizer.templates = {"default": "{{ messages }}", "rag": "{{ documents }}"}
    save(tmp_path / "model", build(DecoderSettings(layers=1, heads=1, width=6), V), tokenizer, {})
    for name in (templates.FILE, f"{templates.FOLDER}/rag.jinja"):
        path = tmp_path / "model" / name
        text = path.read_text()
        path.write_text("{{ 7 * 7 }}")
        with pytest.raises(files.Damaged, match=path.name):
            Tokenizer.load(tmp_path / "model")
        path.write_text(text)
    assert Tokenizer.load(tmp_path / "model").templates == tokenizer.templates


def test_copies_keep_templates():
    import copy

    tokenizer = tokenizer_of()
    tokenizer.templates = {"default": "{{ messages }}"}
    assert copy.deepcopy(tokenizer).templates == tokenizer.with_mask().templates == tokenizer.templates


WRONG = {
    "a number": (7, "is no text"),
    "a list of numbers": ([7], "is no text"),
    "no template": ([{"name": "default"}], "is no text"),
    "a path": ([{"name": "../../x", "template": "y"}], "no name of a template"),
    "hidden": ([{"name": ".x", "template": "y"}], "no name of a template"),
    "long": ([{"name": "x" * 99, "template": "y"}], "no name of a template"),
    "large": ("x" * ((1 << 20) + 1), "is larger than 1 MB"),
    "half a character": ("\ud800", "half of a surrogate pair"),
}


@pytest.mark.parametrize("name", WRONG)
def test_templates_that_are_none(name, theirs):
    value, message = WRONG[name]
    folder, _, _ = theirs(**ROLES)
    edit(folder / "tokenizer_config.json", chat_template=value)
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.mark.parametrize(("content", "message"), [(b"\xff\xfe", "no UTF-8"), (b"x" * ((1 << 20) + 1), "larger")])
def test_template_files_that_are_none(content, message, theirs):
    folder, _, _ = theirs(**ROLES)
    (folder / templates.FILE).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(folder)
