"""One spelling for every way of writing an address."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from idiolect.text.duplicates.addresses import canonical

PAGE = "https://example.org/a/b?id=7&page=2"


@pytest.mark.parametrize(
    "written",
    [
        PAGE,
        " " + PAGE + "\n",
        "HTTPS://Example.ORG/a/b?id=7&page=2",
        "https://example.org:443/a/b?id=7&page=2",
        "https://example.org./a/b?id=7&page=2",
        "https://example.org/a/b/?id=7&page=2",
        "https://example.org/a/b?page=2&id=7",
        "https://example.org/a/b?id=7&page=2#top",
        "https://example.org/a/b?id=7&page=2#",
        "https://example.org/a/b?utm_source=x&id=7&UTM_Medium=y&page=2&gclid=z",
        "https://example.org/a/b?fbclid=1&id=7&&page=2&",
        "https://example.org/a/./c/../b?id=7&page=2",
        "https://example.org/%61/b?id=%37&page=2",
    ],
)
def test_other_spellings_are_one_address(written):
    assert canonical(written) == PAGE


@pytest.mark.parametrize(
    "other",
    [
        "http://example.org/a/b?id=7&page=2",
        "https://www.example.org/a/b?id=7&page=2",
        "https://example.org:8443/a/b?id=7&page=2",
        "https://example.org:80/a/b?id=7&page=2",
        "https://example.org/A/b?id=7&page=2",
        "https://example.org/a/b?id=7&page=3",
        "https://example.org/a/b?id=7&page=2&page=2",
        "https://example.org/a/b?id=7&page=",
        "https://example.org/a/b?id=7",
        "https://example.org/a%2Fb?id=7&page=2",
        "https://example.org/a/b?id=7&page=2#!/other",
        "https://user@example.org/a/b?id=7&page=2",
    ],
)
def test_other_pages_are_other_addresses(other):
    assert canonical(other) != PAGE


@pytest.mark.parametrize(
    ("written", "is_"),
    [
        ("http://EXAMPLE.org:80", "http://example.org"),
        ("http://example.org/", "http://example.org"),
        ("http://example.org/?utm_campaign=a", "http://example.org"),
        ("http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"),
        ("http://example.org/%e4%f6?q=%c3%a4", "http://example.org/%E4%F6?q=%C3%A4"),
        ("http://example.org/a b", "http://example.org/a%20b"),
        ("http://example.org/../../x/..", "http://example.org"),
        ("http://example.org:no/", "http://example.org:no/"),
        ("http://[half/", "http://[half/"),
        ("doi:10.1000/182/", "doi:10.1000/182/"),
        ("urn:isbn:0451450523", "urn:isbn:0451450523"),
        ("file:///home/x.txt", "file:///home/x.txt"),
        ("", ""),
    ],
)
def test_spelling(written, is_):
    assert canonical(written) == is_


PARTS = st.lists(st.sampled_from([*"aZ09%/.:@?#&=!;+~[] \t\n", "%2e", "%2F", "utm_", "..", "ä", "http://", "x.org"]))


@given(PARTS.map("".join), st.sampled_from(["", "http://", "HTTPS://example.org", "http://example.org/"]))
@example("/%2e%2e/a/..//", "http://example.org")
@example("?a=%75tm_source", "http://example.org")
@example("?%75tm_source=1", "http://example.org")
@example("/ ", "http://example.org")
def test_the_spelling_of_a_spelling_is_the_same(address, start):
    once = canonical(start + address)
    assert canonical(once) == once
