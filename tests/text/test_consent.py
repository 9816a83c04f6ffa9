"""Filters of what owners want."""

import pytest

from idiolect.errors import UserError
from idiolect.text.document import Document
from idiolect.text.filtering import consent, licences
from idiolect.text.filtering.filters import FILTERS, Resources
from idiolect.text.filtering.page import Page
from idiolect.text.settings import ConsentSettings, CurateSettings


def judge(name, metadata, id="f.txt:0", **settings):
    keep = FILTERS[name](CurateSettings(consent=ConsentSettings(**settings)), Resources())
    return keep(Page(Document("text", id, "f.txt", metadata=metadata)))


def at(url):
    return {"url": url}


# Sites


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://bad.example/", "bad.example"),
        ("http://deep.www.BAD.example:8080/x", "bad.example"),
        ("https://notbad.example/", None),
        ("https://bad.example.org/", None),
        ("https://host.example/~jo", "https://host.example/~jo/"),
        ("http://www.host.example/~jo/page?x=1", "https://host.example/~jo/"),
        ("https://host.example/~joan/", None),
        ("https://sub.host.example/~jo/", None),
        ("https://q.example/p?id=7", "q.example/p"),
        ("no address", None),
        ("http://[half/", None),
        (None, None),
        (7, None),
    ],
)
def test_a_domain_counts_with_its_subdomains_and_an_address_with_what_lies_below(url, entry):
    block = ("bad.example", "https://host.example/~jo/", "q.example/p")
    drop = judge("sites", at(url), block=block)
    assert drop == (None if entry is None else ("blocked site", entry))


def test_only_allowed_sites_and_what_is_of_no_site(tmp_path):
    (tmp_path / "good.txt").write_text("# ours\n\n*.good.example  \n")
    settings = {"allow": ("fine.example",), "allow_list": tmp_path / "good.txt", "block": ("bad.good.example",)}
    assert judge("sites", at("https://x.good.example/"), **settings) is None
    assert judge("sites", at("https://fine.example/"), **settings) is None
    assert judge("sites", {}, **settings) is None
    assert judge("sites", at("https://Other.example/a"), **settings) == ("site that is not allowed", "other.example")
    assert judge("sites", at("https://bad.good.example/"), **settings) == ("blocked site", "bad.good.example")


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        judge("sites", {}, block_list=tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="UTF-8"):
        judge("removed", {}, removed=tmp_path / "latin.txt")


# Robots


@pytest.fixture
def folder(tmp_path):
    def put(host, name, text):
        (tmp_path / host).mkdir(exist_ok=True)
        (tmp_path / host / name).write_text(text)

    put("a.example", "robots.txt", "User-agent: GPTBot\nDisallow: /\n\nUser-agent: *\nDisallow: /private/\n")
    put("b.example:8080", "robots.txt", "User-agent: *\nDisallow: /\n")
    put("c.example", "ai.txt", "User-Agent: *\nDisallow: /*.txt\n")
    put("d.example", "tdmrep.json", '[{"location": "/", "tdm-reservation": 1}]')
    return tmp_path


def test_pages_are_dropped_that_a_crawler_may_not_have(folder):
    def drop(url, **more):
        return judge("robots", at(url), robots=folder, **more)

    assert drop("https://a.example/") == ("refused by robots.txt", "GPTBot")
    assert drop("https://a.example/", agents=("*",)) is None
    assert drop("HTTPS://A.example:443/private/x", agents=("*",)) == ("refused by robots.txt", "*")
    assert drop("https://a.example/private", agents=("*",)) is None  # the rule has a slash at the end
    assert drop("https://a.example/private/", agents=("ownbot",)) == ("refused by robots.txt", "ownbot")
    assert drop("http://b.example:8080/x") == ("refused by robots.txt", "*")
    assert drop("http://b.example/x") is None
    assert drop("http://c.example/a.txt") == ("refused by ai.txt", "*")
    assert drop("http://c.example/a.html") is None
    assert drop("http://d.example/a") == ("reserved by tdmrep.json", None)
    assert drop("http://unknown.example/") is None
    assert drop("http://../a.example/") is None
    assert drop(None) is None


def test_a_page_may_say_so_itself_and_an_owner_by_a_list(tmp_path):
    assert judge("robots", {"X-Robots-Tag": "noai"}) == ("reserved by its header", "X-Robots-Tag")
    assert judge("robots", {"tdm_reservation": 1}) == ("reserved by its header", "tdm_reservation")
    assert judge("robots", {"robots": "noindex"}) is None
    (tmp_path / "out.txt").write_text("https://art.example/gallery\n")
    assert judge("robots", at("https://art.example/gallery/7"), opted_out=tmp_path / "out.txt").reason == "opted out"
    with pytest.raises(UserError, match="not a folder"):
        judge("robots", {}, robots=tmp_path / "missing")


