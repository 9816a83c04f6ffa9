"""The language of a text, by py3langid (Lui and Baldwin 2012), whose model lies in its package."""

from __future__ import annotations

import functools
import re
from typing import Any

from idiolect.errors import missing_extra

SAMPLES = (150, 900)
"""Characters of a long text that are looked at: first so few, and more where they leave a doubt."""
SURE = 0.99
"""The probability that leaves none."""


STATED = re.compile(r"\s*([A-Za-z]{2,3})(?:[-_][\w-]*)?\s*(?:[,;].*)?", re.ASCII)
"""A code, and what may come after it: script and region, as in zh-Hant-TW, or further languages."""
TWO_LETTERS = """
aar aa abk ab afr af aka ak amh am ara ar arg an asm as ava av aym ay aze az bak ba bam bm bel be ben bn bis bi bod bo
bos bs bre br bul bg cat ca ces cs cha ch che ce chv cv cor kw cos co cre cr cym cy dan da deu de div dv dzo dz ell el
eng en epo eo est et eus eu ewe ee fao fo fas fa fij fj fin fi fra fr fry fy ful ff gla gd gle ga glg gl glv gv grn gn
guj gu hat ht hau ha heb he her hz hin hi hrv hr hun hu hye hy ibo ig ido io iii ii iku iu ile ie ina ia ind id ipk ik
isl is ita it jav jv jpn ja kal kl kan kn kas ks kat ka kau kr kaz kk khm km kik ki kin rw kir ky kom kv kon kg kor ko
kua kj kur ku lao lo lat la lav lv lim li lin ln lit lt ltz lb lub lu lug lg mah mh mal ml mar mr mkd mk mlg mg mlt mt
mon mn mri mi msa ms mya my nau na nav nv nbl nr nde nd ndo ng nep ne nld nl nno nn nob nb nor no nya ny oci oc oji oj
ori or orm om oss os pan pa pol pl por pt pus ps que qu roh rm ron ro run rn rus ru sag sg san sa sin si slk sk slv sl
sme se smo sm sna sn snd sd som so sot st spa es sqi sq srd sc srp sr ssw ss sun su swa sw swe sv tah ty tam ta tat tt
tel te tgk tg tgl tl tha th tir ti ton to tsn tn tso ts tuk tk tur tr twi tw uig ug ukr uk urd ur uzb uz ven ve vie vi
wln wa wol wo xho xh yid yi yor yo zha za zho zh zul zu"""
"""The three letters that ISO 639-3 has for a language, and the two of ISO 639-1."""


@functools.cache
def _codes() -> dict[str, str]:
    words = TWO_LETTERS.split()
    return dict(zip(words[::2], words[1::2]))


def code(stated: str) -> str:
    """The ISO 639-1 code, where there is one, of the first language that is stated by code: "de" of "deu,eng"."""
    found = STATED.fullmatch(stated)
    short = found[1].lower() if found else stated
    return _codes().get(short, short)


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise missing_extra("data", "py3langid", "telling languages apart") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(text: str) -> tuple[str, float]:
    """The ISO 639-1 code of the language of `text` and its probability among the languages that are known.

    A text without letters has the language "und" (undetermined, ISO 639-2). Raises UserError without py3langid.
    """
    found = ("und", 1.0)
    for characters in SAMPLES:
        seen = sample(text, characters)
        if any(map(str.isalpha, seen)):
            code, probability = _identifier().classify(seen)
            found = str(code), float(probability)
            if probability >= SURE:
                break
    return found


def sample(text: str, characters: int) -> str:
    """The whole of a short text, else a third of that many characters each from its beginning, middle and end."""
    if len(text) <= characters:
        return text
    third, middle = characters // 3, len(text) // 2
    return f"{text[:third]}\n{text[middle - third // 2 : middle + third // 2]}\n{text[-third:]}"
