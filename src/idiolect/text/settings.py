"""Settings of a curation: what becomes of raw documents; torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from idiolect.config import Settings

Share = Annotated[float, Field(ge=0, le=1)]


class ReadingSettings(Settings):
    """How documents are found in files."""

    document: Literal["file", "paragraph", "line"] = "file"
    """What one document of a plain text file is; a row, page or record is always one document."""
    field: str = "text"
    """The field of a jsonl, csv or parquet row that holds the text."""
    html: Literal["main", "all"] = "main"
    """What is read of a web page: its main content, or all its text with menus and footers."""
    largest: int = Field(default=8 << 20, ge=1)
    """Bytes of a document, as it lies in its file; a larger one is left out."""
    deadline: float = Field(default=5.0, gt=0)
    """Seconds that reading one page may take; it is then left out."""
    max_bad: float = Field(default=0.01, ge=0, le=1)
    """The share of a file's rows that may be unreadable; with more the file is refused."""


class NormaliseSettings(Settings):
    """How a text is written, whatever it says."""

    repair: bool = True
    """Mend text that was decoded with the wrong encoding."""
    unicode: bool = True
    """Write each character in its one composed form (Unicode NFC)."""
    control: bool = True
    """Leave out control characters and characters that stand for nothing."""
    whitespace: bool = True
    """Unix line ends, no blanks at the ends of lines, at most one empty line together, none at the ends."""


class LanguageSettings(Settings):
    """Which languages are kept."""

    keep: tuple[str, ...] = ()
    """ISO 639-1 codes of the languages that are kept; none: all of them."""
    min_probability: Share = 0.65
    """How sure the language must be, where languages are chosen."""


class LengthSettings(Settings):
    """How long a document may be. Words are what white space sets apart."""

    min_characters: int = Field(default=1, ge=0)
    """Fewest characters."""
    max_characters: int = Field(default=10_000_000, ge=1)
    """Most characters."""
    min_words: int = Field(default=1, ge=0)
    """Fewest words."""
    max_words: int = Field(default=1_000_000, ge=1)
    """Most words."""


