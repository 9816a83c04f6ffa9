"""PA4: predict, emit, append, until a stop criterion of anyone's making; given words ranked."""

import math

import numpy as np
import pytest

from idiolect import api, cli
from idiolect.decode import picture
from idiolect.decode.explore import candidates, explore
from idiolect.decode.generate import complete, stream
from idiolect.decode.generator import Local
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.testing import ByteTokenizer, TableModel, WordTokenizer

WORDS = ["My", "favorite", "food", "is", "pizza", "love", "antagonist", "deep", "dish", "."]
TOKENIZER = WordTokenizer(WORDS)
ID = {word: i for i, word in enumerate(TOKENIZER.words) if word}
PROMPT = "My favorite food is"
FOOD = TableModel(
    TOKENIZER.size,
    {
        (ID["is"],): {ID["pizza"]: 0.6, ID["deep"]: 0.3, ID["love"]: 0.09, ID["antagonist"]: 0.01},
        (ID["deep"],): {ID["dish"]: 0.5, ID["love"]: 0.5},
        (ID["dish"],): {ID["pizza"]: 0.8, ID["."]: 0.2},
        (): {ID["."]: 0.5, 0: 0.5},
    },
)


def test_PA4_pizza_before_love_before_antagonist():
    ranked = candidates(FOOD, TOKENIZER, PROMPT, ["antagonist", "love", "pizza"])
    assert [c.text for c in ranked] == ["pizza", "love", "antagonist"]
    assert [c.logprob for c in ranked] == pytest.approx([math.log(p) for p in (0.6, 0.09, 0.01)])
    assert [c.share for c in ranked] == pytest.approx([0.6 / 0.7, 0.09 / 0.7, 0.01 / 0.7])


def test_PA4_candidates_of_several_tokens_have_the_product_of_their_probabilities():
    ranked = candidates(FOOD, TOKENIZER, PROMPT, ["love", "deep dish pizza", "pizza", "deep dish", "dish"])
    assert [c.text for c in ranked] == ["pizza", "deep dish", "deep dish pizza", "love", "dish"]
    assert [math.exp(c.logprob) for c in ranked] == pytest.approx([0.6, 0.3 * 0.5, 0.3 * 0.5 * 0.8, 0.09, 0])
    assert ranked[2].ids == (ID["deep"], ID["dish"], ID["pizza"])
    assert ranked[2].logprob_per_token == pytest.approx(math.log(0.12) / 3)
    assert sum(c.share for c in ranked) == pytest.approx(1)


def test_PA4_a_word_is_joined_by_a_space_that_its_tokens_hold():
    after = {2 + ord("t"): {2 + ord(" "): 1.0}, 2 + ord(" "): {2 + ord("a"): 0.7, 2 + ord("b"): 0.3}}
    bytes_ = TableModel(258, {(last,): row for last, row in after.items()})
    for prompt, words in (("t", ["b", "a"]), ("t ", ["b", "a"]), ("t", [" b", " a"])):
        ranked = candidates(bytes_, ByteTokenizer(), prompt, words)
        assert [c.text.strip() for c in ranked] == ["a", "b"]
        assert [math.exp(c.logprob) for c in ranked] == pytest.approx([0.7, 0.3])


def test_PA4_a_merge_across_the_seam_compares_whole_texts():
    class Merging(WordTokenizer):
        """Reads "is pizza" as one token."""

        def encode(self, text):
            return super().encode(text.replace("is pizza", "is_pizza"))

    tokenizer = Merging(["food", "is", "pizza", "love", "is_pizza"])
    food, is_, love, merged = 2, 3, 5, 6
    model = TableModel(7, {(food,): {is_: 0.9, merged: 0.1}, (is_,): {love: 0.2, food: 0.8}})
    ranked = candidates(model, tokenizer, "food is", ["pizza", "love"])
    assert [(c.text, c.ids) for c in ranked] == [("love", (is_, love)), ("pizza", (merged,))]
    assert [math.exp(c.logprob) for c in ranked] == pytest.approx([0.18, 0.1])


def test_PA4_nothing_to_rank_is_refused():
    with pytest.raises(UserError):
        candidates(FOOD, TOKENIZER, PROMPT, [])
    with pytest.raises(UserError, match="no tokens"):
        candidates(FOOD, TOKENIZER, PROMPT, ["pizza", ""])


def test_PA4_the_ranking_is_shown_with_the_strategies():
    found = explore(FOOD, TOKENIZER, PROMPT, {"greedy": DecodeSettings(temperature=0, max_tokens=3)})
    ranked = candidates(FOOD, TOKENIZER, PROMPT, ["love", "pizza"])
    tail = picture.lines(found, ranked).split("── candidates ──")[1]
    assert tail.index("'pizza'") < tail.index("'love'")
    assert "<td>pizza</td>" in picture.page(found, ranked).html()


