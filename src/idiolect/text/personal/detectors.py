"""Where personal data stands in a text, kind by kind. Each detector takes time linear in the text, whatever it holds.

Most texts hold none, so each first looks for what such data cannot be without: a few letters, or digits in a row. A
pattern that is sought in all of a text begins with the set of characters it can begin with, and looks back only behind
the first: sets are what the regular expressions of Python skip to quickly.

What is sought is ASCII, and so is what may not stand beside it (re.ASCII): in Chinese or Japanese a number stands
between letters without a space. A written-out escape, as in "\\n+1 …", is no letter before a number either.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator

from idiolect.text.personal import checkdigits

Spans = Iterator[tuple[int, int]]
"""(start, end) of each find, not in any order."""
Detector = Callable[[str], Spans]
Stretch = Callable[[str, int, int], Spans]
"""The same, of the part of a text between two places; what lies outside is looked at, but not found."""

# E-mail

LOCAL = re.compile(r"[0-9A-Za-z_.+%'&\u00c0-\u052f-]{0,64}")
"""Of a reversed text: what stands before the @. Latin, Greek and Cyrillic letters; others run on without a space."""
DOMAIN = re.compile(
    r"((?:[^\W_](?:[\w-]{0,61}[^\W_])?(?:\.|\s?[\[(]dot[\])]\s?)){1,8})(?:xn--[0-9a-z-]{2,59}|[A-Za-z]{2,24}|[^\W\d_a-zA-Z]{2,24})(?![(])"
)
AT = re.compile(r"@|\s?[\[(]at[\])]\s?")
SCALE = re.compile(r"\d(?:\.\d)?x\.")
"""icon@2x.png is a picture."""
SERVICES = ("git",)
"""Names of no person at any host: git@github.com."""


def emails(text: str) -> Spans:
    """Addresses as RFC 5322 has them in practice; also with [at] and [dot]. A host without a dot is none."""
    if "@" not in text and "at]" not in text and "at)" not in text:
        return
    for at in AT.finditer(text):
        end = at.start()
        local = LOCAL.match(text[max(0, end - 64) : end][::-1])
        assert local is not None
        name = local.group()[::-1]
        if text[max(0, end - len(name) - 1) : end - len(name) + 1] in ("\\n", "\\r", "\\t"):
            name = name[1:]
        name = name.lstrip("'.+%&-")
        domain = DOMAIN.match(text, at.end(), at.end() + 256)
        if not name or name[-1] == "." or name in SERVICES or not domain or SCALE.match(domain.group()):
            continue
        yield end - len(name), domain.end()


# Addresses on the net

ESCAPED = r"(?<=\\[nrt])"
"""Behind a written-out escape."""
IPV4 = re.compile(r"[0-9](?:(?<![\w.].)|(?<=\\[nrt].))[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\w|\.\w|-[A-Za-z])", re.ASCII)
IPV6 = re.compile(
    r"[23](?:(?<!\w.)(?<![0-9A-Fa-f:]:.)|(?<=\\[nrt].))[0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,8}(?![\w:])", re.ASCII
)
"""2000::/3 is all that was given out (RFC 4291, 2.4)."""
EVERY_IPV6 = re.compile(r"(?<![\w:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?![\w:])", re.ASCII)
NOT_AN_ADDRESS = re.compile(
    r"(?i)(?:\b(?:version|ver|v|release|rev(?:ision)?|section|sect?|chapter|clause|article|figure|table|appendix|item|"
    r"step|oid|build|firmware|driver)|§|[a-z]/)\W{0,3}$"
)
"""What stands before four numbers that are no address."""
AN_ADDRESS = re.compile(
    r"(?i)(?:\b(?:ip|ipv4|addr(?:ess)?|host|server|client|peer|gateway|dns|ping|ssh|remote|proxy)|://|@)\W{0,4}$"
)
SMALL = 25
"""Four numbers below are a version or a section unless something says that they are an address."""
NEAR = 20
"""Characters before a find in which a word may say what it is."""


def addresses(everything: bool = False) -> Detector:
    """IPv4 and IPv6 addresses that lead to a machine; with `everything`, private and reserved ones too."""

    def counts(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return everything or (address.is_global and not address.is_multicast)

    def find(text: str) -> Spans:
        for found in IPV4.finditer(text) if "." in text else ():
            octets = [int(part) for part in found.group().split(".")]
            before = text[max(0, found.start() - NEAR) : found.start()]
            if max(octets) > 255 or NOT_AN_ADDRESS.search(before):
                continue
            if max(octets) < SMALL and not AN_ADDRESS.search(before):
                continue
            if counts(ipaddress.IPv4Address(bytes(octets))):
                yield found.span()
        colons = "::" in text or text.count(":") >= 7  # of eight groups, some of which may be left out
        for found in (EVERY_IPV6 if everything else IPV6).finditer(text) if colons else ():
            shown = found.group()
            if shown.endswith(":") and not shown.endswith("::"):
                shown = shown[:-1]
            try:
                address = ipaddress.IPv6Address(shown)
            except ValueError:
                continue
            if counts(address) and any(c.isdigit() for c in shown):
                yield found.start(), found.start() + len(shown)

    return find


# Numbers with check digits

ISLAND = re.compile(r"[0-9](?:[ .()/+\-\u00a0\u2010-\u2015A-Z]{0,3}[0-9]){5,}")
"""What every card, national and phone number holds; most texts hold none."""
BEFORE, LETTERS, BEHIND = 32, 6, 4
"""Characters around an island: of a word that says what it is, of a number that begins with letters, of its end."""
START = rf"(?:(?<![\w.+-])|{ESCAPED})"
END = r"(?!\w|[.,-]\d)"
CARD = re.compile(
    rf"{START}(?:\d{{13,19}}|\d{{4}}([ -])\d{{4}}\1\d{{4}}\1\d{{1,4}}(?:\1\d{{3}})?|"
    rf"\d{{4}}([ -])\d{{6}}\2\d{{4,5}}){END}",
    re.ASCII,
)
FOUR_GROUPS = 19
"""Characters of 16 digits with three separators."""
IBAN = re.compile(
    r"[0-9]{2}(?:(?<=\b[A-Za-z]{2}..)|(?<=\\[nrt][A-Za-z]{2}..))"
    r"(?:[0-9A-Za-z]{11,30}|([ -])[0-9A-Za-z]{4}(?:\1[0-9A-Za-z]{4}){1,6}(?:\1[0-9A-Za-z]{1,3}\b)?)",
    re.ASCII,
)
"""From the third place on, where an IBAN has its check digits."""
ALNUM = re.compile("[0-9A-Za-z]")


def islands(text: str) -> list[tuple[int, int]]:
    """The stretches of a text in which numbers can lie that are long enough to be personal."""
    return [found.span() for found in ISLAND.finditer(text)]


def cards(text: str, start: int, end: int) -> Spans:
    """Numbers of payment cards, in one piece or in the groups that are printed on them."""
    for found in CARD.finditer(text, start, end + BEHIND):
        shown = found.group()
        for card in (shown, shown[:FOUR_GROUPS]) if found.group(1) else (shown,):  # what follows may be another number
            if checkdigits.card(card.replace(" ", "").replace("-", "")):
                yield found.start(), found.start() + len(card)


def ibans(text: str) -> Spans:
    """IBANs, in one piece or in groups of four."""
    at = 0
    while found := IBAN.search(text, at):
        start, at = found.start() - 2, found.start() + 2
        size = checkdigits.IBAN_LENGTHS.get(text[start : start + 2].upper(), 0)
        places = [i for i in range(start, found.end()) if text[i] not in " -"][:size]
        packed = "".join(text[i] for i in places)
        if size and not ALNUM.match(text, places[-1] + 1) and checkdigits.iban(packed):
            at = places[-1] + 1
            yield start, at


_NATIONAL = re.compile(
    rf"{START}(?:{'|'.join(f'(?P<{name}>{rule.pattern})' for name, rule in checkdigits.NATIONAL.items())}){END}",
    re.ASCII,
)
_CALLED = re.compile(rf"(?i)\b({'|'.join(checkdigits.CALLED)})(?: (?:no|nr|number)\.?)?[\s:=#\"']{{0,4}}$", re.ASCII)
_CALLED_SO = {name: re.compile(rf"{rule.pattern}(?!\w)", re.ASCII) for name, rule in checkdigits.CALLED.items()}


def national(text: str, start: int, end: int) -> Spans:
    """Numbers that states give to persons."""
    if called := _CALLED.search(text, max(0, start - BEFORE), start):
        name = called.group(1).lower()
        number = _CALLED_SO[name].match(text, start, end + BEHIND)
        if number and checkdigits.CALLED[name].valid(number.group()):
            yield number.span()
    for found in _NATIONAL.finditer(text, max(0, start - LETTERS), end + BEHIND):
        if checkdigits.NATIONAL[str(found.lastgroup)].valid(found.group()):
            yield found.span()


# Keys

LABEL = r"(?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY"
LINE, GAP = r"[0-9A-Za-z+/]{16,4096}={0,2}", r"(?:[\s\"',]|\\[nr])"
"""Of a key: what stands on a line, and between lines."""
TOKENS = {
    "AKIA": r"AKIA[A-Z2-7]{16}",
    "ASIA": r"ASIA[A-Z2-7]{16}",
    "ghp_": r"ghp_[0-9A-Za-z]{36,251}",
    "gho_": r"gho_[0-9A-Za-z]{36,251}",
    "ghu_": r"ghu_[0-9A-Za-z]{36,251}",
    "ghs_": r"ghs_[0-9A-Za-z]{36,251}",
    "ghr_": r"ghr_[0-9A-Za-z]{36,251}",
    "github_pat_": r"github_pat_[0-9A-Za-z_]{60,251}",
    "glpat-": r"glpat-[\w-]{20,64}",
    "xox": r"xox[abeoprs]-[0-9A-Za-z-]{10,250}",
    "hooks.slack.com/services/": r"hooks\.slack\.com/services/[0-9A-Za-z/]{20,80}",
    "_live_": r"[prsw]k_live_[0-9A-Za-z]{16,250}",
    "_test_": r"[prsw]k_test_[0-9A-Za-z]{16,250}",
    "sk-": r"sk-(?=[\w-]{0,60}\d)[\w-]{20,250}",
    "AIza": r"AIza[\w-]{35}",
    "hf_": r"hf_[A-Za-z]{30,40}",
    "npm_": r"npm_[0-9A-Za-z]{36}",
    "pypi-Ag": r"pypi-Ag[\w-]{50,250}",
    "SG.": r"SG\.[\w-]{22}\.[\w-]{43}",
    "eyJ": r"eyJ[\w-]{8,4096}\.eyJ[\w-]{8,4096}\.[\w-]{10,1024}",
    "PRIVATE KEY-": (
        rf"-----BEGIN {LABEL}-----(?:\s{{0,4}}[A-Z][A-Za-z-]{{2,20}}: [^\n]{{1,80}}\n){{0,4}}{GAP}{{0,12}}{LINE}"
        rf"(?:{GAP}{{1,12}}{LINE}){{0,800}}"
        rf"(?:(?:{GAP}{{1,12}}[0-9A-Za-z+/]{{1,15}}={{0,2}})?{GAP}{{0,12}}-----END {LABEL}-----)?"
    ),
}
"""What a token cannot be without → what it looks like, by the documentation of who gives it out."""
_TOKENS = {
    literal: re.compile(rf"(?:(?<!\w)|{ESCAPED}|(?=-)){pattern}(?!\w)", re.ASCII) for literal, pattern in TOKENS.items()
}
VALUE = re.compile(
    r"[=:]>?\s{0,2}[\"'`]?(?:Bearer )?([0-9A-Za-z+/_.~-]{15,512}[0-9A-Za-z+/_~-]={0,2})(?![\w(\[])", re.ASCII
)
NAME = re.compile(
    r"(?i)(?:(?:api|access|auth|secret|private|encryption|signing|account|master)[_ -]?key|token|secret|passw(?:or)?d|"
    r"pwd|passphrase|credentials?|authorization)[\"'`]?\s{0,2}:?$"
)
"""What a secret is assigned to."""
IN_A_URL = re.compile(r"(?<=://)[^\s/:@\"'<>]{0,64}:([^\s/:@\"'<>{}$]{3,128})@")
ENTROPY = 3.0
"""Bits a character, of its own letters, that a secret has at least; words have less."""


def keys(text: str) -> Spans:
    """Tokens and keys that are known by their form, and secrets that are known by what is assigned to."""
    underscore = "_" in text
    for literal, pattern in _TOKENS.items():
        if (underscore or "_" not in literal) and literal in text:
            yield from (found.span() for found in pattern.finditer(text))
    for found in VALUE.finditer(text):
        if NAME.search(text[max(0, found.start() - 24) : found.start()]) and secret(found.group(1)):
            yield found.span(1)
    if "://" in text and "@" in text:
        yield from (found.span(1) for found in IN_A_URL.finditer(text))


def secret(value: str) -> bool:
    """Whether a string is more than words: letters and digits, and at least ENTROPY bits a character."""
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value) and bits >= ENTROPY
