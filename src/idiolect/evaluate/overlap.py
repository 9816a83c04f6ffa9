"""What written texts share with the texts they should have been: exact match, ROUGE, BLEU and chrF.

Each metric takes N hypotheses and the references of each (one or more), and returns figures by name. ROUGE is a share,
BLEU and chrF are percentages, as the field prints them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from idiolect.errors import UserError, missing_extra

References = Sequence[Sequence[str]]
WORD = re.compile(r"\w+")


def exact_match(hypotheses: Sequence[str], references: References) -> dict[str, float]:
    """The share of hypotheses that are one of their references, white space at the ends apart."""
    pairs = zip(hypotheses, references, strict=True)
    return {"exact_match": fmean(h.strip() in {r.strip() for r in of} for h, of in pairs)}


def rouge(hypotheses: Sequence[str], references: References) -> dict[str, float]:
    """ROUGE-1, -2 and -L (Lin 2004): the mean over hypotheses of F1 against the best of their references.

    Words are runs of letters, digits and underscores, lower-cased, not stemmed. With m shared n-grams (each counted
    at most as often as in either text), recall is m over the reference's n-grams and precision m over the
    hypothesis's. For ROUGE-L m is the length of the longest common subsequence of the two whole texts.
    """
    words = [([_words(r) for r in of], _words(h)) for h, of in zip(hypotheses, references, strict=True)]
    return {
        "rouge1": fmean(max(_rouge_n(h, r, 1) for r in of) for of, h in words),
        "rouge2": fmean(max(_rouge_n(h, r, 2) for r in of) for of, h in words),
        "rougeL": fmean(max(_f1(longest_common(h, r), len(h), len(r)) for r in of) for of, h in words),
    }


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _rouge_n(hypothesis: Sequence[str], reference: Sequence[str], n: int) -> float:
    counts = [Counter(zip(*(words[i:] for i in range(n)))) for words in (hypothesis, reference)]
    return _f1((counts[0] & counts[1]).total(), counts[0].total(), counts[1].total())


def _f1(shared: int, hypothesis: int, reference: int) -> float:
    return 2 * shared / (hypothesis + reference) if shared else 0.0


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, in len(a) x len(b) operations and len(b) memory."""
    best = [0] * (len(b) + 1)
    for x in a:
        before = best
        best = [0]
        for j, y in enumerate(b):
            best.append(before[j] + 1 if x == y else max(before[j + 1], best[j]))
    return best[-1]


def bleu(hypotheses: Sequence[str], references: References) -> dict[str, float]:
    """Corpus BLEU by sacrebleu: the geometric mean of 1- to 4-gram precisions, times the brevity penalty."""
    return {"bleu": _sacrebleu("corpus_bleu", hypotheses, references)}


def chrf(hypotheses: Sequence[str], references: References) -> dict[str, float]:
    """Corpus chrF2 by sacrebleu: F2 of character 1- to 6-grams."""
    return {"chrf": _sacrebleu("corpus_chrf", hypotheses, references)}


def _sacrebleu(function: str, hypotheses: Sequence[str], references: References) -> float:
    try:
        import sacrebleu
    except ImportError:
        raise missing_extra("eval", "sacrebleu", "BLEU and chrF") from None
    if len({len(of) for of in references}) > 1:
        raise UserError("the texts have different numbers of references", "give as many references of each")
    columns = [list(column) for column in zip(*references, strict=True)]
    return float(getattr(sacrebleu, function)(list(hypotheses), columns).score)


METRICS: Mapping[str, Callable[[Sequence[str], References], dict[str, float]]] = {
    "exact_match": exact_match,
    "rouge": rouge,
    "bleu": bleu,
    "chrf": chrf,
}
"""Every metric by the name a recipe gives it."""