def test_PA4_the_loop_emits_a_token_appends_it_and_predicts_the_next():
    pieces = list(stream(FOOD, TOKENIZER, PROMPT, DecodeSettings(temperature=0, max_tokens=3)))
    assert [(p.text, p.finish_reason) for p in pieces] == [(" pizza", None), ("", "stop")]
    context = [0, *TOKENIZER.encode(PROMPT)]
    for piece in pieces:
        (id_,) = piece.ids
        assert id_ == int(FOOD.after(context).argmax())
        assert piece.logprobs[0] == pytest.approx(float(FOOD.after(context)[id_]))
        context.append(id_)


def test_PA4_pieces_arrive_while_the_model_still_works():
    model = TableModel(5, {(): {2: 1.0}})
    pieces = stream(model, WordTokenizer(["a", "b", "c"]), "", DecodeSettings(max_tokens=100))
    for calls in range(1, 6):
        next(pieces)
        assert len(model.calls) == calls  # nothing is computed ahead of the reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder: words counted in ten sentences."""
    from idiolect.interop.folder import save
    from idiolect.models.build import build
    from idiolect.models.settings import NGramSettings
    from idiolect.tokens.learn import from_vocabulary
    from idiolect.tokens.settings import TokenizerSettings

    tokenizer = from_vocabulary(WORDS[:7], TokenizerSettings(kind="word"))
    texts = [f"My favorite food is {word}" for word in ["pizza"] * 7 + ["love"] * 2 + ["antagonist"]]
    rows = [tokenizer.encode(text) for text in texts]

    class Documents:
        ids = np.array(sum(rows, []))
        offsets = np.cumsum([0, *map(len, rows)])

    model = build(NGramSettings(order=3, smoothing="mle"), tokenizer.size).fit(Documents)
    path = tmp_path_factory.mktemp("pa4") / "model"
    save(path, model, tokenizer, {})
    return path


def test_PA4_the_api_streams_and_ranks(folder):
    pieces = list(api.generate(folder, "My favorite", DecodeSettings(temperature=0), streaming=True))
    assert [piece.text for piece in pieces] == [" food", " is", " pizza", ""]
    ranked = api.explore(folder, PROMPT, candidates=["antagonist", "love", "pizza"])["candidates"]
    assert [(c["text"], round(math.exp(c["logprob"]), 9)) for c in ranked] == [
        ("pizza", 0.7),
        ("love", 0.2),
        ("antagonist", 0.1),
    ]


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0


def test_PA4_the_command_line_streams_and_ranks(folder, capsys):
    run("generate", str(folder), "My favorite", "--temperature", "0")
    assert capsys.readouterr().out == "My favorite food is pizza\n"
    words = [part for word in ("antagonist", "love", "pizza") for part in ("--candidates", word)]
    run("explore", str(folder), PROMPT, *words)
    shown = capsys.readouterr().out.split("── candidates ──")[1]
    assert shown.index("'pizza'") < shown.index("'love'") < shown.index("'antagonist'")


LOOP = TableModel(5, {(2,): {3: 1.0}, (3,): {4: 1.0}, (4,): {2: 1.0}, (): {2: 1.0}})  # a b c a b c …
ABC = WordTokenizer(["a", "b", "c"])


def ended(until=(), model=LOOP, **options):
    (found,) = complete(model, ABC, [""], DecodeSettings(**{"max_tokens": 50, **options}), until=until)
    assert found == Local(model, ABC).complete([""], DecodeSettings(**{"max_tokens": 50, **options}), until=until)[0]
    return found.text, found.finish_reason


def test_PA4_stops_at_the_end_of_text_a_token_a_string_or_a_length():
    assert ended(model=TableModel(5, {(0,): {2: 1.0}, (2,): {0: 1.0}})) == ("a", "stop")
    assert ended(stop_tokens=(4,)) == ("a b", "stop")
    assert ended(stop=("c a", "x")) == ("a b ", "stop")
    assert ended(max_tokens=4) == ("a b c a", "length")


def test_PA4_any_function_can_be_the_stop_criterion():
    def two_sentences(ids, text):
        return "two sentences" if text.count("c") == 2 else None

    assert ended([two_sentences]) == ("a b c a b c", "two sentences")
    assert ended([two_sentences], max_tokens=3) == ("a b c", "length")
    assert ended([lambda ids, text: "loop" if ids[-1] in ids[:-1] else None, two_sentences]) == ("a b c a", "loop")