class GopherQualitySettings(Settings):
    """Documents that read as prose. Words and punctuation marks count apart, except where words alone are named."""

    min_words: int = Field(default=50, ge=0)
    """Fewest words."""
    max_words: int = Field(default=100_000, ge=1)
    """Most words."""
    min_word_length: float = Field(default=3.0, ge=0)
    """Smallest mean length of a word, in characters."""
    max_word_length: float = Field(default=10.0, ge=0)
    """Largest mean length of a word, in characters."""
    max_symbols: float = Field(default=0.1, ge=0)
    """Most hashes, and most ellipses, per word or mark."""
    max_bullet_lines: Share = 0.9
    """Largest share of lines that begin with a bullet point."""
    max_ellipsis_lines: Share = 0.3
    """Largest share of lines that end in an ellipsis."""
    min_with_letters: Share = 0.8
    """Smallest share of words and marks that hold a letter."""
    min_common_words: int = Field(default=2, ge=0)
    """How many of the common words must be there."""
    common_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Words that running text of the language cannot do without."""


class GopherRepetitionSettings(Settings):
    """Documents that do not repeat themselves; shares of the characters are of all of the text."""

    paragraphs: Share = 0.3
    """Largest share of paragraphs that stood before."""
    paragraph_characters: Share = 0.2
    """Largest share of characters in such paragraphs."""
    lines: Share = 0.3
    """Largest share of lines that stood before."""
    line_characters: Share = 0.2
    """Largest share of characters in such lines."""
    top_runs: tuple[Share, ...] = (0.2, 0.18, 0.16)
    """Largest share of characters in the most frequent run of 2, 3, 4 … words, where it comes more than once."""
    repeated_runs: tuple[Share, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.1)
    """Largest share of characters in runs that stood before, of the next lengths on: 5, 6 … 10 words."""


class C4Settings(Settings):
    """The rules of C4: the first ones take lines out where `clean` names c4, the last ones drop documents."""

    terminal_punctuation: bool = True
    """Leave out lines that do not end in a terminal punctuation mark or a closing quotation mark."""
    min_words_per_line: int = Field(default=5, ge=0)
    """Leave out lines of fewer words."""
    max_word_length: int = Field(default=1000, ge=1)
    """Leave out lines with a longer word, in characters."""
    javascript: bool = True
    """Leave out lines that speak of Javascript."""
    policies: bool = True
    """Leave out lines about cookies, privacy and terms of use."""
    citations: bool = True
    """Take marks like [1], [edit] and [citation needed] out of lines."""
    lorem_ipsum: bool = True
    """Drop documents with placeholder text."""
    curly_brackets: bool = True
    """Drop documents with a curly bracket, as most of them are code."""
    min_sentences: int = Field(default=3, ge=0)
    """Drop documents of fewer sentences."""


class FineWebSettings(Settings):
    """The rules that FineWeb adds to those of C4 and Gopher."""

    min_ended_lines: Share = 0.12
    """More than this share of lines ends in punctuation."""
    max_short_lines: Share = 0.67
    """Less than this share of lines is short."""
    short_line: int = Field(default=30, ge=0)
    """Characters from which on a line is not short."""
    max_repeated_characters: Share = 0.1
    """Less than this share of characters is in lines that stood before; the code that made FineWeb has 0.01."""
    max_line_breaks: float = Field(default=0.3, ge=0)
    """Most line breaks per word or punctuation mark."""


class SymbolSettings(Settings):
    """Documents that consist of letters."""

    max_share: Share = 0.4
    """Largest share of characters that are digits, marks or white space."""


class DecontaminateSettings(Settings):
    """Evaluation sets that the corpus must not hold."""

    against: tuple[Path, ...] = ()
    """Evaluation sets, as files or folders: a row of jsonl or parquet, or a paragraph of plain text, is an example."""
    words: int = Field(default=13, ge=1, le=100)
    """Words in a row that a document and an example must share to overlap."""
    min_words: int = Field(default=8, ge=1, le=100)
    """Words that an example must have to be looked for; one with less than `words` must be shared as a whole."""

    @model_validator(mode="after")
    def _fewer(self) -> Self:
        if self.min_words > self.words:
            raise ValueError(f"decontaminate.min_words={self.min_words} is more than decontaminate.words={self.words}")
        return self


class ClassifierSettings(Settings):
    """How classifiers of texts are trained."""

    characters: int = Field(default=3000, ge=100)
    """Characters of a text that are looked at; longer training texts are cut into passages of that length."""
    passages: int = Field(default=10_000, ge=10)
    """Most passages of each kind."""
    bits: int = Field(default=18, ge=8, le=24)
    """Words and pairs of words are hashed into two to the power of this many places, four bytes each."""
    epochs: int = Field(default=5, ge=1)
    """Passes over the passages."""
    learning_rate: float = Field(default=2.0, gt=0)
    """Size of the first step; it falls to 0."""
    held_out: float = Field(default=0.1, gt=0, le=0.5)
    """Share of the passages that is not trained on but measured."""
    seed: int = Field(default=0, ge=0)
    """Seed of what is drawn."""


class QualitySettings(Settings):
    """Documents that are like good ones, by a classifier that learns them from the rest of the heap."""

    good: tuple[Path, ...] = ()
    """Files or folders of good text: txt, md, jsonl or parquet."""
    rule: Literal["threshold", "pareto"] = "threshold"
    """threshold keeps what is probable enough; pareto also keeps some of the improbable, the fewer the less so."""
    threshold: Share = 0.5
    """Smallest probability of being good, were good and other text as frequent."""
    alpha: float = Field(default=9.0, gt=0)
    """The shape of the Pareto distribution: the larger, the fewer improbable documents are kept."""


class ToxicitySettings(Settings):
    """Documents without what a list of words or a file of labelled texts calls bad."""

    words: Path | None = None
    """A file of words and phrases, one a line; a document with one of them is dropped."""
    labelled: Path | None = None
    """A csv, tsv, jsonl or parquet file of texts with labels that a classifier learns from."""
    text_field: str = "text"
    """The field of a labelled row that holds the text."""
    label_field: str = "label"
    """The field of a labelled row that holds the label."""
    label: str = "1"
    """The label of what is dropped."""
    threshold: Share = 0.5
    """Probability of that label from which on a document is dropped, were both kinds as frequent."""

    @model_validator(mode="after")
    def _same(self) -> Self:
        if self.text_field == self.label_field:
            raise ValueError(f"text_field and label_field are both {self.text_field!r}")
        return self


class PerplexitySettings(Settings):
    """Documents that a model finds neither too strange nor too plain."""

    model: Path | None = None
    """The folder of a causal model, or its run: an n-gram is quick."""
    min: float = Field(default=0.0, ge=0)
    """Smallest perplexity per word."""
    max: float | None = Field(default=None, gt=0)
    """Largest perplexity per word; unset: any."""
    keep: float = Field(default=1.0, gt=0, le=1)
    """Share of the documents, those with the lowest perplexity, that is kept; measured on some of them beforehand."""
    documents: int = Field(default=2000, ge=10)
    """Documents it is measured on."""
    seed: int = Field(default=0, ge=0)
    """Seed of which they are."""


class UrlSettings(Settings):
    """Documents of one address."""

    drop: bool = True
    """Keep the first document of each address only."""


class ExactSettings(Settings):
    """Documents of one text."""

    drop: bool = True
    """Keep the first document of each text only."""


class NearSettings(Settings):
    """Documents of nearly one text."""

    drop: bool = True
    """Keep one of documents that are nearly the same."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """The Jaccard similarity of their shingles at which two documents are nearly the same."""
    shingle: int = Field(default=5, ge=1, le=100)
    """Words in a shingle."""
    bands: int = Field(default=16, ge=1, le=255)
    """Bands of the MinHash signature; documents that share one are compared."""
    rows: int = Field(default=6, ge=1, le=64)
    """Hashes in a band: more rows compare fewer documents, more bands miss fewer."""


class LinesSettings(Settings):
    """Lines that come again and again."""

    drop: bool = False
    """Keep the first of equal lines, over all documents, only."""
    min_characters: int = Field(default=20, ge=1)
    """Characters, white space around them apart, that a line must have to be left out; shorter ones are always kept."""


Personal = Literal["email", "phone", "ip", "card", "iban", "id", "key"]
"""Kinds of personal data that can be found."""


class PrivacySettings(Settings):
    """What is told of persons."""

    redact: tuple[Personal, ...] = ()
    """Kinds of personal data that are replaced by a placeholder."""
    regions: tuple[str, ...] = ("US", "GB")
    """ISO 3166 codes of the countries whose phone numbers are known as they are written there; with + all are."""
    every_address: bool = False
    """Redact private, reserved and local IP addresses too, which name no machine to the world."""
    placeholder: str = "<{kind}>"
    """What stands in the place of a find; {kind} is EMAIL, PHONE, …"""


CRAWLERS = (
    "*",
    "AI2Bot",
    "Amazonbot",
    "anthropic-ai",
    "Applebot-Extended",
    "Bytespider",
    "CCBot",
    "ClaudeBot",
    "cohere-training-data-crawler",
    "Diffbot",
    "Google-Extended",
    "GPTBot",
    "ImagesiftBot",
    "Meta-ExternalAgent",
    "omgili",
    "Timpibot",
)
"""All crawlers, and those that site owners name who do not want their pages to train models."""


class ConsentSettings(Settings):
    """Who agreed to what. Documents without an address are of no site."""

    allow: tuple[str, ...] = ()
    """For the filter sites: domains that are kept, with what lies below; none: all of them."""
    block: tuple[str, ...] = ()
    """For the filter sites: domains, or addresses with all below, that are left out."""
    allow_list: Path | None = None
    """A file of more to allow, one a line."""
    block_list: Path | None = None
    """A file of more to block, one a line."""
    robots: Path | None = None
    """For the filter robots: a folder with HOST/robots.txt, and HOST/ai.txt or HOST/tdmrep.json where there are."""
    agents: tuple[str, ...] = CRAWLERS
    """For the filter robots: crawlers of which none may be refused a page; * stands for what is said to all."""
    opted_out: Path | None = None
    """For the filter robots: a file of domains and addresses whose owners do not want to be trained on, one a line."""
    require_licence: bool = False
    """For the filter licence: leave out documents whose licence is not known, or grants nothing."""
    licences: tuple[str, ...] = ()
    """For the filter licence: the known licences that are kept; none: all of them. CC-BY stands for its versions."""
    refuse: tuple[str, ...] = ()
    """For the filter licence: licences that are left out."""
    removed: Path | None = None
    """For the filter removed: a file of ids, addresses or domains, one a line, whose documents are left out."""


TOLD = {
    "sites": ("consent.allow", "consent.block", "consent.allow_list", "consent.block_list"),
    "robots": ("consent.robots", "consent.opted_out"),
    "licence": ("consent.require_licence", "consent.licences", "consent.refuse"),
    "removed": ("consent.removed",),
    "language": ("language.keep",),
    "quality": ("quality.good",),
    "toxicity": ("toxicity.words", "toxicity.labelled"),
    "perplexity": ("perplexity.model",),
}
"""Filters that drop nothing that they are not told to, and what tells them."""


class CurateSettings(Settings):
    """A curation: the steps from raw documents to a corpus, in their order."""

    tokenizer: Path | None = None
    """A folder with a tokenizer in which the report counts tokens; unset: it counts words."""
    slices: tuple[str, ...] = ()
    """Columns of the text (source, language, or your own, such as dialect) by which the report tells whom each filter
    flags."""
    keep_dropped: bool = True
    """Keep what was dropped beside the corpus, redacted as it, with the reason."""
    read: ReadingSettings = ReadingSettings()
    """How documents are found in files."""
    normalise: NormaliseSettings = NormaliseSettings()
    """How a text is written."""
    clean: tuple[str, ...] = ()
    """The steps that take lines out of a text before it is filtered, in their order."""
    filters: tuple[str, ...] = ("removed", "sites", "robots", "licence", "language", "length")
    """The filters a document must pass, in their order. These drop nothing that they are not told to drop."""
    language: LanguageSettings = LanguageSettings()
    """The filter of languages."""
    length: LengthSettings = LengthSettings()
    """The filter of lengths."""
    gopher_quality: GopherQualitySettings = GopherQualitySettings()
    """The quality rules of Gopher."""
    gopher_repetition: GopherRepetitionSettings = GopherRepetitionSettings()
    """The repetition rules of Gopher."""
    c4: C4Settings = C4Settings()
    """The rules of C4."""
    fineweb: FineWebSettings = FineWebSettings()
    """The rules of FineWeb."""
    symbols: SymbolSettings = SymbolSettings()
    """The filter of digits and marks."""
    decontaminate: DecontaminateSettings = DecontaminateSettings()
    """The filter of evaluation sets."""
    classifier: ClassifierSettings = ClassifierSettings()
    """How the filters of quality and toxicity learn."""
    quality: QualitySettings = QualitySettings()
    """The filter of what is like good text."""
    toxicity: ToxicitySettings = ToxicitySettings()
    """The filter of toxic and adult text."""
    perplexity: PerplexitySettings = PerplexitySettings()
    """The filter of strange text."""
    consent: ConsentSettings = ConsentSettings()
    """Licences, robots.txt and removal lists."""
    privacy: PrivacySettings = PrivacySettings()
    """What is redacted."""
    url: UrlSettings = UrlSettings()
    """Documents of one address."""
    exact: ExactSettings = ExactSettings()
    """Documents of one text."""
    near: NearSettings = NearSettings()
    """Documents of nearly one text."""
    lines: LinesSettings = LinesSettings()
    """Lines that come again."""

    @model_validator(mode="after")
    def _no_effect(self) -> Self:
        for name, keys in TOLD.items():
            for key in keys if name not in self.filters else ():
                table, field = key.split(".")
                section = getattr(self, table)
                if getattr(section, field) != type(section).model_fields[field].default:
                    raise ValueError(f"{key} has no effect without the filter {name} in filters")
        return self

    @model_validator(mode="after")
    def _sets_to_look_for(self) -> Self:
        if "decontaminate" in self.filters and not self.decontaminate.against:
            raise ValueError("the filter decontaminate needs decontaminate.against, the files of evaluation sets")
        return self


class Curation(Settings):
    """A recipe for a curation."""

    curate: CurateSettings = CurateSettings()
    """The curation."""
