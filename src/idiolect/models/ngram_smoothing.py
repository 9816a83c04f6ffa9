"""From counts to log-probabilities: maximum likelihood, add-k, stupid backoff, interpolated modified Kneser-Ney.

Each becomes one `Weights`: a score for every sequence that was counted, and what is added to a shorter context's score
where it was not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from idiolect.models.ngram_counts import Trie, read_so_far
from idiolect.models.settings import NGramSettings

FALLBACK = (0.5, 1.0, 1.5)
"""D1, D2, D3+ where the counts give none (small or artificial data); as `lmplz --discount_fallback`."""


@dataclass(frozen=True)
class Weights:
    """Natural logarithms, float64. See `BackoffTable` for how they make a probability."""

    scores: tuple[np.ndarray, ...]
    """[n_k] for k = 1 … N: log p(last token | the tokens before it). Order 1 holds every id of the vocabulary."""
    backoffs: tuple[np.ndarray, ...]
    """[n_k] for k = 1 … N - 1: added to the score under the shorter context where the longer has no such sequence."""
    unseen_context: float = 0.0
    """The same for a context that never occurred."""
    base: np.ndarray | None = None
    """[V] scores that a missing sequence falls back to at once; None: to the context shorter by one token."""


@dataclass(frozen=True)
class BackoffTable:
    """p(w | context) by look-up:

    log p(w | c) = score(c w) when c w was counted, else backoff(c) + log p(w | c without its first token).
    """

    trie: Trie
    weights: Weights

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """log p(tokens[b, t] | tokens[b, :t]) for int64 [B, W] → float64 [B, W]; NONE before a row's first token."""
        before = read_so_far(tokens, self.trie.symbols)
        before[:, 1:], before[:, 0] = before[:, :-1].copy(), 0
        out = self.weights.scores[0][tokens]
        for order, (contexts, nodes) in enumerate(self.trie.walk(tokens), start=1):
            if order > 1:
                base = None if self.weights.base is None else self.weights.base[tokens]
                lower = self._lower(out, order, contexts, base)
                found = _pick(self.weights.scores[order - 1], nodes, 0.0)
                out = np.where(before >= order - 1, np.where(nodes >= 0, found, lower), out)
        return out

    def distributions(self, tokens: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """log p(· | tokens[row, : column + 1]) for each of n (row, column) → float64 [n, V]."""
        read = read_so_far(tokens, self.trie.symbols)[rows, columns]
        out = np.repeat(self.weights.scores[0][None], len(rows), axis=0)
        for order, (_, nodes) in enumerate(islice(self.trie.walk(tokens), self.trie.order - 1), start=1):
            known = np.flatnonzero(read >= order)
            contexts = self.trie.symbols.as_context(order, nodes, tokens)[rows, columns][known]
            out[known] = self._lower(out[known], order + 1, contexts[:, None], self.weights.base)
            seen = np.flatnonzero(contexts >= 0)
            owner, children = self.trie.followers(order + 1, contexts[seen])
            last = self.trie.keys[order - 1][children] % self.trie.symbols.vocabulary
            out[known[seen[owner]], last] = self.weights.scores[order][children]
        return out

    def _lower(self, shorter: np.ndarray, order: int, contexts: np.ndarray, base: np.ndarray | None) -> np.ndarray:
        """The score of a sequence of `order` tokens that was not counted."""
        weight = _pick(self.weights.backoffs[order - 2], contexts, self.weights.unseen_context)
        return (shorter if base is None else base) + weight


def _pick(values: np.ndarray, nodes: np.ndarray, missing: float) -> np.ndarray:
    """values[nodes], `missing` where a node is NONE."""
    return np.where(nodes >= 0, values[nodes], missing) if len(values) else np.full(nodes.shape, missing)


def _log(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(values)


def _context_totals(trie: Trie, order: int, counts: np.ndarray) -> np.ndarray:
    """The sum over each context's continuations of their `counts` [n_order], float64 [n_(order - 1)]."""
    parent, _ = trie.split(order)
    return np.bincount(parent, weights=counts, minlength=trie.nodes(order - 1)).astype(np.float64)  # int64 when empty


def _relative(trie: Trie, counts: list[np.ndarray], added: float = 0.0, kinds: int = 0) -> tuple[np.ndarray, ...]:
    """log (c(ctx w) + added) / (c(ctx) + added · kinds) for every order."""
    scores = [_log((counts[0] + added) / (counts[0].sum() + added * kinds))]
    for order in range(2, trie.order + 1):
        totals = _context_totals(trie, order, counts[order - 1])[trie.split(order)[0]]
        scores.append(_log((counts[order - 1] + added) / (totals + added * kinds)))
    return tuple(scores)


def maximum_likelihood(trie: Trie, counts: list[np.ndarray], settings: NGramSettings) -> Weights:
    """p(w | ctx) = c(ctx w) / c(ctx); 0 for what was never counted, everywhere after an unseen context."""
    backoffs = tuple(np.zeros(trie.nodes(order)) for order in range(1, trie.order))
    return Weights(_relative(trie, counts), backoffs, base=np.full(trie.symbols.vocabulary, -np.inf))


def add_k(trie: Trie, counts: list[np.ndarray], settings: NGramSettings) -> Weights:
    """p(w | ctx) = (c(ctx w) + k) / (c(ctx) + k V): Lidstone; Laplace for k = 1. V counts the ids that may occur."""
    allowed = trie.symbols.predicted()
    kinds, k = int(allowed.sum()), settings.k
    scores = _relative(trie, counts, k, kinds)
    scores[0][~allowed] = -np.inf
    backoffs = []
    for order in range(2, trie.order + 1):  # a continuation never seen: k / (c(ctx) + k V) = weight · 1 / V
        backoffs.append(np.log(k * kinds / (_context_totals(trie, order, counts[order - 1]) + k * kinds)))
    return Weights(scores, tuple(backoffs), base=np.where(allowed, -np.log(kinds), -np.inf))


def stupid_backoff(trie: Trie, counts: list[np.ndarray], settings: NGramSettings) -> Weights:
    """Brants et al. 2007 (D07-1090), eq. 5: S(w | ctx) = c(ctx w) / c(ctx), else factor · S(w | shorter ctx).

    The scores do not sum to 1; an id that never occurred has score 0.
    """
    factor = float(np.log(settings.backoff))
    backoffs = tuple(np.full(trie.nodes(order), factor) for order in range(1, trie.order))
    return Weights(_relative(trie, counts), backoffs, unseen_context=factor)


def kneser_ney(trie: Trie, counts: list[np.ndarray], settings: NGramSettings) -> Weights:
    """Interpolated modified Kneser-Ney as KenLM's lmplz defines it (Heafield et al. 2013, P13-2121, section 3).

    p(w | ctx) = max(a - D(a), 0) / A + gamma(ctx) · p(w | ctx without its first token),
      a      adjusted count of `ctx w`: how often it occurs, for the highest order and after a text's beginning; below,
             how many different tokens precede it;
      A      sum of a over the continuations of ctx;
      D(a)   discount by a = 1, 2, 3 and more (`discounts`);
      gamma  (D1 N1 + D2 N2 + D3+ N3+) / A, N_i = number of continuations with a = i.
    The recursion ends in the uniform distribution over the ids that may occur; one that never did has that share alone,
    as KenLM's <unk>.
    """
    allowed = trie.symbols.predicted()
    adjusted = adjusted_counts(trie, counts)
    a = adjusted[0]
    D = discounts(a)
    total = a.sum()
    mass = D[np.minimum(a, 3)].sum() / total
    p = np.where(allowed, (a - D[np.minimum(a, 3)]) / total + mass / allowed.sum(), 0.0)
    scores, backoffs = [_log(p)], []
    for order, suffix in enumerate(trie.suffixes(), start=2):
        a = adjusted[order - 1]
        discount = discounts(a)[np.minimum(a, 3)]
        parent, _ = trie.split(order)
        A = _context_totals(trie, order, a)
        gamma = _context_totals(trie, order, discount)
        gamma = np.divide(gamma, A, out=np.ones_like(A), where=A > 0)
        p = (a - discount) / A[parent] + gamma[parent] * p[suffix]
        scores.append(_log(p))
        backoffs.append(_log(gamma))
    return Weights(tuple(scores), tuple(backoffs))


def adjusted_counts(trie: Trie, counts: list[np.ndarray]) -> list[np.ndarray]:
    """int64 [n_k] per order: raw for the highest order and after a text's beginning, else distinct tokens before."""
    adjusted = []
    initial = np.zeros(trie.nodes(1), dtype=bool)  # the sequences that start with begin-of-text; </s> does not
    suffixes = list(trie.suffixes())
    for order in range(1, trie.order):
        preceding = np.bincount(suffixes[order - 1], minlength=trie.nodes(order))
        adjusted.append(np.where(initial, counts[order - 1], preceding))
        parent, _ = trie.split(order + 1)
        initial = parent == trie.symbols.begin if order == 1 else initial[parent]
    return [*adjusted, counts[-1]]


def discounts(adjusted: np.ndarray) -> np.ndarray:
    """[0, D1, D2, D3+] by Chen and Goodman 1998 (TR-10-98), eq. 26.

    D_j = j - (j + 1) Y n_(j+1) / n_j with Y = n1 / (n1 + 2 n2), where n_j is how many sequences have the adjusted
    count j. Where some n_j (j ≤ 3) is 0 or a D_j leaves [0, j]: FALLBACK.
    """
    n = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(np.float64)
    j = np.arange(1, 4)
    if (n[j] > 0).all():
        D = j - (j + 1) * n[1] / (n[1] + 2 * n[2]) * n[j + 1] / n[j]
        if (D >= 0).all() and (j - D >= 0).all():
            return np.array([0.0, *D])
    return np.array([0.0, *FALLBACK])


SMOOTHING: dict[str, Callable[[Trie, list[np.ndarray], NGramSettings], Weights]] = {
    "mle": maximum_likelihood,
    "add-k": add_k,
    "stupid-backoff": stupid_backoff,
    "kneser-ney": kneser_ney,
    "infinite": kneser_ney,  # for the contexts that it can see whole; see suffix.py for longer ones
}
