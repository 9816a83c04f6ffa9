"""robots.txt as RFC 9309 has it; the expected values are those that its text prints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.text.filtering.robots import Robots, comparable, matches, reserved_by_file, reserves

SIMPLE = """\
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""
"""Section 5.1."""


def may(text, agent, path):
    return Robots.parse(text).allowed(agent, f"https://site.example{path}")


@pytest.mark.parametrize(
    ("agent", "path", "allowed"),
    [
        ("anyone", "/a.gif", False),
        ("anyone", "/a.gif.html", True),
        ("anyone", "/example/", False),
        ("anyone", "/publications/a", True),
        ("anyone", "/publications/a.gif", True),  # 14 octets against 5
        ("foobot", "/", False),
        ("foobot", "/publications/", False),
        ("foobot", "/example/page.html", True),
        ("foobot", "/example/allowed.gif", True),
        ("FooBot", "/example/other.gif", False),
        ("barbot", "/example/page.html", False),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/example/other.gif", True),
        ("quxbot", "/example/page.html", True),  # a group without rules, not that of all
    ],
)
def test_the_simple_example_of_section_5_1(agent, path, allowed):
    assert may(SIMPLE, agent, path) is allowed


def test_the_longest_match_of_section_5_2():
    text = "User-Agent: foobot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif\n"
    assert not may(text, "foobot", "/example/page/disallowed.gif")
    assert may(text, "foobot", "/example/page/other.gif")


def test_groups_of_one_crawler_are_merged_as_in_section_2_2_1():
    text = """\
User-agent: ExampleBot
Disallow: /foo
Disallow: /bar

User-agent: BazBot
Disallow: /baz

User-agent: examplebot
Disallow: /qux
"""
    for path, crawlers in {"/foo": ["ExampleBot"], "/bar": ["ExampleBot"], "/qux": ["ExampleBot"]}.items():
        assert not any(may(text, crawler, path) for crawler in crawlers)
        assert may(text, "BazBot", path)
    assert may(text, "ExampleBot", "/baz") and not may(text, "BazBot", "/baz")
    assert may(text, "another", "/foo")  # no group of its own, and none of all


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"),
        ("/foo/bar/\u30c4", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%E3%83%84", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
    ],
)
def test_the_encodings_of_section_2_2_2_are_the_same(one, other):
    assert comparable(one) == comparable(other)
    assert comparable(one, pattern=True) == comparable(other, pattern=True)
    assert not may(f"User-agent: *\nDisallow: {one}\n", "x", other)
    assert not may(f"User-agent: *\nDisallow: {other}\n", "x", one)


@pytest.mark.parametrize(
    ("pattern", "path", "yes"),
    [
        ("/this/path/exactly$", "/this/path/exactly", True),  # section 2.2.3
        ("/this/path/exactly$", "/this/path/exactly/not", False),
        ("/this/*/exactly", "/this/other/exactly/and/more", True),
        ("/this/*/exactly", "/this/exactly", False),
        ("/path/file-with-a-%2A.html", "/path/file-with-a-*.html", True),
        ("/path/foo-%24", "/path/foo-$", True),
        ("/path/foo-$", "/path/foo-$", False),  # the path's end, not the sign
        ("/*.php$", "/a/index.php", True),
        ("/*.php$", "/index.php?a=1", False),
        ("/*.php$", "/a.php.php", True),
        ("/a*a$", "/a", False),
        ("/fish*", "/fishheads/yummy.html", True),
        ("/fish", "/Fish.asp", False),
        ("/a$b", "/a$b", True),
        ("*", "/", True),
        ("/$", "/", True),
        ("/$", "/a", False),
    ],
)
def test_the_special_characters_of_section_2_2_3(pattern, path, yes):
    assert matches(comparable(pattern, pattern=True), comparable(path)) is yes


def test_of_equal_matches_the_one_that_allows_is_used():
    assert may("User-agent: *\nDisallow: /folder\nAllow: /folder\n", "x", "/folder/page")


def test_what_is_not_a_rule_is_passed_over():
    text = "\ufeffDisallow: /early\r\nUser-agent : * # all\r\nCrawl-delay: 3\r\nSitemap: https://x.example/s\r\n\r\n"
    text += "Disallow : /late # comment\r\nDisallow:\r\nnonsense\r\nUser-agent: bot/2.1\r\nDisallow: /\r\n"
    assert may(text, "x", "/early") and not may(text, "x", "/late") and may(text, "x", "/")
    assert not may(text, "bot", "/")
    assert may("User-agent: *\nDisallow: /\n", "x", "/robots.txt")
    assert may("", "x", "/")


def test_an_empty_path_is_the_root_and_a_query_belongs_to_it():
    robots = Robots.parse("User-agent: *\nDisallow: /$\nDisallow: /*?print\n")
    assert not robots.allowed("x", "https://site.example")
    assert not robots.allowed("x", "https://site.example?print=1")
    assert robots.allowed("x", "https://site.example/a#/?print")


def test_many_stars_take_no_time():
    assert not matches("/" + "*a" * 500 + "b", "/" + "a" * 100_000)


@given(st.text(max_size=300), st.text(max_size=40))
def test_nothing_is_too_strange(text, address):
    Robots.parse(f"User-agent: *\n{text}\nDisallow: {text}").allowed("x", address)
    reserved_by_file(text, address)


def test_what_comes_with_a_page_may_keep_it_from_training():
    assert reserves("noai, noimageai", "x-robots-tag") and reserves("otherbot: NoAI", "robots")
    assert reserves("1", "tdm-reservation") and reserves(1, "tdm-reservation")
    assert not reserves("noindex, nofollow", "x-robots-tag") and not reserves("0", "tdm-reservation")


def test_a_site_may_reserve_some_paths():
    text = '[{"location": "/open/*", "tdm-reservation": 0}, {"location": "/*.pdf$", "tdm-reservation": 1}, 7]'
    assert reserved_by_file(text, "https://x.example/a.pdf")
    assert not reserved_by_file(text, "https://x.example/open/a.pdf")
    assert not reserved_by_file(text, "https://x.example/a.html")
    assert not reserved_by_file("{", "https://x.example/")
