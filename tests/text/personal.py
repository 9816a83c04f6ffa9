"""Sentences with made-up personal data, and where it stands in them; and numbers that only look like it.

Check digits are computed here as their standards say, apart from the code that checks them. The prose is Python's own
language reference. Everything follows from a seed.
"""

import base64
import ipaddress
import itertools
import json
import random
import re
import string
import uuid
from pydoc_data.topics import topics

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from idiolect.text.personal.privacy import Labelled, Span

DIGITS, UPPER, LOWER, WORD = string.digits, string.ascii_uppercase, string.ascii_lowercase, string.ascii_letters
EACH = 200
"""Sentences for each kind that is drawn at random."""
COUNTRIES = (
    "US GB DE FR ES IT BR BE FI PL NL IN JP CN AU CA MX SE CH AT DK NO IE PT GR CZ HU RO TR ZA KR IL NZ AR UA SG"
)
REGIONS = COUNTRIES.split()
HOME = ("US", "GB")
"""Regions whose numbers are in the set as they are written at home, without a word that says what they are."""


def draw(rng, alphabet, length):
    return "".join(rng.choices(alphabet, k=length))


def prose():
    """Sentences of letters only, which hold nothing to find."""
    found = itertools.chain.from_iterable(
        re.findall(r"(?<=\. )[A-Z][a-z ,]{40,150}\.(?=\s)", text.replace("\n", " ")) for text in topics.values()
    )
    return sorted({" ".join(one.split()) for one in found})


# Numbers with check digits


def luhn(digits):
    """The check digit that ISO/IEC 7812-1 annex B gives: every second digit from the right doubled."""
    doubled = [int(d) * (2 - i % 2) for i, d in enumerate(reversed(digits))]
    return str(-sum(d - 9 * (d > 9) for d in doubled) % 10)


SCHEMES = {
    "Visa": (["4"], 16, (4, 4, 4, 4)),
    "Mastercard": (["51", "52", "53", "54", "55", "2221", "2500", "2720"], 16, (4, 4, 4, 4)),
    "American Express": (["34", "37"], 15, (4, 6, 5)),
    "Discover": (["6011", "65", "644", "649"], 16, (4, 4, 4, 4)),
    "JCB": (["3528", "3589"], 16, (4, 4, 4, 4)),
    "Diners Club": (["300", "305", "36", "38"], 14, (4, 6, 4)),
    "UnionPay": (["62"], 16, (4, 4, 4, 4)),
}


def grouped(text, sizes, separator):
    out, at = [], 0
    for size in sizes:
        out.append(text[at : at + size])
        at += size
    return separator.join(out)


def card(rng):
    prefixes, length, groups = rng.choice(list(SCHEMES.values()))
    prefix = rng.choice(prefixes)
    digits = prefix + draw(rng, DIGITS, length - 1 - len(prefix))
    return grouped(digits + luhn(digits), groups, rng.choice(["", " ", "-", " "]))


IBANS = {  # country: the account, n digits, a capitals, c either (ISO 13616 registry)
    "DE": "n18", "GB": "a4n14", "FR": "n10c11n2", "ES": "n20", "IT": "a1n10c12", "NL": "a4n10", "BE": "n12",
    "PL": "n24", "CH": "n5c12", "AT": "n16", "SE": "n20", "NO": "n11", "DK": "n14", "FI": "n14", "PT": "n21",
    "GR": "n7c16", "CZ": "n20", "HU": "n24", "RO": "a4c16", "IE": "a4n14", "MT": "a4n5c18", "SA": "n2c18",
    "TR": "n6c16", "BR": "n23a1c1", "LU": "n3c13",
}  # fmt: skip


def iban(rng):
    country = rng.choice(list(IBANS))
    alphabets = {"n": DIGITS, "a": UPPER, "c": UPPER + DIGITS}
    account = "".join(
        draw(rng, alphabets[kind], int(length)) for kind, length in re.findall(r"([nac])(\d+)", IBANS[country])
    )
    check = 98 - int("".join(str(int(c, 36)) for c in f"{account}{country}00")) % 97
    whole = f"{country}{check:02d}{account}"
    form = rng.choice(["plain", "groups", "groups", "lower"])
    if form == "groups":
        return " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))
    return whole.lower() if form == "lower" else whole


def birthday(rng):
    return rng.randint(40, 99), rng.randint(1, 12), rng.randint(1, 28)


