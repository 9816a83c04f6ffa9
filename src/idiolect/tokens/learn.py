"""Learning a tokenizer from text: the words that come, and which pieces of them get an id.

The same text always gives the same tokenizer, to the byte.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tokenizers
from tokenizers.trainers import BpeTrainer, WordLevelTrainer

from idiolect import seeds
from idiolect.errors import UserError
from idiolect.tokens import patterns, unigram
from idiolect.tokens.describe import Spec, byte_characters, byte_level, control_token
from idiolect.tokens.roles import END, PAD, UNKNOWN, Roles
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer, stretches

CONTINUED = "##"
"""What a WordPiece that does not begin a word begins with."""
LONGEST_WORDPIECE_WORD = 100
"""Characters of the longest word that is cut into pieces; longer ones are unknown (BERT)."""
TWICE = 2
"""How often a pair must come to be merged; one that comes once teaches nothing."""
SMALLEST = {"char": 259, "bpe": 258, "unigram": 258, "word": 4, "wordpiece": 7}
"""Least tokens of a vocabulary: the special ones, 256 bytes where nothing is lost, and room for a few more."""
_FREE_OF_PATTERN = ("byte", "char")


def train(
    texts: Iterable[str], settings: TokenizerSettings, *, sampled: Callable[[int, int], None] | None = None
) -> Tokenizer:
    """Learns a tokenizer from texts, read once as a stream; with `settings.from_` it loads that one instead.

    `sampled` is told how many bytes were learnt from, and of how many, when these are not all (`settings.sample`).
    Raises UserError for a text without text, a pattern that cannot be used, and a size that is too small for the
    kind or (bpe, wordpiece, unigram) larger than the text supports.
    """
    if settings.from_ is not None:
        return Tokenizer.load(settings.from_)
    _check(settings)
    pieces: Iterable[str] = _pieces(texts, settings)
    if settings.kind not in _FREE_OF_PATTERN:
        kept, total = sample(pieces, settings.sample)
        learnt = sum(map(len, kept))
        if learnt < total and sampled is not None:
            sampled(learnt, total)
        pieces = (kept.pop().decode() for _ in range(len(kept)))  # each goes as soon as it is read
    model = LEARNERS[settings.kind](pieces, settings)
    return _assembled(model, settings)


def sample(pieces: Iterable[str], most: int) -> tuple[list[bytes], int]:
    """(pieces of at most `most` bytes together, or a single one, in reverse order; the bytes of all pieces).

    Every piece draws a number, and those of the lowest numbers are kept: as soon as there is too much, half of them. So
    memory is bounded, the text is read once, and no order in it, such as languages that take turns, has an effect.
    """
    draw = seeds.numpy_generator(0, "sample").random
    kept: list[tuple[float, bytes]] = []
    below, held, total = 1.0, 0, 0
    for piece in pieces:
        number, text = draw(), piece.encode()
        total += len(text)
        if number >= below:
            continue
        kept.append((number, text))
        held += len(text)
        while held > most and len(kept) > 1:
            below = sorted(number for number, _ in kept)[len(kept) // 2]
            kept = [one for one in kept if one[0] < below]
            held = sum(len(text) for _, text in kept)
    return [text for _, text in reversed(kept)], total


def from_vocabulary(pieces: Sequence[str], settings: TokenizerSettings) -> Tokenizer:
    """A word or wordpiece tokenizer with the given pieces (those within words begin with ##); nothing is learnt."""
    _check(settings)
    names = [END, PAD, UNKNOWN, *pieces]
    if settings.kind not in ("word", "wordpiece") or len(set(names)) < len(names):
        raise UserError("a vocabulary can be given to word and wordpiece only, each piece once", "mend the list")
    return _assembled(FROM_NAMES[settings.kind](names), settings)


def too_large(asked: int, possible: int) -> UserError:
    """The error for a vocabulary larger than the text supports."""
    return UserError(
        f"the text supports {possible} tokens at most, not the {asked} asked for",
        f"set tokenizer.size to {possible} or less, or give more text",
    )


def _check(settings: TokenizerSettings) -> None:
    if settings.pattern is not None:
        if settings.kind in _FREE_OF_PATTERN:
            raise UserError(f"a {settings.kind} tokenizer uses no pattern", "leave tokenizer.pattern unset")
        patterns.check(settings.pattern, "tokenizer.pattern")
    least = SMALLEST.get(settings.kind, 0)
    if settings.size < least:
        raise UserError(
            f"a {settings.kind} tokenizer needs at least {least} tokens, not {settings.size}",
            f"set tokenizer.size to {least} or more",
        )


def _pieces(texts: Iterable[str], settings: TokenizerSettings) -> Iterator[str]:
    """The texts in stretches that bound the library's memory. Raises UserError at the end of no text at all."""
    known = settings.pattern is None or settings.pattern in patterns.KNOWN
    cut = "anywhere" if settings.kind in _FREE_OF_PATTERN else "words" if known else "nowhere"
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield from stretches(text, cut)
    if empty:
        raise UserError("there is no text to learn a tokenizer from", "give files with text in them")


# --- what surrounds the model -------------------------------------------------------------------------------------


def _split(pattern: str, keep_rest: bool) -> dict[str, Any]:
    behavior = "Isolated" if keep_rest else "Removed"
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": not keep_rest}


def _before(settings: TokenizerSettings) -> dict[str, Any] | None:
    """How text is cut before the model sees it, in tokenizer.json's terms."""
    pattern = settings.pattern
    if settings.kind == "char":
        return None
    if settings.kind == "byte":
        return byte_level(use_regex=False)
    if settings.kind == "word":
        return _split(pattern or patterns.WORDS, keep_rest=False)
    if settings.kind == "wordpiece":
        return {"type": "BertPreTokenizer"} if pattern is None else _split(pattern, keep_rest=False)
    if pattern is None:
        return byte_level(use_regex=True)
    return {"type": "Sequence", "pretokenizers": [_split(pattern, keep_rest=True), byte_level(use_regex=False)]}


def _decoder(kind: str) -> dict[str, Any] | None:
    """How tokens become text again, in tokenizer.json's terms; words are joined by spaces."""
    if kind == "word":
        return None
    if kind == "wordpiece":
        return {"type": "WordPiece", "prefix": CONTINUED, "cleanup": False}
    if kind == "char":
        return {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    return byte_level(use_regex=True)


def _spec(model: dict[str, Any], settings: TokenizerSettings) -> Spec:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"} if settings.lowercase else None,
        "pre_tokenizer": _before(settings),
        "post_processor": None,
        "decoder": _decoder(settings.kind),
        "model": model,
    }


def _specials(kind: str) -> list[str]:
    return [END, PAD, UNKNOWN] if kind in ("word", "wordpiece") else [END, PAD]


def _assembled(model: dict[str, Any], settings: TokenizerSettings) -> Tokenizer:
    spec = _spec(model, settings)
    specials = _specials(settings.kind)
    spec["added_tokens"] = [control_token(i, name) for i, name in enumerate(specials)]
    return Tokenizer(spec, Roles(unknown=UNKNOWN if UNKNOWN in specials else None), settings.kind)


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


# --- the models, in tokenizer.json's terms ------------------------------------------------------------------------


def _bpe_model(names: Iterable[str], merges: Sequence[Any], byte_fallback: bool = False) -> dict[str, Any]:
    return {"type": "BPE", "vocab": _numbered(names), "merges": list(merges), "byte_fallback": byte_fallback}


def _word_model(names: Iterable[str]) -> dict[str, Any]:
    return {"type": "WordLevel", "vocab": _numbered(names), "unk_token": UNKNOWN}


def _wordpiece_model(names: Iterable[str]) -> dict[str, Any]:
    return {
        "type": "WordPiece",
        "vocab": _numbered(names),
        "unk_token": UNKNOWN,
        "continuing_subword_prefix": CONTINUED,
        "max_input_chars_per_word": LONGEST_WORDPIECE_WORD,
    }


def _fed(texts: Iterable[str], settings: TokenizerSettings, trainer: Any, model: dict[str, Any]) -> dict[str, Any]:
    """The model the library's trainer makes of the texts, cut as the settings say."""
    native = tokenizers.Tokenizer.from_str(json.dumps(_spec(model, settings)))
    native.train_from_iterator(texts, trainer)
    return json.loads(native.to_str())["model"]


def _counted(texts: Iterable[str], settings: TokenizerSettings) -> dict[str, int]:
    """How often each word comes, words as the settings cut them; counted by the library, with all cores."""
    trainer = BpeTrainer(vocab_size=0, show_progress=False)
    _fed(texts, settings, trainer, _bpe_model([], []))
    return json.loads(trainer.__getstate__())["BpeTrainer"]["words"]


def _learn_byte(texts: Iterable[str], settings: TokenizerSettings) -> dict[str, Any]:
    """A token for each byte, id byte + 2; nothing is learnt."""
    for _ in texts:
        pass
    ordered = sorted(byte_characters().items(), key=lambda item: item[1])
    return _bpe_model([END, PAD, *(character for character, _ in ordered)], [])


def _learn_char(texts: Iterable[str], settings: TokenizerSettings) -> dict[str, Any]:
    """The most frequent characters, in code point order; all others are spelled by the tokens of their bytes."""
    normalizer = tokenizers.normalizers.Lowercase() if settings.lowercase else None
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(normalizer.normalize_str(text) if normalizer else text)
    frequent = sorted(seen, key=lambda c: (-seen[c], c))[: settings.size - 258]
    return _bpe_model([END, PAD, *(f"<0x{b:02X}>" for b in range(256)), *sorted(frequent)], [], byte_fallback=True)


def _learn_bpe(texts: Iterable[str], settings: TokenizerSettings) -> dict[str, Any]:
    """Byte pair encoding (Sennrich et al. 2016) over bytes: the most frequent pair is merged, ties by lower ids."""
    trainer = BpeTrainer(
        vocab_size=settings.size,
        min_frequency=TWICE,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(byte_characters()),
        show_progress=False,
    )
    model = _fed(texts, settings, trainer, _bpe_model([], []))
    if len(model["vocab"]) < settings.size:
        raise too_large(settings.size, len(model["vocab"]))
    return model


def _learn_unigram(texts: Iterable[str], settings: TokenizerSettings) -> dict[str, Any]:
    """Unigram over bytes; see `tokens.unigram`."""
    table = byte_characters()
    spelling = {byte: character for character, byte in table.items()}
    words = {bytes(map(table.__getitem__, word)): count for word, count in _counted(texts, settings).items()}
    pieces = unigram.learn(words, settings.size - 2)
    if len(pieces) + 2 < settings.size:
        raise too_large(settings.size, len(pieces) + 2)
    spelled = [["".join(map(spelling.__getitem__, piece)), score] for piece, score in pieces]
    return {"type": "Unigram", "unk_id": None, "vocab": [[END, 0.0], [PAD, 0.0], *spelled], "byte_fallback": False}


def _learn_word(texts: Iterable[str], settings: TokenizerSettings) -> dict[str, Any]:
    """The most frequent words, ties in code point order."""
    trainer = WordLevelTrainer(
        vocab_size=settings.size, min_frequency=1, special_tokens=[END, PAD, UNKNOWN], show_progress=False
    )
    return _fed(texts, settings, trainer, _word_model([END, PAD, UNKNOWN]))


def _learn_wordpiece(texts: Iterable[str], settings: TokenizerSettings) -> dict[str, Any]:
    """Merges as in BPE over characters, those within a word apart from those that begin one; longest match encodes.

    Each character is a piece in both places; where there is no room for all, the most frequent take half of the
    vocabulary, and words with others are unknown. The library numbers characters within words in random order, and
    ties go by number: so the words are counted first, and the characters handed over in order.
    """
    words = _counted(texts, settings)
    seen: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            seen[character] += count
    room = settings.size - len(_specials("wordpiece"))
    most = len(seen) if 2 * len(seen) <= room else room // 4
    alphabet = sorted(sorted(seen, key=lambda c: (-seen[c], c))[:most])
    trainer = BpeTrainer(
        vocab_size=settings.size,
        min_frequency=TWICE,
        special_tokens=[*_specials("wordpiece"), *(CONTINUED + character for character in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUED,
        show_progress=False,
    )
    separator = next(character for character in map(chr, range(0xE000, 0xF900)) if character not in seen)
    native = tokenizers.Tokenizer(tokenizers.models.BPE(continuing_subword_prefix=CONTINUED))
    native.pre_tokenizer = tokenizers.pre_tokenizers.CharDelimiterSplit(separator)
    spelled = sorted(word for word in words if seen.keys() & set(word) <= set(alphabet))
    native.train_from_iterator(_repeated(spelled, words, separator), trainer)
    ids = native.get_vocab(with_added_tokens=True)
    if len(ids) < settings.size:
        raise too_large(settings.size, len(ids))
    return _wordpiece_model(sorted(ids, key=ids.__getitem__))


def _repeated(words: Iterable[str], counts: dict[str, int], separator: str) -> Iterator[str]:
    """Each word as often as it comes, in stretches of bounded length."""
    for word in words:
        for done in range(0, counts[word], 1000):
            yield (word + separator) * min(1000, counts[word] - done)


LEARNERS: dict[str, Callable[[Iterable[str], TokenizerSettings], dict[str, Any]]] = {
    "word": _learn_word,
    "char": _learn_char,
    "byte": _learn_byte,
    "bpe": _learn_bpe,
    "wordpiece": _learn_wordpiece,
    "unigram": _learn_unigram,
}
FROM_NAMES: dict[str, Callable[[Iterable[str]], dict[str, Any]]] = {"word": _word_model, "wordpiece": _wordpiece_model}
