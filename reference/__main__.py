"""Make the API reference from the docstrings: `python -m reference [folder]`."""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc

from piccc import __version__
from reference.mending import Mender, undescribed

HERE = Path(__file__).parent
FOLDER = HERE.parent / "build" / "reference"
PUBLIC = (
    "piccc",
    "piccc.errors",
    "piccc.tokens",
    "piccc.emulator",
    "piccc.pytest_plugin",
    "langchain_piccc",
    "llama_index_piccc",
)


def main() -> None:
    """Write the reference of the public modules; fail where something public has no docstring."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    modules = Mender(PUBLIC).modules
    pdoc.render.configure(
        docformat="google",
        footer_text=f"piccc {__version__}",
        show_source=False,
        template_directory=HERE,
    )
    pdoc.pdoc(*PUBLIC, output_directory=folder)
    if missing := list(undescribed(modules)):
        sys.exit("\n".join(["Nothing is said of:", *missing]))
    print(folder / "index.html")


if __name__ == "__main__":
    main()