def nir(rng):
    y, m, _ = birthday(rng)
    body = f"{rng.choice('12')}{y:02d}{m:02d}{rng.randint(1, 95):02d}{rng.randint(1, 990):03d}{rng.randint(1, 999):03d}"
    whole = f"{body}{97 - int(body) % 97:02d}"
    return rng.choice([whole, grouped(whole, (1, 2, 2, 2, 3, 3, 2), " ")])


def dni(rng):
    number, foreign = rng.randrange(10**7), rng.choice(["", "", "X", "Y", "Z"])
    number += 0 if foreign else 10**7 * rng.randrange(10)
    value = int(f"{'XYZ'.index(foreign) if foreign else ''}{number:07d}")
    shown = f"{foreign}{number:07d}" if foreign else f"{number:08d}"
    return shown + rng.choice(["", "-"]) + "TRWAGMYFPDXBNJZSQVHLCKE"[value % 23]


ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16]
        + [10, 22, 25, 24, 23],
    )
)


def codice_fiscale(rng):
    y, m, d = birthday(rng)
    consonants = "BCDFGLMNPRSTVZ"
    body = (
        f"{draw(rng, consonants, 6)}{y:02d}{'ABCDEHLMPRST'[m - 1]}{d + rng.choice([0, 40]):02d}"
        f"{rng.choice('ABCDEFGHILMZ')}{rng.randint(1, 999):03d}"
    )
    even = {c: (ord(c) - ord("A") if c.isalpha() else int(c)) for c in ODD}
    return body + UPPER[sum(ODD[c] if i % 2 == 0 else even[c] for i, c in enumerate(body)) % 26]


def cpf(rng):
    digits = [rng.randrange(10) for _ in range(9)]
    for weights in (range(10, 1, -1), range(11, 1, -1)):
        digits.append(sum(d * w for d, w in zip(digits, weights, strict=True)) * 10 % 11 % 10)
    a = "".join(map(str, digits))
    return rng.choice([f"{a[:3]}.{a[3:6]}.{a[6:9]}-{a[9:]}", f"CPF {a}"])


def belgian(rng):
    y, m, d = birthday(rng)
    body = f"{y:02d}{m:02d}{d:02d}{rng.randint(1, 997):03d}"
    a = f"{body}{97 - int(body) % 97:02d}"
    return rng.choice([f"{a[:2]}.{a[2:4]}.{a[4:6]}-{a[6:9]}.{a[9:]}", a])


def hetu(rng):
    y, m, d = birthday(rng)
    number = rng.randint(2, 899)
    check = "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(f"{d:02d}{m:02d}{y:02d}{number:03d}") % 31]
    return f"{d:02d}{m:02d}{y:02d}-{number:03d}{check}"


def pesel(rng):
    y, m, d = birthday(rng)
    body = f"{y:02d}{m:02d}{d:02d}{rng.randrange(10000):04d}"
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
    return f"PESEL {body}{-sum(int(c) * w for c, w in zip(body, weights, strict=True)) % 10}"


def bsn(rng):
    while True:
        body = draw(rng, DIGITS, 8)
        check = sum(int(c) * w for c, w in zip(body, range(9, 1, -1), strict=True)) % 11
        if check < 10 and body[0] != "0":
            return f"BSN {body}{check}"


def ssn(rng):
    area = rng.choice([*range(1, 666), *range(667, 900)])
    a = f"{area:03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"
    return rng.choice([a, f"SSN {a.replace('-', '')}", f"social security number {a}"])


def personnummer(rng):
    y, m, d = birthday(rng)
    body = f"{y:02d}{m:02d}{d:02d}{rng.randint(1, 999):03d}"
    return f"{rng.choice(['', '19'])}{body[:6]}-{body[6:]}{luhn(body)}"


def resident(rng):
    y, m, d = birthday(rng)
    body = f"{rng.choice(['110101', '310115', '440106'])}19{y:02d}{m:02d}{d:02d}{rng.randint(1, 999):03d}"
    check = (12 - sum(int(c) * pow(2, 17 - i, 11) for i, c in enumerate(body))) % 11
    return body + "0123456789X"[check]


IDS = (nir, dni, codice_fiscale, cpf, belgian, hetu, pesel, bsn, ssn, personnummer, resident)
CALLED = re.compile(r"^(?:CPF|PESEL|BSN|SSN|social security number) ")
"""Words that are part of the sentence, not of the number."""

# Addresses


