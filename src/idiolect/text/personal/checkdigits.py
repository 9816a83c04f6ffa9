"""Numbers that carry check digits: payment cards, IBANs, and what states give their inhabitants."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

_IBANS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
    "YE30"
)
IBAN_LENGTHS = {country[:2]: int(country[2:]) for country in _IBANS.split()}
"""Characters of an IBAN by country (ISO 13616 registry)."""
ISSUERS: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (4_000, 4_999, (13, 16, 19)),  # Visa
    (5_100, 5_599, (16,)),  # Mastercard
    (2_221, 2_720, (16,)),
    (3_400, 3_499, (15,)),  # American Express
    (3_700, 3_799, (15,)),
    (6_011, 6_011, (16,)),  # Discover
    (6_440, 6_599, (16,)),
    (3_528, 3_589, (16,)),  # JCB
    (3_000, 3_059, (14,)),  # Diners Club
    (3_600, 3_699, (14,)),
    (3_800, 3_899, (14,)),
    (6_200, 6_299, (16, 17, 18, 19)),  # UnionPay
)
"""First four digits, from and to, and lengths of the numbers that card schemes give (ISO/IEC 7812)."""


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it (ISO/IEC 7812-1, annex B)."""
    twice = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(twice)) % 10 == 0


def card(digits: str) -> bool:
    """Whether these are the digits of a payment card: issuer, length and check digit."""
    first = int(digits[:4])
    return any(low <= first <= high and len(digits) in sizes for low, high, sizes in ISSUERS) and luhn(digits)


def iban(text: str) -> bool:
    """Whether letters and digits without separators are an IBAN: length, and remainder 1 by 97 (ISO 13616)."""
    text = text.upper()
    return (
        len(text) == IBAN_LENGTHS.get(text[:2]) and int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1
    )


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _day(month: str, day: str) -> bool:
    return 1 <= int(month) <= 12 and 1 <= int(day) <= 31


def nir(text: str) -> bool:
    """French NIR: sex, year, month, department, commune, order; key = 97 - number mod 97. Corsica is 2A or 2B."""
    packed = "".join(text.split())
    number = packed[:13].replace("2A", "19").replace("2B", "18")
    return int(packed[13:]) == 97 - int(number) % 97


def dni(text: str) -> bool:
    """Spanish DNI and NIE: the letter is the number mod 23; X, Y, Z of a NIE count as 0, 1, 2."""
    number = text[:8].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return text[-1] == "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]


_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
"""Value of 0 … 9, or of A … Z, at the 1st, 3rd, … place of a codice fiscale (decree of 23 December 1976)."""


def codice_fiscale(text: str) -> bool:
    """Italian codice fiscale: the last letter is the sum of the values mod 26."""
    places = [int(c) if c.isdigit() else ord(c) - ord("A") for c in text]
    return places[-1] == (sum(_ODD[value] for value in places[:-1:2]) + sum(places[1:-1:2])) % 26


def cpf(text: str) -> bool:
    """Brazilian CPF: two check digits mod 11; eleven equal digits are none."""
    digits = [int(digit) for digit in _digits(text)]
    wanted = [sum(d * (n + 1 - i) for i, d in enumerate(digits[:n])) * 10 % 11 % 10 for n in (9, 10)]
    return digits[9:] == wanted and len(set(digits)) > 1


def belgian(text: str) -> bool:
    """Belgian national number: birthday, order, and 97 - number mod 97, with a 2 before it for births from 2000."""
    digits = _digits(text)
    check = int(digits[9:])
    return _day(digits[2:4], digits[4:6]) and check in (97 - int(digits[:9]) % 97, 97 - int(f"2{digits[:9]}") % 97)


def hetu(text: str) -> bool:
    """Finnish personal identity code: birthday, century, order, and a sign for the nine digits mod 31."""
    digits = _digits(text[:-1])
    return _day(text[2:4], text[:2]) and text[-1] == "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(digits) % 31]


def pesel(text: str) -> bool:
    """Polish PESEL: weights 1 3 7 9, sum divisible by ten."""
    return sum(int(c) * w for c, w in zip(text, (1, 3, 7, 9) * 2 + (1, 3, 1), strict=True)) % 10 == 0


def bsn(text: str) -> bool:
    """Dutch BSN: weights 9 … 2 and -1, sum divisible by eleven."""
    return sum(int(c) * w for c, w in zip(text, (9, 8, 7, 6, 5, 4, 3, 2, -1), strict=True)) % 11 == 0


def ssn(text: str) -> bool:
    """US social security number, which has no check digit: no area 000, 666 or 9xx, no group 00, no serial 0000."""
    digits = _digits(text)
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def personnummer(text: str) -> bool:
    """Swedish personnummer: birthday, order, Luhn over the last ten digits."""
    digits = _digits(text)[-10:]
    return _day(digits[2:4], digits[4:6]) and luhn(digits)


def resident(text: str) -> bool:
    """Chinese resident identity number: region, birthday, order, ISO 7064 mod 11-2."""
    values = [10 if c in "xX" else int(c) for c in text]
    total = sum(value * pow(2, 17 - i, 11) for i, value in enumerate(values))
    return _day(text[10:12], text[12:14]) and total % 11 == 1


class Number(NamedTuple):
    """A kind of national number."""

    pattern: str
    """What it looks like."""
    valid: Callable[[str], bool]


NATIONAL = {
    "fr": Number(r"[12] ?\d\d ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d", nir),
    "es": Number(r"(?:\d{8}|[XYZ]\d{7})-?[A-HJ-NP-TV-Z]", dni),
    "it": Number(r"[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]", codice_fiscale),
    "br": Number(r"\d{3}\.\d{3}\.\d{3}-\d\d", cpf),
    "be": Number(r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d|\d{11}", belgian),
    "fi": Number(r"\d{6}[-+A-FU-Y]\d{3}[A-FHJ-NPR-Y]", hetu),
    "fi_se": Number(r"\d{6}[-+]\d{4}", lambda text: hetu(text) or personnummer(text)),
    "us": Number(r"\d{3}-\d\d-\d{4}", ssn),
    "se": Number(r"(?:19|20)\d{6}-\d{4}", personnummer),
    "cn": Number(r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]", resident),
}
"""By country; no two have one form."""
_SSN, _BSN = Number(r"\d{3}[ -]?\d\d[ -]?\d{4}", ssn), Number(r"\d{9}", bsn)
CALLED = {
    "cpf": Number(r"\d{11}", cpf),
    "pesel": Number(r"\d{11}", pesel),
    "bsn": _BSN,
    "burgerservicenummer": _BSN,
    "sofinummer": _BSN,
    "ssn": _SSN,
    "social security": _SSN,
}
"""By the word that has to stand before, where more than one number in two hundred would pass by chance."""
