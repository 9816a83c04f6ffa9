"""Ids of documents."""

import hashlib

from idiolect.text.curation.identity import ID, identity


def test_the_id_is_that_of_the_address_and_the_text():
    by_hand = hashlib.blake2b(b"\5\0\0\0\0\0\0\0x:abc\4\0\0\0\0\0\0\0text", digest_size=16).hexdigest()
    assert identity("x:abc", "text") == by_hand
    assert len(by_hand) == ID


def test_one_page_has_one_id_however_its_address_is_written():
    assert identity("HTTPS://Example.com:443/a/?utm_source=x#top", "t") == identity("https://example.com/a", "t")


def test_another_text_or_another_page_has_another_id():
    ids = [identity(url, text) for url in ("https://a.example/", "https://b.example/", None) for text in ("s", "t")]
    assert len(set(ids)) == 6


def test_without_an_address_the_text_decides_and_nothing_is_too_strange():
    assert identity(None, "t") == identity("", "t") == identity(7, "t")
    assert identity(None, "\ud800")  # half of a surrogate pair
    assert identity("ab", "c") != identity("a", "bc")
