"""Licences under one name, however a document says which it has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_SPDX = (
    "0BSD AFL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-1.1 Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause "
    "BSD-4-Clause BSL-1.0 BlueOak-1.0.0 CC0-1.0 CC-PDM-1.0 CDLA-Permissive-1.0 CDLA-Permissive-2.0 CDLA-Sharing-1.0 "
    "CECILL-2.1 ECL-2.0 EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2 GFDL-1.1-only GFDL-1.2-only GFDL-1.3-only GFDL-1.3-or-later "
    "GPL-2.0-only GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later ISC LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only "
    "LGPL-3.0-or-later LPPL-1.3c MIT MIT-0 MPL-1.1 MPL-2.0 MS-PL MulanPSL-2.0 NCSA ODbL-1.0 ODC-By-1.0 OFL-1.1 "
    "OGL-UK-2.0 OGL-UK-3.0 OSL-3.0 PDDL-1.0 PostgreSQL Python-2.0 PSF-2.0 UPL-1.0 Unlicense Vim W3C WTFPL Zlib ZPL-2.1"
)
SPDX = {name.lower(): name for name in _SPDX.split()}
"""Identifiers of the SPDX licence list that text comes under; those of Creative Commons are read by their parts."""
NAMES = {
    "apache": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "cc-zero": "CC0-1.0",
    "cc0": "CC0-1.0",
    "gfdl": "GFDL-1.3-only",
    "gpl-2.0": "GPL-2.0-only",
    "gpl-2.0+": "GPL-2.0-or-later",
    "gpl-3.0": "GPL-3.0-only",
    "gpl-3.0+": "GPL-3.0-or-later",
    "gplv2": "GPL-2.0-only",
    "gplv3": "GPL-3.0-only",
    "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
    "mit license": "MIT",
    "mozilla public license 2.0": "MPL-2.0",
    "odbl": "ODbL-1.0",
    "odc-by": "ODC-By-1.0",
    "open government licence v3.0": "OGL-UK-3.0",
    "public domain": "CC-PDM-1.0",
    "public-domain": "CC-PDM-1.0",
    "publicdomain": "CC-PDM-1.0",
    "pd": "CC-PDM-1.0",
    "the mit license": "MIT",
    "the unlicense": "Unlicense",
}
"""Other names, in small letters."""
UNKNOWN = frozenset(
    ["", "-", "n/a", "na", "nan", "no_license_found", "noassertion", "none", "null", "other", "unknown"]
)
"""What is written where nobody knows."""
RESERVED = re.compile(r"(?i)all rights reserved|^(?:proprietary|unlicensed|no licen[cs]e|copyright(?:ed)?)$")
NO_LICENCE = "no licence"
"""How a text is called of which no use is granted."""
CREATIVE = re.compile(
    r"(?i)(?:creativecommons\.org/licenses/|\b(?:cc|creative commons)[\s_-]*)"
    r"(by(?:[\s_-]+(?:nc|sa|nd))*|attribution(?:[\s_-]*(?:non-?commercial|share-?alike|no-?deriv(?:ative)?s))*)"
    r"(?:[\s_/v-]+(\d\.\d))?"
)
EXPRESSION = re.compile(r"( OR | AND )")
"""What joins licences in an SPDX expression (annex D); brackets are not read."""
PARTS = ((re.compile("(?i)nc|non-?c"), "NC"), (re.compile("(?i)nd|no-?d"), "ND"), (re.compile("(?i)sa|share"), "SA"))
"""The parts of a licence of Creative Commons, in the order in which SPDX writes them."""
PUBLIC = re.compile(r"(?i)creativecommons\.org/publicdomain/(zero|mark)/1\.0")
LOCATED = re.compile(
    r"(?i)^https?://(?:www\.)?(?:spdx\.org/licenses|opensource\.org/licen[sc]es?|apache\.org/licenses|"
    r"gnu\.org/licenses|choosealicense\.com/licenses)/(?:license-)?([\w.+-]+?)(?:\.html|\.txt|\.en)*/?$"
)
"""Addresses that end in the name of a licence."""


def normal(licence: Any) -> str | None:
    """The SPDX identifier of a licence, given as one, by name, or by its address; None where nothing is known.

    A licence of Creative Commons without a version keeps its parts: CC-BY-SA. What has no identifier stays as it is
    written. "All rights reserved" and the like are NO_LICENCE.
    """
    said = " ".join(licence.split()) if isinstance(licence, str) else ""
    if len(parts := EXPRESSION.split(said)) > 1:  # names, and between them what joins them
        return "".join(part if number % 2 else str(normal(part)) for number, part in enumerate(parts))
    if said.lower() in UNKNOWN:
        return None
    if RESERVED.search(said):
        return NO_LICENCE
    if found := PUBLIC.search(said):
        return "CC0-1.0" if found[1].lower() == "zero" else "CC-PDM-1.0"
    if found := CREATIVE.search(said):
        kind = found[1].lower().removeprefix("by").removeprefix("attribution")
        parts = [name for pattern, name in PARTS if pattern.search(kind)]
        return "-".join(["CC-BY", *parts, *([found[2]] if found[2] else [])])
    if found := LOCATED.match(said):
        said = "Apache-2.0" if found[1] == "2.0" else found[1]
    low = said.lower()
    dashed = low.replace(" ", "-")
    return NAMES.get(low) or SPDX.get(low) or NAMES.get(dashed) or SPDX.get(dashed) or said


def wanted(licence: str, only: Iterable[str], never: Iterable[str]) -> bool:
    """Whether a licence, as `normal` writes it, is among `only` (if there are any) and not among `never`.

    "CC-BY" stands for every version of it. Of licences that are offered (OR) one must do, of those that hold together
    (AND) all.
    """
    only, never = list(only), list(never)

    def does(name: str) -> bool:
        return not _among(name, never) and (not only or _among(name, only))

    return any(all(map(does, option.split(" AND "))) for option in licence.split(" OR "))


def _among(licence: str, names: Iterable[str]) -> bool:
    low = licence.partition(" WITH ")[0].lower()
    known = ((normal(name) or name).lower() for name in names)
    return any(low == name or re.match(rf"{re.escape(name)}-\d", low) is not None for name in known)
