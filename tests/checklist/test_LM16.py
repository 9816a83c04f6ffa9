"""LM16: an encoder-decoder in T5's shape: spans that come back exactly, and answers to questions about a passage."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect import api, seeds
from idiolect.data.spans import Corruption, corrupt, restore
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

TEXT = "Colourless green ideas sleep furiously; naïve ones do so, too. The lecture transforms the students.\n"
PEOPLE = (
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Greta",
    "Hugo",
    "Ida",
    "Jonas",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
)
FACTS = [
    ("{} lives in {}.", "Where does {} live?", "Oslo Paris Rome Berlin Madrid Vienna Prague Dublin Lisbon Athens"),
    ("{} works as a {}.", "What is the job of {}?", "baker doctor farmer teacher painter driver singer lawyer nurse"),
    ("The car of {} is {}.", "What colour is the car of {}?", "red blue green yellow white black brown grey pink"),
    ("The dog of {} is {}.", "What is the name of the dog of {}?", "Rex Bella Max Luna Charlie Rocky Milo Daisy Oscar"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return train([TEXT * 20], TokenizerSettings(size=300)).with_sentinels(40)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**60), st.text(min_size=2, max_size=200), st.floats(0.05, 0.6), st.floats(1, 6))
def test_LM16_what_was_left_out_comes_back_exactly_for_any_seed(tokenizer, seed, text, share, mean_length):
    ids = np.array(tokenizer.encode(text), dtype=np.int64)
    how = Corruption(share, mean_length, tokenizer.sentinels, 0, tokenizer.end_id, tokenizer.pad_id)
    if len(ids) < 2 or how.counts(len(ids))[1] > len(how.sentinels):
        return
    left_out = how.left_out(len(ids), seeds.numpy_generator(seed, "spans"))
    source, target = corrupt(ids, left_out, how.sentinels)
    assert np.array_equal(restore(source, target, how.sentinels), ids)
    marks = [[i for i in side.tolist() if i in how.sentinels] for side in (source, target)]
    assert marks[0] == marks[1] == how.sentinels[: how.counts(len(ids))[1]].tolist()  # every span its own, in order
    assert left_out.sum() == len(target) - len(marks[1]) == how.counts(len(ids))[0]


def facts(n, seed):
    """Questions about someone, a passage that answers them, and the answer."""
    draw = random.Random(seed)
    for _ in range(n):
        person, told = draw.choice(PEOPLE), []
        for fact, question, words in FACTS:
            answer = draw.choice(words.split())
            told.append((fact.format(person, answer), question.format(person), answer))
        asked = draw.choice(told)
        draw.shuffle(told)
        yield {"passage": " ".join(fact for fact, _, _ in told), "question": asked[1], "answer": asked[2]}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_LM16_a_t5_answers_questions_about_a_passage_and_knows_nothing_without_it(tmp_path):
    for name, n, seed in (("train", 4000, 1), ("held", 200, 2)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, facts(n, seed))))
    asked = "question: {question} context: {passage}"
    result = api.train(
        "t5",
        [
            f"data.train={tmp_path / 'train.jsonl'}",
            f"data.validation={tmp_path / 'held.jsonl'}",
            *("task.kind=pairs", f"task.source={asked}", "task.target=answer", "tokenizer.kind=word"),
            *("model.width=64", "model.layers=2", "model.context=8", "train.compile=no"),
            *("train.steps=200", "train.batch_tokens=1600", "train.learning_rate=3e-3"),
            *("validation.every=0", "sample.every=0", "checkpoint.every=1000"),
        ],
        tmp_path / "run",
    )
    held = list(facts(200, 2))
    without = [asked.format(question=one["question"], passage="") for one in held]
    written = api.translate(tmp_path / "run", without)["translations"]
    guessed = sum(answer["text"] == one["answer"] for answer, one in zip(written, held, strict=True)) / len(held)
    exact = result["validation"]["exact_match"]
    print(f"exact match {exact}, without the passage {guessed}")
    assert exact >= 0.8
    assert exact - guessed >= 0.3
