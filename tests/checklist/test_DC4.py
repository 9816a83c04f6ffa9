"""DC4: IP addresses, phone numbers and other personal data leave a corpus, and one sees how surely.

They are replaced by placeholders that say what stood there; the report counts them; precision and recall are measured
on a set that was made before the detectors, and printed.
"""

import importlib
import json
from pathlib import Path

import pytest

from idiolect import api
from idiolect.text.personal.privacy import KINDS, Redactor, evaluate
from idiolect.text.read import read
from idiolect.text.settings import PrivacySettings

TEXTS = {
    "Ring 201-555-0123 or +44 7400 123456 before noon.": "Ring <PHONE> or <PHONE> before noon.",
    "The host 93.184.216.34 wrote to jane@mail.example again.": "The host <IP> wrote to <EMAIL> again.",
    "Paid with 4111 1111 1111 1111 to GB82WEST12345698765432.": "Paid with <CARD> to <IBAN>.",
    "Her number is 078-05-1120 and the key AKIAIOSFODNN7EXAMPLE.": "Her number is <ID> and the key <KEY>.",
    "Version 1.2.3.4 of 2021-03-04 came from 127.0.0.1 alone.": None,
}


def test_DC4_placeholders_say_what_stood_there_and_the_report_counts_them(tmp_path):
    (tmp_path / "heap.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    given = ["curate.filters=[]", "curate.near.drop=false"]
    result = api.curate([tmp_path / "heap.jsonl"], tmp_path / "corpus", overrides=given, workers=1)
    found = [document.text for document in read([tmp_path / "corpus"])]
    assert found == [left or text for text, left in TEXTS.items()]
    counts = {"phone": 2, "ip": 1, "email": 1, "card": 1, "iban": 1, "id": 1, "key": 1}
    report = json.loads((tmp_path / "corpus/report.json").read_text())
    assert result["redacted"] == report["redacted"] == counts


def test_DC4_precision_and_recall_are_printed_for_each_kind(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "text")
    personal = importlib.import_module("personal")
    labelled = personal.labelled(seed=1)
    scores = evaluate(Redactor(PrivacySettings(redact=tuple(KINDS))), labelled)
    print(f"{len(labelled)} texts, {sum(not one.spans for one in labelled)} without personal data")
    for kind, score in scores.items():
        print(f"{kind:6} {score.found + score.missed:4}  recall {score.recall:.4f}  precision {score.precision:.4f}")
        assert score.recall >= 0.98 and score.precision >= 0.95, kind
    assert scores.keys() == set(KINDS)


def test_DC4_nothing_is_redacted_that_was_not_asked_for(tmp_path):
    (tmp_path / "heap.jsonl").write_text(json.dumps({"text": "jane@mail.example and 93.184.216.34 are here"}) + "\n")
    settings = ['curate.privacy.redact=["ip"]']
    result = api.curate([tmp_path / "heap.jsonl"], tmp_path / "corpus", overrides=settings, workers=1)
    assert [document.text for document in read([tmp_path / "corpus"])] == ["jane@mail.example and <IP> are here"]
    assert result["redacted"] == {"ip": 1}
    with pytest.raises(Exception, match="redact"):
        api.curate([tmp_path / "heap.jsonl"], tmp_path / "other", overrides=['curate.privacy.redact=["face"]'])
