"""From counts to log-probabilities: maximum likelihood, add-k, stupid backoff, interpolated modified Kneser-Ney.

Each becomes one `Weights`: a score for every sequence that was counted, and what is added to a shorter context's score
where it was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from idiolect.models.ngram_counts import Trie, read_so_far, shift, slices
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

    def score(self, tokens: np.ndarray, walk: Iterable[tuple[np.ndarray, np.ndarray]] | None = None) -> np.ndarray:
        """log p(tokens[b, t] | tokens[b, :t]) for int64 [B, W] → float64 [B, W].

        Where tokens are NONE a new text begins, and the result means nothing. `walk` may give what trie.walk does.
        """
        base, unseen = self.weights.base, self.weights.unseen_context
        before = shift(read_so_far(tokens, self.trie.symbols))
        out = self.weights.scores[0][tokens]
        for order, (contexts, nodes) in enumerate(self.trie.walk(tokens) if walk is None else walk, start=1):
            if order == 1:
                continue
            if base is not None or unseen:
                deep = before >= order - 1
                out = np.where(deep, (out if base is None else base[tokens]) + np.where(contexts < 0, unseen, 0.0), out)
            at = np.flatnonzero(contexts >= 0)
            out.flat[at] += self.weights.backoffs[order - 2][contexts.take(at)]
            at = np.flatnonzero(nodes >= 0)
            out.flat[at] = self.weights.scores[order - 1][nodes.take(at)]
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
    """In place."""
    with np.errstate(divide="ignore"):
        return np.log(values, out=values)


def _context_totals(trie: Trie, order: int, counts: np.ndarray) -> np.ndarray:
    """The sum over each context's continuations of their `counts` [n_order], float64 [n_(order - 1)]."""
    totals = np.zeros(trie.nodes(order - 1))
    for part, parent, _ in trie.pieces(order):
        totals[parent[0] : parent[-1] + 1] = np.bincount(parent - parent[0], weights=counts[part])
    return totals


def _relative(trie: Trie, counts: list[np.ndarray], added: float = 0.0, kinds: int = 0) -> tuple[np.ndarray, ...]:
    """log (c(ctx w) + added) / (c(ctx) + added · kinds) for every order."""
    scores = [_log((counts[0] + added) / (counts[0].sum() + added * kinds))]
    for order in range(2, trie.order + 1):
        totals, p = _context_totals(trie, order, counts[order - 1]), np.empty(trie.nodes(order))
        for part, parent, _ in trie.pieces(order):
            p[part] = (counts[order - 1][part] + added) / (totals[parent] + added * kinds)
        scores.append(_log(p))
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
    a, _ = next(adjusted)
    D = discounts(a)
    total = a.sum()
    mass = D[np.minimum(a, 3)].sum() / total
    p = np.where(allowed, (a - D[np.minimum(a, 3)]) / total + mass / allowed.sum(), 0.0)
    scores, backoffs = [], []
    for order, (a, suffix) in enumerate(adjusted, start=2):
        D, lower, p, gammas = discounts(a), p, np.empty(len(a)), np.ones(len(p))
        for part, parent, _ in trie.pieces(order):
            first, parent = parent[0], parent - parent[0]
            discount = D[np.minimum(a[part], 3)]
            A = np.bincount(parent, weights=a[part])
            gamma = np.bincount(parent, weights=discount)
            gamma = np.divide(gamma, A, out=np.ones_like(A), where=A > 0)
            gammas[first : first + len(A)] = gamma
            p[part] = (a[part] - discount) / A[parent] + gamma[parent] * lower[suffix[part]]
        scores.append(_log(lower))
        backoffs.append(_log(gammas))
    return Weights((*scores, _log(p)), tuple(backoffs))


def adjusted_counts(trie: Trie, counts: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For order 1 … N: (adjusted counts, the node of each sequence without its first token; none for order 1).

    Adjusted counts, int64 [n_k], are raw for the highest order and after a text's beginning, else distinct tokens
    before.
    """
    suffixes, suffix = trie.suffixes(), np.empty(0, dtype=np.int64)
    first, last = trie.symbols.begin, trie.symbols.begin + 1  # the nodes that start with begin-of-text lie together
    for order in range(1, trie.order):
        longer = next(suffixes)
        adjusted = np.bincount(longer, minlength=trie.nodes(order))
        if order > 1:  # </s> is not begin-of-text
            adjusted[first:last] = counts[order - 1][first:last]
        yield adjusted, suffix
        suffix = longer
        first, last = trie.keys[order - 1].searchsorted(
            [first * trie.symbols.vocabulary, last * trie.symbols.vocabulary]
        )
    yield counts[-1], suffix


def discounts(adjusted: np.ndarray) -> np.ndarray:
    """[0, D1, D2, D3+] by Chen and Goodman 1998 (TR-10-98), eq. 26.

    D_j = j - (j + 1) Y n_(j+1) / n_j with Y = n1 / (n1 + 2 n2), where n_j is how many sequences have the adjusted
    count j. Where some n_j (j ≤ 3) is 0 or a D_j leaves [0, j]: FALLBACK.
    """
    n = np.zeros(6)
    for part in slices(len(adjusted)):
        n += np.bincount(np.minimum(adjusted[part], 5), minlength=6)
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