def email(rng):
    names = ["anna", "jo.smith", "m.o'brien", "li_wei", "x", "Jean-Luc.Picard", "b2b", "first.last", "zoë", "INFO"]
    hosts = ["example.com", "mail.example.co.uk", "uni-bonn.de", "bücher.example", "x.io", "EXAMPLE.ORG"]
    hosts += ["a-b.museum", "xn--bcher-kva.example", "dept.corp.example.info", "nhs.uk"]
    name = rng.choice(names) + rng.choice(["", "", "+news", ".99", "%tag"])
    if rng.random() < 0.1:
        host = rng.choice(["example [dot] com", "example(dot)org"])
        return f"{name.replace('%', '')} [at] {host}" if "[" in host else f"{name.replace('%', '')}(at){host}"
    return f"{name}@{rng.choice(hosts)}"


def ip(rng):
    while rng.random() < 0.5:
        address = ipaddress.IPv4Address(rng.randrange(2**32))
        if address.is_global and not address.is_multicast and max(address.packed) > 24:
            return str(address)
    address = ipaddress.IPv6Address(
        (rng.choice([0x2A00, 0x2001, 0x2604]) << 112) | (rng.randint(0x470, 0xD00) << 96) | rng.getrandbits(96)
    )
    if rng.random() < 0.5:
        address = ipaddress.IPv6Address(int(address) >> 64 << 64 | rng.randrange(1, 2**16))
    return rng.choice([str(address), str(address), address.exploded, str(address).upper()])


def key(rng):
    b64 = WORD + DIGITS
    jwt = [json.dumps(x).encode() for x in ({"alg": "HS256", "typ": "JWT"}, {"sub": draw(rng, DIGITS, 10)})]
    jwt = [base64.urlsafe_b64encode(x).decode().rstrip("=") for x in jwt]
    pem = "\n".join(draw(rng, b64 + "+/", 64) for _ in range(3))
    return rng.choice(
        [
            f"AKIA{draw(rng, UPPER + '234567', 16)}",
            f"ghp_{draw(rng, b64, 36)}",
            f"github_pat_{draw(rng, b64, 22)}_{draw(rng, b64, 59)}",
            f"glpat-{draw(rng, b64, 20)}",
            f"xoxb-{draw(rng, DIGITS, 12)}-{draw(rng, DIGITS, 12)}-{draw(rng, b64, 24)}",
            f"sk_live_{draw(rng, b64, 24)}",
            f"sk-{draw(rng, b64, 48)}",
            f"AIza{draw(rng, b64 + '-_', 35)}",
            f"hf_{draw(rng, WORD, 34)}",
            f"npm_{draw(rng, b64, 36)}",
            f"SG.{draw(rng, b64, 22)}.{draw(rng, b64, 43)}",
            f"{jwt[0]}.{jwt[1]}.{draw(rng, b64 + '-_', 43)}",
            f"-----BEGIN RSA PRIVATE KEY-----\n{pem}\n-----END RSA PRIVATE KEY-----",
        ]
    )


def assigned(rng):
    """(the whole text, the secret in it): a secret that only the name before it tells from other strings."""
    while True:
        value = draw(rng, WORD + DIGITS, rng.choice([20, 32, 40]))
        if sum(c.isdigit() for c in value) >= 2:
            break
    form = rng.choice(
        [
            'api_key = "{}"',
            "API_KEY={}",
            '"client_secret": "{}",',
            "password: {}",
            "aws_secret_access_key = {}",
            "Authorization: Bearer {}",
            "https://host.example/?access_token={}",
            "postgres://admin:{}@db.internal/main",
            "auth-token='{}'",
        ]
    )
    return form.format(value), value


KINDS = {"email": email, "ip": ip, "card": card, "iban": iban, "key": key}
LEADS = {
    "email": ["Write to {}", "mailto:{}", "Contact: <{}>", "{} wrote:", "({})", "sent to {};", "e-mail: {}"],
    "ip": ["from {}", "Connection refused by {}:", "host={}", "[{}]", "the address {}", "{} - - GET /", "IP: {},"],
    "card": ["Paid with {}", "card number: {}", "({})", "Visa {}", "{}", '"pan": "{}"', "No. {} is blocked"],
    "iban": ["IBAN {}", "to the account {}", "({})", "IBAN: {}", "{}", "Konto {},"],
    "id": ["{}", "born under {}", "({})", "holder: {}", "id={}", "his number is {},"],
    "key": ["{}", "use {}", "'{}'", "KEY={}", "the line {}", "export X={}"],
    "phone": ["Call {}", "phone: {}", "({})", "{}", "Tel. {}", "reach us on {}, day or night", "{} (office)"],
}


