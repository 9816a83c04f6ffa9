"""PA10: everyday uses, one runnable recipe each, with a small model, its metric printed."""

import json

from idiolect.cli import run

SMALL = ["model.layers=1", "model.width=32", "model.context=32", "tokenizer.kind=word", "train.precision=fp32"]
SMALL += ["train.batch_tokens=256", "train.steps=100", "train.learning_rate=3e-3", "train.threads=1", "sample.every=0"]
FILMS = ("film", "story", "cast", "ending", "score")
KINDS = {"good": ("warm", "funny", "moving", "clever"), "bad": ("dull", "tired", "clumsy", "empty")}
PEOPLE, PLACES = ("Ada", "Grace", "Alan Turing"), ("Paris", "Oslo", "New York")


def printed(capsys, *arguments):
    """What a command prints for people."""
    assert run([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_PA10_sentiment_is_a_recipe_that_prints_its_accuracy(tmp_path, capsys):
    rows = []
    for i in range(240):
        label = ("good", "bad")[i % 2]
        word, other = KINDS[label][i // 2 % 4], KINDS[label][i // 8 % 4]
        rows.append(f"a {word} {FILMS[i % 5]} and a {other} {FILMS[i // 5 % 5]}\t{label}\n")
    (tmp_path / "reviews.tsv").write_text("".join(rows))
    data = [f"data.train={tmp_path / 'reviews.tsv'}", "task.text=1", "task.label=2"]
    out = printed(capsys, "train", "classify", *data, *SMALL, "-o", tmp_path / "run")
    assert "accuracy 1, macro F1 1" in out
    assert printed(capsys, "classify", tmp_path / "run", "a moving story and a clever score").split()[1] == "good"
    assert "majority" in (tmp_path / "run" / "report.html").read_text()


def test_PA10_names_are_found_by_a_recipe_that_prints_their_f1(tmp_path, capsys):
    lines = []
    for i in range(240):
        for text, kind in ((PEOPLE[i % 3], "person"), ("lives in", ""), (PLACES[i // 3 % 3], "place"), (".", "")):
            for place, word in enumerate(text.split()):
                lines.append(f"{word}\t{('I-' if place else 'B-') + kind if kind else 'O'}\n")
        lines.append("\n")
    (tmp_path / "names.conll").write_text("".join(lines))
    data = [f"data.train={tmp_path / 'names.conll'}"]
    out = printed(capsys, "train", "tag", *data, *SMALL, "-o", tmp_path / "run")
    assert "entity F1 1" in out
    out = printed(capsys, "classify", tmp_path / "run", "Alan Turing lives in New York .")
    assert [line.split("\t")[1] for line in out.splitlines()] == [
        "B-person",
        "I-person",
        "O",
        "O",
        "B-place",
        "I-place",
        "O",
    ]


def test_PA10_questions_are_answered_from_a_passage_by_a_recipe_that_prints_exact_matches(tmp_path, capsys):
    rows, jobs = [], ("baker", "doctor", "farmer", "singer")
    for i in range(960):
        person, place, job = PEOPLE[i % 3], PLACES[i // 3 % 3], jobs[i // 9 % 4]
        asked, answer = (("Where does", place), ("What is the job of", job))[i // 36 % 2]
        context = f"{person} is a {job} ; {person} lives in {place} ." if i % 5 else f"In {place} {person} is a {job} ."
        rows.append(json.dumps({"question": f"{asked} {person} ?", "context": context, "answer": answer}))
    (tmp_path / "questions.jsonl").write_text("\n".join(rows))
    more = ["model.width=48", "train.batch_tokens=1024", "train.steps=120", "model.source_context=32"]
    data = f"data.train={tmp_path / 'questions.jsonl'}"
    out = printed(capsys, "train", "answer", data, *SMALL, *more, "-o", tmp_path / "run")
    assert "exact match 1" in out
    asked = "question: What is the job of Grace ? context: Grace is a singer ; Grace lives in Oslo ."
    assert printed(capsys, "translate", tmp_path / "run", asked).strip() == "singer"


def test_PA10_dialogues_are_summarised_by_a_recipe_that_prints_rouge(tmp_path, capsys):
    rows, things = [], ("tea", "a book", "the train", "lunch")
    for i in range(480):
        person, other, thing = PEOPLE[i % 3], PEOPLE[(i + 1 + i // 3 % 2) % 3], things[i // 6 % 4]
        start = ("Hello", "Hi", "Morning")[i // 24 % 3]
        dialogue = f"#Person1#: {start} {other} ! \n#Person2#: {start} {person} , shall we share {thing} ?"
        rows.append(json.dumps({"dialogue": dialogue, "summary": f"{other} asks {person} to share {thing} ."}))
    (tmp_path / "dialogues.jsonl").write_text("\n".join(rows))
    more = ["model.width=48", "train.batch_tokens=1024", "train.steps=150", "model.source_context=32"]
    data = f"data.train={tmp_path / 'dialogues.jsonl'}"
    out = printed(capsys, "train", "summarise", data, *SMALL, *more, "-o", tmp_path / "run")
    rouge = {name: float(out.split(f"{name} ")[1].split(",")[0].split("\n")[0]) for name in ("ROUGE-1", "ROUGE-L")}
    assert all(figure > 0.8 for figure in rouge.values())
    asked = "summarise: #Person1#: Hi Grace ! \n#Person2#: Hi Ada , shall we share tea ?"
    assert printed(capsys, "translate", tmp_path / "run", asked).split()[-3:] == ["share", "tea", "."]


def test_PA10_sentences_are_translated_by_a_recipe_that_prints_bleu(tmp_path, capsys):
    words = {"a": "ein", "dog": "Hund", "cat": "Kater", "sees": "sieht", "no": "kein", "man": "Mann", "hears": "hört"}
    rows = []
    for i in range(240):
        a, b = ("a", "no")[i % 2], ("a", "no")[i // 2 % 2]
        subject, verb, thing = ("dog", "cat", "man")[i // 4 % 3], ("sees", "hears")[i // 12 % 2], ("man", "dog")[i % 2]
        sentence = f"{a} {subject} {verb} {b} {thing}"
        rows.append(json.dumps({"source": sentence, "target": " ".join(words[word] for word in sentence.split())}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    more = ["task.metrics=['bleu', 'exact_match']", "model.width=48", "train.batch_tokens=1024", "model.dropout=0"]
    data = f"data.train={tmp_path / 'pairs.jsonl'}"
    out = printed(capsys, "train", "translate", data, *SMALL, *more, "-o", tmp_path / "run")
    assert "BLEU 100" in out and "exact match 1" in out
    assert printed(capsys, "translate", tmp_path / "run", "no cat hears a dog").strip() == "kein Kater hört ein Hund"
