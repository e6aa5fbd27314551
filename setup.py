"""Makes the project's page on an index out of README.md; all else is in pyproject.toml.

Relative links lead nowhere there. Once `Source` in [project.urls] names the public repository, they lead
into it; until then each stands as its text, and a picture as its description.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
RELATIVE_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^]]*)\]\((?!\w+:|#)(?P<path>[^)\s]+)\)")


def page(readme: str, source: str | None) -> str:
    """Return the text of a README whose links lead into a public repository, or are none."""

    def absolute(link: re.Match[str]) -> str:
        if source is None:
            return link["text"]
        view = "raw" if link["picture"] else "blob"
        return f"{link['picture']}[{link['text']}]({source.rstrip('/')}/{view}/HEAD/{link['path']})"

    return RELATIVE_LINK.sub(absolute, readme)


project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
setup(
    long_description=page(
        (HERE / "README.md").read_text(encoding="utf-8"), project.get("urls", {}).get("Source")
    ),
    long_description_content_type="text/markdown",
)