def sentence(rng, lines, lead, value, kind, hidden=None):
    """Prose around a value that is to be found, or of which `hidden` is."""
    before, after = rng.choice(lines), rng.choice(lines)
    middle = lead.format(value)
    text = f"{before} {middle}{rng.choice(['.', '', ' and'])}{rng.choice([' ', chr(10)])}{after}"
    start = len(before) + 1 + lead.index("{}") + value.index(hidden or value)
    return Labelled(text, (Span(start, start + len(hidden or value), kind),))


def numbers():
    """(region, a number) of every region and type that has an example."""
    types = (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE, PhoneNumberType.TOLL_FREE)
    for region, type_ in itertools.product(REGIONS, types):
        if number := phonenumbers.example_number_for_type(region, type_):
            yield region, number


def phones(rng, lines):
    """Numbers as they are written abroad, and at HOME."""
    for region, number in numbers():
        shown = phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL)
        forms = [shown, phonenumbers.format_number(number, PhoneNumberFormat.E164), shown.replace("-", " ")]
        forms += [shown.replace(" ", "-"), shown.replace(" ", "."), f"{shown} ext. 123"]
        if region not in ("US", "CA", "AU", "JP", "KR", "BR", "SG", "FI"):  # where 00 is what one dials to go abroad
            forms.append("00" + shown[1:])
        if region in HOME:
            national = phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)
            forms += [national] * 3 + [national.replace("-", ".").replace(") ", ").")] * (region == "US")
        for form in forms:
            yield sentence(rng, lines, rng.choice(LEADS["phone"]), form, "phone")
        uri = phonenumbers.format_number(number, PhoneNumberFormat.RFC3966)
        yield sentence(rng, lines, "<a href='{}'>", uri, "phone", uri.removeprefix("tel:"))


def at_home(rng, region, lines):
    """The numbers of a region as they are written there: with separators, and without behind a word that says so."""
    for where, number in numbers():
        if where == region:
            national = phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)
            yield sentence(rng, lines, rng.choice(["Call {}", "phone: {}", "Tel. {}", "mobile {}"]), national, "phone")
            bare = re.sub(r"\D", "", national)
            yield sentence(rng, lines, rng.choice(["phone: {}", "Tel. {}", "mobile {}"]), bare, "phone")


AROUND = (
    '"{}"|«{}»|“{}”|‘{}’|[{}](page)|<td>{}</td>|a;{};b|a,{},b|({})|[{}]|{}!|{}?|{};|{}…|`{}`|**{}**|~{}~|—{}—|– {}|> {}'
    "|1. {}|- {}|{}:|{}/|x={}&y=1|{}。|：{}。|は{}です|电话{}号|и {} и|\\n{}\\n|\\t{}|\t{}\t|{}'s|#{}|a:\n{}"
)
"""What may stand around a find besides spaces, apart by strokes."""


def surrounded(rng, lines):
    """Every kind in all surroundings."""
    at_large = [number for region, number in numbers() if region in HOME]
    makers = KINDS | {
        "id": lambda rng: CALLED.sub("", rng.choice((nir, dni, codice_fiscale, belgian, hetu, resident))(rng)),
        "phone": lambda rng: phonenumbers.format_number(rng.choice(at_large), PhoneNumberFormat.INTERNATIONAL),
    }
    for kind, make in makers.items():
        for around in AROUND.split("|"):
            yield sentence(rng, lines, around, make(rng), kind)


