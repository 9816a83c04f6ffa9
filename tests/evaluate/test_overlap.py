"""Overlap of texts, by hand and against sacrebleu."""

import pytest

from idiolect.errors import UserError
from idiolect.evaluate.overlap import METRICS, bleu, chrf, exact_match, longest_common, rouge


def test_exact_match_takes_any_reference():
    assert exact_match(["a b", "c ", "d"], [["x", "a b"], ["c"], ["D"]]) == {"exact_match": pytest.approx(2 / 3)}


def test_rouge_by_hand():
    # hypothesis "the cat sat on the mat" (6 words), reference "the cat lay on a mat" (6): shared words the, cat, on,
    # mat = 4; bigrams shared: "the cat" = 1 of 5 and 5; longest common subsequence the cat on mat = 4
    found = rouge(["The cat sat on the mat."], [["the cat lay on a mat"]])
    assert found == {"rouge1": pytest.approx(4 / 6), "rouge2": pytest.approx(1 / 5), "rougeL": pytest.approx(4 / 6)}


def test_rouge_l_differs_from_rouge_1_when_the_order_does():
    # shared words police, the, gunman = 3 of 4 and 4; the longest common subsequence "the gunman" = 2
    found = rouge(["the gunman kill police"], [["police killed the gunman"]])
    assert found["rouge1"] == pytest.approx(3 / 4) and found["rougeL"] == pytest.approx(2 / 4)


def test_rouge_weighs_recall_and_precision_and_takes_the_best_reference():
    # 2 shared of 2 and of 4: recall 1/2, precision 1, F1 2/3; the other reference is worth 0
    assert rouge(["a b"], [["z", "a b c d"]])["rouge1"] == pytest.approx(2 / 3)
    assert rouge(["", "x"], [["a"], ["x"]])["rouge1"] == pytest.approx(0.5)


def test_rouge_counts_a_repeated_word_no_more_often_than_the_reference_has_it():
    assert rouge(["the the the"], [["the cat"]])["rouge1"] == pytest.approx(2 * 1 / (3 + 2))


@pytest.mark.parametrize(("a", "b", "length"), [("abcbdab", "bdcaba", 4), ("", "x", 0), ("xyz", "xyz", 3)])
def test_longest_common_subsequence(a, b, length):
    assert longest_common(a, b) == length


def test_bleu_and_chrf_are_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu")
    hypotheses = ["the cat sat on the mat", "a dog runs in the park today"]
    references = [["the cat sat on a mat", "a cat was on the mat"], ["the dog runs in the park today", "dogs run"]]
    columns = [list(column) for column in zip(*references)]
    assert bleu(hypotheses, references)["bleu"] == sacrebleu.corpus_bleu(hypotheses, columns).score
    assert chrf(hypotheses, references)["chrf"] == sacrebleu.corpus_chrf(hypotheses, columns).score
    assert bleu(hypotheses, [[h] for h in hypotheses])["bleu"] == pytest.approx(100)
    with pytest.raises(UserError, match="different numbers of references"):
        bleu(hypotheses, [["a"], ["b", "c"]])


def test_every_metric_has_a_name():
    pytest.importorskip("sacrebleu")
    for name, metric in METRICS.items():
        assert all(key.startswith(name) for key in metric(["a b c d e"], [["a b c d e"]]))
