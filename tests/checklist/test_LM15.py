"""LM15: an encoder learns to fill in hidden words, and says what the teacher does to the student.

The corpus is made by a grammar: agents of a field do what the field does to its patients, perhaps somewhere, perhaps
with something. Five fields have English words, 55 have words made of syllables: more than 2,000 words to choose from.
"""

import itertools
import json
import random

import pytest

from idiolect import api
from idiolect.cli import run
from idiolect.interop import folder

ABSENT = ("teacher", "teaches", "student")
ENGLISH = [
    (["teacher", "professor", "tutor"], ["teaches", "instructs", "examines"], ["student", "pupil", "class"], "school"),
    (["doctor", "nurse", "surgeon"], ["heals", "treats", "visits"], ["patient", "child", "invalid"], "hospital"),
    (["farmer", "shepherd", "peasant"], ["feeds", "milks", "herds"], ["cow", "goat", "sheep"], "barn"),
    (["judge", "lawyer", "sheriff"], ["accuses", "hears", "fines"], ["thief", "robber", "witness"], "court"),
    (["cook", "baker", "chef"], ["bakes", "salts", "serves"], ["loaf", "soup", "cake"], "kitchen"),
]
FIELDS, AGENTS, VERBS, PATIENTS = 60, 10, 3, 20
DETERMINERS = ("the", "a", "every", "this", "that", "one")


def fields():
    """(agents, verbs, patients, place, a tool for each verb) of each field; no word is in two of them."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
    words = [first + second for first in syllables for second in syllables]
    random.Random(7).shuffle(words)
    fresh = iter(words)
    for number in range(FIELDS):
        agents, verbs, patients, place = ENGLISH[number] if number < len(ENGLISH) else ([], [], [], next(fresh))
        yield (
            agents + list(itertools.islice(fresh, AGENTS - len(agents))),
            verbs + [f"{word}s" for word in itertools.islice(fresh, VERBS - len(verbs))],
            patients + list(itertools.islice(fresh, PATIENTS - len(patients))),
            place,
            list(itertools.islice(fresh, VERBS)),
        )


def sentences(count, seed):
    """`count` sentences, none of them about a teacher who teaches a student."""
    draw, known = random.Random(seed), list(fields())
    while count:
        agents, verbs, patients, place, tools = draw.choice(known)
        agent, verb, patient = draw.choice(agents), draw.randrange(VERBS), draw.choice(patients)
        one, other, third, fourth = draw.choices(DETERMINERS, k=4)
        where = f" in {third} {place}" if draw.random() < 0.5 else ""
        how = f" with {fourth} {tools[verb]}" if draw.random() < 0.5 else ""
        if (agent, verbs[verb], patient) != ABSENT:
            count -= 1
            yield f"{one} {agent} {verbs[verb]} {other} {patient}{where}{how}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run folder, and what training found."""
    base = tmp_path_factory.mktemp("LM15")
    for name, count, seed in (("train", 20_000, 1), ("held-out", 500, 2)):
        (base / f"{name}.txt").write_text("\n".join(sentences(count, seed)))
    recipe = [
        f"data.train={base}/train.txt",
        f"data.validation={base}/held-out.txt",
        "data.document=line",
        "tokenizer.kind=word",
        "tokenizer.size=5000",
        "task.kind=masked",
        "task.share=0.3",
        "model.layers=2",
        "model.heads=2",
        "model.width=64",
        "model.context=32",
        "train.steps=400",
        "train.batch_tokens=2048",
        "train.optimizer=muon",
        "train.learning_rate=1e-2",
        "train.precision=fp32",
        "train.compile=no",
        "train.threads=1",
        "validation.every=0",
        "sample.every=0",
    ]
    return base / "run", api.train("bert", recipe, base / "run")


@pytest.mark.slow
def test_LM15_the_teacher_teaches_the_student_whom_no_sentence_had(trained, capsys):
    text = (trained[0].parent / "train.txt").read_text()
    assert all(word in text for word in ABSENT)
    assert not any(set(ABSENT) <= set(line.split()) for line in text.splitlines())
    assert folder.load(trained[0] / "model").tokenizer.size > 2000
    assert run(["fill", str(trained[0]), "The teacher <MASK> the student", "--top", "5", "--json"]) == 0
    candidates = json.loads(capsys.readouterr().out)["candidates"]
    assert len(candidates) == 5 and "teaches" in [one["token"] for one in candidates]


@pytest.mark.slow
def test_LM15_held_out_words_are_filled_in_twice_as_well_as_by_the_unigram_guess(trained):
    result = trained[1]
    assert result["validation"]["masks"] > 500
    assert result["validation"]["accuracy"] >= 2 * result["baselines"]["unigram"]["accuracy"] > 0


@pytest.mark.slow
def test_LM15_it_reads_what_follows(trained):
    """Who it is that does it, only the words to the right tell; what is done, the words on both sides."""
    for agents, verbs, patients, _, _ in itertools.islice(fields(), len(ENGLISH)):
        guess = api.fill(trained[0], f"the <mask> {verbs[0]} the {patients[0]}")["candidates"][0]["token"]
        assert guess in agents


def labelled(count, seed):
    """Rows with the words of sentences, their classes, the entities among them, and whether what is done is good.

    The first verb of each field is.
    """
    good = {verbs[0] for _, verbs, _, _, _ in fields()}
    classes = {**dict.fromkeys(DETERMINERS, "determiner"), "in": "preposition", "with": "preposition"}
    for sentence in sentences(count, seed):
        words = sentence.split()
        tags = [classes.get(word, "noun") for word in words]
        tags[2] = "verb"
        entities = ["O"] * len(words)
        entities[1] = "B-agent"
        if "in" in words:
            entities[words.index("in") + 2] = "B-place"
        mood = "good" if words[2] in good else "bad"
        yield {"text": sentence, "label": mood, "tokens": words, "classes": tags, "entities": entities}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "more", "figure", "least"),
    [
        ("classify", [], "accuracy", 0.9),
        ("tag", ["task.tags=classes"], "accuracy", 0.95),
        ("tag", ["task.tags=entities"], "entity_f1", 0.9),
    ],
    ids=["sentiment", "word classes", "entities"],
)
def test_LM15_it_is_fine_tuned_to_sentiment_word_classes_and_entities(trained, tmp_path, recipe, more, figure, least):
    for name, count, seed in (("train", 600, 3), ("held-out", 200, 4)):
        rows = (json.dumps(row) for row in labelled(count, seed))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    result = api.train(
        recipe,
        [
            f"model.from={trained[0]}",
            f"data.train={tmp_path}/train.jsonl",
            f"data.validation={tmp_path}/held-out.jsonl",
            *more,
            "train.steps=150",
            "train.learning_rate=2e-3",
            "train.precision=fp32",
            "train.compile=no",
            "train.threads=1",
            "validation.every=0",
            "sample.every=0",
            "forgetting.own=false",
        ],
        tmp_path / "run",
    )
    assert result["validation"][figure] >= least > result["baselines"]["majority"][figure]