def positives(seed=0):
    """Every kind, in sentences."""
    rng, lines = random.Random(seed), prose()
    for kind, make in KINDS.items():
        for _ in range(EACH):
            yield sentence(rng, lines, rng.choice(LEADS[kind]), make(rng), kind)
    for _ in range(EACH // 2):
        whole, value = assigned(rng)
        yield sentence(rng, lines, "{}", whole, "key", value)
    for make in IDS:
        for _ in range(EACH // 5):
            value = make(rng)
            yield sentence(rng, lines, rng.choice(LEADS["id"]), value, "id", CALLED.sub("", value))
    yield from phones(rng, lines)
    yield from surrounded(rng, lines)


def isbn13(rng):
    body = f"978{draw(rng, DIGITS, 9)}"
    check = -sum(int(c) * (1 + 2 * (i % 2)) for i, c in enumerate(body)) % 10
    return rng.choice([f"{body}{check}", f"978-{body[3]}-{body[4:8]}-{body[8:]}-{check}"])


def looks_alike(rng):
    """One of each sort of text that a careless rule would take for personal data."""
    d, h = (lambda n: draw(rng, DIGITS, n)), (lambda n: draw(rng, "0123456789abcdef", n))
    n = rng.randint
    package = rng.choice(["react", "lodash", "left-pad", "numpy"])
    return [
        f"version {n(0, 9)}.{n(0, 20)}.{n(0, 9)}.{n(0, 20)}",
        f"Release {n(1, 250)}.{n(0, 250)}.{n(0, 250)}.{n(0, 250)} is out",
        f"v{n(1, 99)}.{n(0, 99)}.{n(0, 99)}.{n(0, 99)}",
        f"Chrome/{n(50, 140)}.0.{n(100, 6000)}.{n(10, 200)}",
        f"upgrade to 1.{n(0, 9)}.{n(0, 9)}.{n(0, 9)} first",
        f"ISBN {isbn13(rng)}",
        f"ISBN-10: {n(0, 9)}-{d(4)}-{d(4)}-{n(0, 9)}",
        f"ISSN {d(4)}-{d(4)}",
        f"doi:10.{n(1000, 9999)}/{rng.choice(['journal.pone.', 's41586-', ''])}{d(7)}",
        f"https://doi.org/10.{n(1000, 9999)}/{d(4)}.{d(7)}",
        f"arXiv:{n(10, 24)}{n(1, 12):02d}.{d(5)}",
        f"{n(1900, 2030)}-{n(1, 12):02d}-{n(1, 28):02d}",
        f"{n(1, 28):02d}.{n(1, 12):02d}.{n(1900, 2030)} {n(0, 23):02d}:{n(0, 59):02d}:{n(0, 59):02d}",
        f"{n(1900, 2030)}-{n(1, 12):02d}-{n(1, 28):02d}T{n(0, 23):02d}:{n(0, 59):02d}:{n(0, 59):02d}.{d(6)}Z",
        f"{n(1, 12)}/{n(1, 28)}/{n(1900, 2030)}",
        f"{n(1900, 1999)}-{n(2000, 2030)}",
        f"the years {n(1900, 1950)}, {n(1951, 1980)}, {n(1981, 2000)} and {n(2001, 2030)}",
        f"{n(1900, 2030)}{n(1, 12):02d}{n(1, 28):02d}{n(0, 23):02d}{n(0, 59):02d}{n(0, 59):02d}",
        f"timestamp {n(10**9, 2 * 10**9)}",
        f"{n(10**12, 2 * 10**12)} ms since the epoch",
        f"${n(1, 999)},{d(3)},{d(3)}.{d(2)}",
        f"EUR {n(1, 999)}.{d(3)}.{d(3)},{d(2)}",
        f"£{n(1, 999)} {d(3)} {d(3)}",
        f"a population of {n(1, 999)},{d(3)},{d(3)}",
        f"0.{d(16)}",
        f"{n(0, 9)}.{d(15)}e-{n(10, 20)}",
        f"pi is 3.{d(20)}",
        f"md5 {h(32)}",
        f"sha1 {h(40)}",
        f"commit {h(40)}",
        f"sha256:{h(64)}",
        str(uuid.UUID(int=rng.getrandbits(128))),
        f"section {n(1, 20)}.{n(1, 20)}.{n(1, 20)}.{n(1, 20)}",
        f"§ {n(1, 200)}.{n(1, 200)}.{n(1, 200)}.{n(1, 200)}",
        f"see {n(1, 12)}.{n(1, 12)}.{n(1, 12)}.{n(1, 12)} for details",
        f"OID 1.3.6.1.4.1.{d(5)}.{n(1, 99)}",
        f"2.5.{n(1, 99)}.{n(1, 99)}.{n(1, 99)}",
        f"IMG_{d(8)}_{d(6)}.jpg",
        f"report-{n(1900, 2030)}-{d(6)}.pdf",
        f"icon@{n(2, 3)}x.png",
        f"{package}@{n(0, 30)}.{n(0, 30)}.{n(0, 30)}",
        ":".join(h(2) for _ in range(6)),
        "-".join(h(2).upper() for _ in range(6)),
        f"{n(-89, 89)}.{d(6)}, {n(-179, 179)}.{d(6)}",
        f"{n(0, 89)}°{n(0, 59)}'{n(0, 59)}\"N {n(0, 179)}°{n(0, 59)}'{n(0, 59)}\"E",
        rng.choice(["@property", "@pytest.mark.parametrize", "@functools.lru_cache(maxsize=1)", "@dataclass"]),
        rng.choice(["root@host:~$", "pi@raspberrypi", "user@localhost", "git@github.com:owner/project.git"]),
        rng.choice(["weights @ inputs.T", "x@w.T", "a @ b", "follow @someone", "lunch @ noon"]),
        f"127.0.0.{n(1, 255)}",
        rng.choice([f"192.168.{n(0, 255)}.{n(1, 254)}", f"10.{n(0, 255)}.{n(0, 255)}.{n(1, 254)}", "0.0.0.0"]),
        f"172.{n(16, 31)}.{n(0, 255)}.{n(1, 254)}/{n(8, 30)}",
        rng.choice(["255.255.255.0", "255.255.252.0", "224.0.0.251", "192.0.2.7", "203.0.113.9"]),
        f"{n(256, 999)}.{n(0, 255)}.{n(0, 255)}.{n(0, 255)}",
        rng.choice(["std::vector", "a::b", "Foo::bar()", "::1", "fe80::1", "2001:db8::1", "x[::2]", "dead::beef"]),
        f"{n(0, 23):02d}:{n(0, 59):02d}:{n(0, 59):02d}:{n(0, 24):02d}",
        f"chapter {n(1, 9)}:{n(1, 30)}-{n(31, 60)}",
        f"order {d(10)}",
        f"invoice no. {n(1900, 2030)}-{d(6)}",
        _bad_card(rng),
        _bad_iban(rng),
        f"scores of {', '.join(str(n(1, 99)) for _ in range(8))}",
        f"the matrix {' '.join(d(1) for _ in range(12))}",
        f"the table {' '.join(d(2) for _ in range(3))} {' '.join(d(3) for _ in range(2))}",
        f"rgb({n(0, 255)}, {n(0, 255)}, {n(0, 255)})",
        f"#{h(6)}",
        f"0x{h(16)}",
        f"part number {d(3)}-{d(5)}-{d(2)}",
        f"{d(5)}-{d(4)}",
        f"{n(10, 99)}/{n(10, 99)}/{n(100, 999)}",
        f"lines {n(100, 999)}-{n(1000, 9999)}",
        f"{n(1, 9)}-{n(1, 9)}, {n(1, 9)}-{n(1, 9)}, {n(1, 9)}-{n(1, 9)}",
        f"U+{h(4).upper()} U+{h(4).upper()}",
        f"1{d(3)} x {d(4)} pixels",
        f"password = getpass.getpass('{rng.choice(['Password: ', 'Again: '])}')",
        rng.choice(['api_key = "your-api-key-goes-here"', "token: string", "secret = os.environ['SECRET']"]),
        rng.choice(["-----BEGIN CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----", "eyJust a word", "AKIA is a prefix"]),
        f"cache_key = '{h(32)}'",
        f"sk-{rng.choice(['learn', 'toggleable', 'estimator-doc-link'])}",
        f"{UPPER[n(0, 25)]}{UPPER[n(0, 25)]}{d(2)} {d(4)}",
        f"GPU-{h(8)}",
        f"{n(1, 28)}. {rng.choice(['Mai', 'March', 'juin'])} {n(1900, 2030)}, {n(0, 23)}.{n(10, 59)}",
        f"RFC {n(1000, 9999)}, {n(1000, 9999)} and {n(1000, 9999)}",
        f"{d(3)} {d(3)} {d(3)} {d(3)} {d(3)}",
        f"{n(1, 5)} out of {n(5, 9)} in {n(1900, 2030)}",
    ]


def _bad_card(rng):
    digits = f"4{draw(rng, DIGITS, 14)}"
    return f"{digits}{(int(luhn(digits)) + rng.randint(1, 9)) % 10}"


def _bad_iban(rng):
    whole = f"DE{rng.randint(2, 98):02d}{draw(rng, DIGITS, 18)}"
    wrong = int(whole[4:] + "1314" + whole[2:4]) % 97 == 1
    return f"DE{(int(whole[2:4]) % 97) + 2:02d}{whole[4:]}" if wrong else whole


def negatives(seed=0, rounds=20):
    """Sentences in which nothing is to be found: more than a thousand."""
    rng, lines = random.Random(seed), prose()
    for _ in range(rounds):
        for value in looks_alike(rng):
            yield Labelled(f"{rng.choice(lines)} {value}{rng.choice(['.', '', ','])} {rng.choice(lines)}", ())


def labelled(seed=0):
    """The whole set."""
    return [*positives(seed), *negatives(seed)]
