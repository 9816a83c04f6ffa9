"""Addresses of pages in one spelling, so that the same page is known under every way of writing its address."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit, urlunsplit

PORTS = {"http": "80", "https": "443"}
"""The port that a scheme means when the address names none."""
TRACKING = frozenset(
    [
        *("dclid", "fbclid", "gad_source", "gbraid", "gclid", "gclsrc", "msclkid", "ttclid", "twclid", "wbraid"),
        *("yclid", "li_fat_id", "igsh", "igshid", "srsltid", "s_cid", "wickedid", "rb_clickid"),  # advertisements
        *("mc_cid", "mc_eid", "mkt_tok", "vero_conv", "vero_id", "oly_anon_id", "oly_enc_id"),  # letters
        *("_ga", "_gl", "_hsenc", "_hsmi", "hsctatracking", "_openstat"),  # statistics
    ]
)
"""Query parameters that say where a reader came from, not what is read; in small letters."""
TRACKING_PREFIXES = ("utm_", "pk_", "mtm_", "matomo_", "piwik_")
UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
"""Characters that mean the same as their percent encoding: RFC 3986, section 2.3."""
_ENCODED = re.compile(r"%([0-9a-fA-F]{2})")


def canonical(address: str) -> str:
    """The one spelling of an address of the web; other addresses are only stripped of white space.

    Scheme and host in small letters, no default port, percent encodings in one form, `.` and `..` resolved (RFC 3986,
    section 6.2.2 and 6.2.3); no slash at the end of the path, no fragment (but `#!`, which pages made by scripts use
    as an address), no tracking parameters, and the others sorted. `http` and `https` stay two, and so does `www.`.
    """
    address = address.strip()
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # a port that is no number, half a bracket: no page was ever read there
        return address
    if parts.scheme not in PORTS or not host:
        return address
    path = _one_form(_resolved(_one_form(parts.path))).rstrip("/")
    query = "&".join(sorted(pair for pair in _one_form(parts.query).split("&") if pair and not _tracks(pair)))
    fragment = parts.fragment if parts.fragment.startswith("!") else ""
    return urlunsplit(SplitResult(parts.scheme, _place(parts, host, port), path, query, fragment))


def host(address: str | None) -> str | None:
    """The host of an address, in small letters; None where there is none."""
    try:
        return urlsplit(address.strip()).hostname if address else None
    except ValueError:
        return None


def _place(parts: SplitResult, host: str, port: int | None) -> str:
    """User, host and port."""
    host = host.rstrip(".")
    host = f"[{host}]" if ":" in host else host
    user, at, _ = parts.netloc.rpartition("@")
    named = "" if port is None or str(port) == PORTS[parts.scheme] else f":{port}"
    return f"{user}{at}{host}{named}"


def _one_form(text: str) -> str:
    """Percent encodings only where they are needed, with capital digits; spaces as `%20`."""
    return _ENCODED.sub(_decoded, text).replace(" ", "%20") if "%" in text or " " in text else text


def _decoded(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return chr(code) if code in UNRESERVED else found[0].upper()


def _resolved(path: str) -> str:
    """A path without the steps `.` and `..`."""
    if "/." not in path:
        return path
    kept: list[str] = []
    for step in path.split("/")[1:]:
        if step == "..":
            del kept[-1:]
        elif step != ".":
            kept.append(step)
    return "".join(f"/{step}" for step in kept)


def _tracks(pair: str) -> bool:
    name = pair.partition("=")[0].lower()
    return name in TRACKING or name.startswith(TRACKING_PREFIXES)