# Licences


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("mit", "MIT"),
        ("MIT License", "MIT"),
        ("Apache 2.0", "Apache-2.0"),
        ("http://www.apache.org/licenses/LICENSE-2.0.txt", "Apache-2.0"),
        ("https://opensource.org/licenses/BSD-3-Clause", "BSD-3-Clause"),
        ("https://spdx.org/licenses/ISC.html", "ISC"),
        ("https://www.gnu.org/licenses/gpl-3.0.en.html", "GPL-3.0-only"),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
        ("cc-by-nc-nd-3.0", "CC-BY-NC-ND-3.0"),
        ("cc-by", "CC-BY"),
        ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("//creativecommons.org/licenses/by-nc-sa/2.5/it/", "CC-BY-NC-SA-2.5"),
        ("Creative Commons Attribution-ShareAlike 4.0 International", "CC-BY-SA-4.0"),
        ("Creative Commons Attribution-NonCommercial-NoDerivatives 4.0", "CC-BY-NC-ND-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("Public Domain", "CC-PDM-1.0"),
        ("MIT OR cc by 4.0", "MIT OR CC-BY-4.0"),
        ("My Own Licence", "My Own Licence"),
        ("© 2020 Jo. All rights reserved.", "no licence"),
        ("proprietary", "no licence"),
        ("unknown", None),
        ("NOASSERTION", None),
        ("  ", None),
        (None, None),
        (7, None),
    ],
)
def test_a_licence_has_one_name(said, name):
    assert licences.normal(said) == name
    assert name is None or licences.normal(name) == name


@pytest.mark.parametrize(
    ("licence", "only", "never", "kept"),
    [
        ("CC-BY-4.0", ("CC-BY",), (), True),
        ("CC-BY-SA-4.0", ("CC-BY",), (), False),
        ("CC-BY", ("CC-BY-4.0",), (), False),
        ("GPL-3.0-only", (), ("GPL",), False),
        ("MIT", ("https://opensource.org/license/mit",), (), True),
        ("MIT OR GPL-3.0-only", (), ("GPL",), True),
        ("MIT AND GPL-3.0-only", (), ("GPL",), False),
        ("MIT AND GPL-3.0-only", ("mit",), (), False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ("GPL-2.0-only",), (), True),
        ("My Own Licence", ("my own licence",), (), True),
    ],
)
def test_licences_are_chosen_by_name(licence, only, never, kept):
    assert licences.wanted(licence, only, never) is kept


def test_documents_of_unknown_licence_are_kept_unless_one_is_required():
    for said in ({}, {"licence": "unknown"}):
        assert judge("licence", said) is None
        assert judge("licence", said, licences=("MIT",)) is None
        assert judge("licence", said, require_licence=True) == ("unknown licence", None)
    assert judge("licence", {"licence": "All rights reserved"}, require_licence=True) == ("no licence", None)
    assert judge("licence", {"licence": "MIT"}, require_licence=True) is None
    assert judge("licence", {"licence": "cc by-nc 4.0"}, licences=("CC-BY", "MIT")) == (
        "licence that is not wanted",
        "CC-BY-NC-4.0",
    )


# Removal


def test_what_is_named_is_removed(tmp_path):
    (tmp_path / "removal.txt").write_text(f"# asked for on 1 May\n{'ab' * 16}\nplays.txt:3\ngone.example\nown-7\n")
    listed = {"removed": tmp_path / "removal.txt"}
    assert judge("removed", {"id": "ab" * 16}, **listed) == ("removed", "ab" * 16)
    assert judge("removed", {}, id="plays.txt:3", **listed) == ("removed", "plays.txt:3")
    assert judge("removed", at("https://www.gone.example/page"), **listed) == ("removed", "gone.example")
    assert judge("removed", {"id": "own-7"}, **listed) == ("removed", "own-7")
    assert judge("removed", {"id": "cd" * 16, "metadata": {"id": "own-7"}}, **listed) == ("removed", "own-7")
    assert judge("removed", {"id": "cd" * 16}, id="plays.txt:33", **listed) is None
    assert judge("removed", {"id": "cd" * 16}) is None


def test_entries_are_found_among_many_by_looking_up():
    places = consent.Places(f"site{number}.example/a" for number in range(10_000))
    assert places.holds("https://site77.example/a/b/c") == "site77.example/a"
    assert places.holds("https://site77.example/b") is None
