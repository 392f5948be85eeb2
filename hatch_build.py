"""The long description and the addresses of a distribution.

The README links to files beside it. Package indexes show it without these files, so a release names the address of
the repository, and the links become absolute:

    LINFLOW_REPOSITORY=https://host/owner/linflow python -m build
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PAPER = "https://proceedings.mlr.press/v202/min23d.html"
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")


def absolute(readme: str, repository: str, tag: str) -> str:
    """Return the text with links to files of the repository at a tag: pictures raw, other files as pages."""

    def replace(match: re.Match[str]) -> str:
        kind = "raw" if match[1] else "blob"
        return f"{match[1]}[{match[2]}]({repository}/{kind}/{tag}/{match[3]})"

    return LINK.sub(replace, readme)


class Description(MetadataHookInterface):
    """Fills in `readme` and `urls`."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set both, with absolute links if the repository is named."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = os.environ.get("LINFLOW_REPOSITORY", "").rstrip("/")
        urls = {"Paper": PAPER}
        if repository:
            version = Path(self.root, "src/linflow/_support/version.py").read_text(encoding="utf-8")
            tag = "v" + re.findall(r'__version__ = "([^"]+)"', version)[0]
            text = absolute(text, repository, tag)
            urls |= {
                "Repository": repository,
                "Documentation": f"{repository}/blob/{tag}/docs/reference.md",
                "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls
