"""Write the metadata that depend on where the repository is: its addresses, and the links of the README.

In the repository the README's links are relative, so that they work in a clone and on any host; a package
index needs whole ones. The address comes from `PICCC_REPOSITORY_URL`, else from the GitHub Actions run that
builds; without either the links stay as they are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)(\[[^\]]*\]\()(?!https?://|#)([^)]+)\)")


class RepositoryMetadata(MetadataHookInterface):
    """Set `readme` and `urls`, which pyproject.toml names as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill them in."""
        address = repository_url()
        page = Path(self.root, "README.md").read_text("utf-8")
        text = with_whole_links(page, address) if address else page
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = (
            {
                "Repository": address,
                "Documentation": f"{address}/tree/main/docs",
                "Changelog": f"{address}/blob/main/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }
            if address
            else {}
        )


def repository_url() -> str:
    """Return the repository's address, or an empty string where it is unknown."""
    if address := os.environ.get("PICCC_REPOSITORY_URL"):
        return address.rstrip("/")
    names = [os.environ.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY")]
    return "/".join(names) if all(names) else ""


def with_whole_links(page: str, address: str) -> str:
    """Return a Markdown page with absolute links: images to their bytes, everything else to its page."""
    return _LINK.sub(
        lambda found: f"{found[1]}{found[2]}{address}/{'raw' if found[1] else 'blob'}/main/{found[3]})", page
    )
