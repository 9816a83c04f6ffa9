"""Personal data is found and replaced, kind by kind; what only looks like it stays."""

import importlib
import string
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect import config
from idiolect.errors import UserError
from idiolect.text.personal import checkdigits, detectors
from idiolect.text.personal.privacy import KINDS, Labelled, Redactor, Score, Span, evaluate
from idiolect.text.settings import PrivacySettings

pytest.importorskip("phonenumbers")
ALL = PrivacySettings(redact=tuple(KINDS))
redact = Redactor(ALL)


@pytest.fixture(scope="module")
def personal():
    """The labelled set, which lies beside this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        return importlib.import_module("personal")


def test_each_kind_is_found_on_the_labelled_set_and_little_else(personal):
    labelled = personal.labelled()
    assert sum(not one.spans for one in labelled) >= 1000
    scores = evaluate(redact, labelled)
    for kind, score in scores.items():
        print(f"{kind:6} {score.found + score.missed:4} recall {score.recall:.4f} precision {score.precision:.4f}")
        assert score.found + score.missed >= 200
        assert score.recall >= 0.98 and score.precision >= 0.95, kind
    assert len(scores) == 7


def test_numbers_are_found_as_they_are_written_in_36_countries(personal):
    lines, rng, count = personal.prose(), personal.random.Random(1), Counter()
    negatives = list(personal.negatives(rounds=2))
    for region in personal.REGIONS:
        redactor = Redactor(PrivacySettings(redact=("phone",), regions=(region,)))
        score = evaluate(redactor, [*personal.at_home(rng, region, lines), *negatives])["phone"]
        count.update(score._asdict())
    assert len(personal.REGIONS) >= 30
    assert count["found"] / (count["found"] + count["missed"]) >= 0.98
    assert count["found"] / (count["found"] + count["wrong"]) >= 0.95


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Write to <jo@example.com>, or call.", "Write to <<EMAIL>>, or call."),
        ("jo@example.com, li@example.org", "<EMAIL>, <EMAIL>"),
        ("联系jo@example.com谢谢", "联系<EMAIL>谢谢"),
        ("jo [at] example [dot] co [dot] uk!", "<EMAIL>!"),
        ("Ring +44 (0)20 7946 0958 or (201) 555-0123 ext. 7.", "Ring <PHONE> or <PHONE>."),
        ("Tel 201 555 0123 / 201-555-0124", "Tel <PHONE> / <PHONE>"),
        ("http://8.8.8.8:80/ and [2a00:1450:4001:81b::200e]:443", "http://<IP>:80/ and [<IP>]:443"),
        ("4111 1111 1111 1111 12/27", "<CARD> 12/27"),
        ("to GB82 WEST 1234 5698 7654 32 now", "to <IBAN> now"),
        ("12345678Z, X1234567L, 078-05-1120", "<ID>, <ID>, <ID>"),
        ('{"api_key": "a1B2c3D4e5F6g7H8"}', '{"api_key": "<KEY>"}'),
        ("postgres://me:hunter22@db/x", "postgres://me:<KEY>@db/x"),
        ("AKIAIOSFODNN7EXAMPLE", "<KEY>"),
    ],
)
def test_a_find_is_replaced_by_its_kind(text, left):
    assert redact(text)[0] == left


@pytest.mark.parametrize(
    "text",
    [
        "upgrade to 1.2.3.4, not 10.0.0.1",
        "@property of pi@raspberrypi and git@github.com:owner/project.git",
        "4111 1111 1111 1112",  # the check digit is 1
        "GB82 WEST 1234 5698 7654 33",
        "12345678A",
        "left-pad@1.3.0 and icon@2x.png",
        "2015550123 people",  # no separator, no word
        "01234.000000 and +35236450.6 of clause 252.227-7013",
        "password = getpass.getpass()",
    ],
)
def test_what_only_looks_alike_stays(text):
    assert redact(text) == (text, Counter())


def test_only_the_kinds_that_are_asked_for():
    text = "jo@example.com 4111111111111111"
    assert Redactor(PrivacySettings())(text) == (text, Counter())
    assert Redactor(PrivacySettings(redact=("card",)))(text) == ("jo@example.com <CARD>", Counter(card=1))


def test_addresses_that_lead_nowhere_are_redacted_when_asked():
    text = "10.0.0.1 127.0.0.1 fe80::1 ::1 192.168.2.77"
    every = Redactor(PrivacySettings(redact=("ip",), every_address=True))
    assert Redactor(PrivacySettings(redact=("ip",)))(text)[0] == text
    assert every("host 10.0.0.1, fe80::1, ::1 and 192.168.2.77") == ("host <IP>, <IP>, <IP> and <IP>", Counter(ip=4))


def test_the_placeholder_is_what_one_says():
    redactor = Redactor(PrivacySettings(redact=("email", "key"), placeholder="[{kind}]"))
    assert redactor("jo@example.com")[0] == "[EMAIL]"
    assert redactor(redactor("x://a:secret1@b")[0]) == ("x://a:[KEY]@b", Counter())


def test_finds_never_overlap_and_the_surer_kind_wins():
    text = "-----BEGIN PRIVATE KEY-----\nMIIjo4111111111111111AKIAIOSFODNN7EXAMPLE\n-----END PRIVATE KEY-----"
    assert redact(text) == ("<KEY>", Counter(key=1))
    assert redact.find("mail https://jo:pass99@example.com/") == [Span(16, 22, "key")]


def test_a_key_without_its_end_is_hidden_too():
    assert redact("-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7")[0] == "<KEY>"


def test_a_region_or_placeholder_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="no region UK"):
        Redactor(PrivacySettings(redact=("phone",), regions=("UK",)))
    for bad in ("{knd}", "{", "call +1 201 555 0123"):
        with pytest.raises(UserError, match="placeholder"):
            Redactor(PrivacySettings(redact=("phone",), placeholder=bad))
    with pytest.raises(UserError, match="redact"):
        config.validate(PrivacySettings, {"redact": ["emial"]}, "mine.toml")


def test_without_the_package_only_phone_numbers_are_missed(monkeypatch):
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    assert Redactor(PrivacySettings(redact=("email",)))("a@b.example")[0] == "<EMAIL>"
    with pytest.raises(UserError, match=r"idiolect\[data\]"):
        Redactor(ALL)


PIECES = (
    "+1 201-555-0123|201 555 0123|jo@example.com|@|.|-| |(|1.2.3.4|8.8.4.4|4111111111111111|GB82WEST12345698765432|"
    "::|2a00:1450::1|AKIAIOSFODNN7EXAMPLE|password=|a1B2c3D4e5F6g7H8|://a:|12345678Z|[at]|\n|é|<EMAIL>|PESEL |tel |00"
)


@given(
    st.one_of(
        st.text(),
        st.lists(st.one_of(st.sampled_from(PIECES.split("|")), st.text(string.printable, max_size=3))).map("".join),
    )
)
def test_redacting_twice_changes_nothing(text):
    once, found = redact(text)
    assert redact(once) == (once, Counter())
    assert (once == text) == (not found)
    spans = redact.find(text)
    assert all(a.end <= b.start for a, b in zip(spans, spans[1:]))


@pytest.mark.parametrize(
    "seed",
    ["a", "1", "1 ", "1.", "(", "@", "a@", "a@a.", "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaa.", "sk-", "://a:", "::"]
    + ["2001:", "ab:", "=a", "DE12 1234 ", "A1", "[at]", "+1 201-555-0123 ", "201-555-0123-", "tel 1", "4111 ", "0"],
)
def test_time_grows_with_the_text_and_not_faster(seed):
    def seconds(size):
        text, least = (seed * size)[:size], float("inf")
        for _ in range(3):
            began = time.process_time()
            redact(text)
            least = min(least, time.process_time() - began)
        return least

    small, large = seconds(12_500), seconds(100_000)
    assert large < 40 * small + 0.05  # eight times the text; a square would be 64 times


# Check digits, each with an example that its authority, or a textbook, prints


@pytest.mark.parametrize(
    ("number", "valid"),
    [
        ("255081416802538", checkdigits.nir),
        ("2 55 08 14 168 025 38", checkdigits.nir),
        ("12345678Z", checkdigits.dni),
        ("X1234567L", checkdigits.dni),
        ("RSSMRA85T10A562S", checkdigits.codice_fiscale),
        ("111.444.777-35", checkdigits.cpf),
        ("85.07.30-033.28", checkdigits.belgian),
        ("131052-308T", checkdigits.hetu),
        ("44051401359", checkdigits.pesel),
        ("111222333", checkdigits.bsn),
        ("811218-9876", checkdigits.personnummer),
        ("11010519491231002X", checkdigits.resident),
        ("GB82WEST12345698765432", checkdigits.iban),
        ("DE89370400440532013000", checkdigits.iban),
        ("MT84MALT011000012345MTLCAST001S", checkdigits.iban),
        ("4111111111111111", checkdigits.card),
        ("378282246310005", checkdigits.card),
        ("6011111111111117", checkdigits.card),
        ("30569309025904", checkdigits.card),
        ("3530111333300000", checkdigits.card),
    ],
)
def test_a_known_number_is_valid_and_one_with_another_digit_is_not(number, valid):
    assert valid(number)
    at = next(i for i in range(len(number) - 3, 0, -1) if number[i].isdigit())
    wrong = number[:at] + str((int(number[at]) + 1) % 10) + number[at + 1 :]
    assert not valid(wrong)


def test_a_number_of_the_united_states_has_no_check_digit_but_some_that_are_never_given():
    assert checkdigits.ssn("078-05-1120")
    assert not any(map(checkdigits.ssn, ("000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000")))


def test_scores_are_shares_of_what_was_there_and_of_what_was_found():
    text = "a@b.example 1.2.3.4 c@d.example"
    truth = Labelled(text, (Span(0, 11, "email"), Span(12, 19, "ip")))
    scores = evaluate(Redactor(PrivacySettings(redact=("email", "ip"))), [truth])
    assert scores == {"email": Score(1, 0, 1), "ip": Score(0, 1, 0)}
    assert (scores["email"].recall, scores["email"].precision) == (1, 0.5)
    assert (scores["ip"].recall, scores["ip"].precision) == (0, 0)


def test_words_are_no_secret():
    assert not detectors.secret("your-api-key-goes-here")
    assert detectors.secret("a1B2c3D4e5F6g7H8")
