"""The verb chat: turns that are remembered, answers that stop, what no longer fits, and what a user may type."""

import io
import json

import pytest

from idiolect import api
from idiolect.cli import run
from idiolect.decode.chat import Conversation
from idiolect.decode.settings import ChatSettings
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings
from idiolect.testing import TableModel
from idiolect.tokens import chat as rendering
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

TOKENIZER = train(["abc"], TokenizerSettings(kind="byte"))
A, B, NEWLINE = (TOKENIZER.encode(c)[0] for c in "ab\n")
GREEDY = ChatSettings(temperature=0, top_p=1.0, max_tokens=7)


def talk(table=None, context=None, system=None, settings=GREEDY):
    """Who answers "ab" by heart."""
    model = TableModel(TOKENIZER.size, table or {(NEWLINE,): {A: 1}, (A,): {B: 1}, (B,): {0: 1}}, context)
    return Conversation(model, rendering.of(TOKENIZER, "turns"), settings, system)


def heard(conversation, message):
    return "".join(piece.text for piece in conversation.answer(message))


def test_turns_are_remembered_and_forgotten_when_asked():
    one = talk(system="Be b.")
    assert [heard(one, "x"), heard(one, "y")] == ["ab", "ab"]
    said = [("system", "Be b."), ("user", "x"), ("assistant", "ab"), ("user", "y"), ("assistant", "ab")]
    assert [(m["role"], m["content"]) for m in one.messages] == said
    one.reset()
    assert one.messages == [{"role": "system", "content": "Be b."}]


def test_what_is_read_is_the_conversation_as_it_was_learnt():
    read = []
    one = talk()
    step = one.model.step
    one.model.step = lambda ids, *more, **named: read.append(ids[0].tolist()) or step(ids, *more, **named)
    heard(one, "x")
    read.clear()
    heard(one, "<|endoftext|>")
    text = "User: x\nAssistant:\nab"
    start = [0, *TOKENIZER.encode(text), 0, *TOKENIZER.encode("\nUser: <|endoftext|>\nAssistant:\n")]
    assert read[0] == start  # two ends of text, of which the user wrote none


def test_what_was_read_is_not_read_again_and_the_answers_are_the_same():
    one = talk(settings=ChatSettings(temperature=0, top_p=1.0, max_tokens=60))
    heard(one, "x")
    before = len(one.model.calls)
    heard(one, "yy")
    first = one.model.calls[before]
    assert first == (1, 1 + len("\nUser: yy\nAssistant:\n"))  # the end of the first answer, and what came since
    one.reset()
    assert heard(one, "x") == "ab" and one.model.calls[-3] == (1, 1 + len("User: x\nAssistant:\n"))


def test_a_network_answers_the_same_whether_it_has_read_before_or_reads_anew(model):
    loaded = folder.load(model / "tuned")
    settings = ChatSettings(temperature=0, top_p=1.0, max_tokens=3)
    kept, anew = (Conversation(loaded.model, rendering.of(loaded.tokenizer), settings) for _ in range(2))
    fed = []
    for message in ("a", "b"):
        anew._known = None
        answers = [list(one.answer(message)) for one in (kept, anew)]
        assert [piece.ids for piece in answers[0]] == [piece.ids for piece in answers[1]]
        fed.append(kept._known is not None and len(kept._known.ids))
        for one, other in zip(*answers, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert 0 < fed[0] < fed[1]


def test_the_oldest_turns_are_forgotten_when_they_no_longer_fit_and_the_system_message_is_not():
    one = talk(context=79, system="Be b.")
    counts = []
    for _ in range(5):
        assert heard(one, "xxxxx") == "ab"
        counts.append(one.forgotten)
    assert counts == [0, 0, 2, 4, 6]
    with pytest.raises(UserError, match="the model reads at most 79"):
        heard(one, "x" * 79)
    assert len(one.messages) == 11  # what was refused is not part of it
    assert heard(one, "x") == "ab"


def test_an_answer_that_is_not_heard_to_its_end_is_remembered_as_far_as_it_was():
    one = talk()
    pieces = one.answer("x")
    next(pieces)
    pieces.close()
    assert one.messages[-1] == {"role": "assistant", "content": "a"}


def test_an_answer_ends_at_what_ends_a_turn():
    tokenizer = TOKENIZER.with_controls(["<|im_start|>", "<|im_end|>"])
    end = tokenizer.vocabulary.index("<|im_end|>")
    model = TableModel(tokenizer.size, {(NEWLINE,): {A: 1}, (A,): {end: 1}})
    one = Conversation(model, rendering.of(tokenizer, "chatml"), GREEDY)
    assert [(p.text, p.finish_reason) for p in one.answer("x")] == [("a", None), ("", "stop")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model of random weights that has a chat template, and one that has none."""
    made = build(DecoderSettings(layers=1, heads=2, width=16, context=64), TOKENIZER.size, seed=3)
    path = tmp_path_factory.mktemp("chat")
    folder.save(path / "base", made, TOKENIZER, {})
    tokenizer = TOKENIZER.with_controls(["<|im_start|>", "<|im_end|>"])
    tokenizer.templates = {"default": rendering.BUILT_IN["chatml"]}
    tokenizer.answer_ends = (tokenizer.size - 1,)
    folder.save(path / "tuned", build(made.settings, tokenizer.size, seed=3), tokenizer, {})
    return path


def test_one_message_in_json(model, capsys):
    assert run(["chat", str(model / "tuned"), "--message", "hi", "--max-tokens", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"text", "ids", "logprobs", "finish_reason", "messages"} <= found.keys()
    assert found["messages"] == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": found["text"]}]
    again = api.chat(model / "tuned", "hi", ChatSettings(max_tokens=5))
    assert list(again["ids"]) == found["ids"]


def test_a_pipe_is_a_turn_a_line(model, capsys, monkeypatch):
    def said(text, *more):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
        assert run(["chat", str(model / "tuned"), "--max-tokens", "3", "--temperature", "0", *more]) == 0
        return capsys.readouterr()

    one = said(b"hi\n").out
    assert said(b"hi\n/reset\n\nhi\n/quit\nhi\n").out == 2 * one
    assert "[length]" in said(b"hi\n").err
    assert "no such command" in said(b"/forget\nhi\n").err
    assert json.loads(said(b"hi\n", "--json").out)["text"] + "\n" == one


def test_a_model_without_a_template_says_so_and_can_be_given_one(model, capsys):
    assert run(["chat", str(model / "base"), "--message", "hi"]) == 2
    assert "has no chat template" in capsys.readouterr().err
    assert run(["chat", str(model / "base"), "--message", "hi", "--template", "turns", "--max-tokens", "3"]) == 0


def test_the_folder_keeps_what_ends_a_turn(model, tmp_path):
    loaded = folder.load(model / "tuned")
    assert loaded.tokenizer.answer_ends == (loaded.tokenizer.size - 1,)
    config = json.loads((model / "tuned" / "generation_config.json").read_text())
    assert config["eos_token_id"] == [0, loaded.tokenizer.size - 1]
    folder.save(tmp_path / "again", loaded.model, loaded.tokenizer, {})
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == config
