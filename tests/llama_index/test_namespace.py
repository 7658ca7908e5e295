"""The package is importable from LlamaIndex's namespaces and explains a missing core."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import llama_index_piccc

WITHOUT_CORE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llama_index":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
from piccc.errors import MissingExtraError
try:
    import llama_index_piccc
except MissingExtraError as error:
    print(error.hint)
"""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llms", "Piccc"),
        ("question_gen", "PicccQuestionGenerator"),
        ("readers", "PicccTaskReader"),
        ("tools", "PicccMediaToolSpec"),
    ],
)
def test_names_are_importable_from_llama_index_namespaces(kind: str, name: str) -> None:
    module = import_module(f"llama_index.{kind}.piccc")
    assert name in module.__all__
    for export in module.__all__:
        assert getattr(module, export) is getattr(llama_index_piccc, export)


def test_without_core_the_error_has_the_install_command() -> None:
    process = subprocess.run(  # noqa: S603  our own interpreter and code
        [sys.executable, "-c", WITHOUT_CORE], capture_output=True, text=True, check=True, timeout=60
    )
    assert process.stdout.strip() == 'pip install "piccc[llama-index]"'


def test_every_exported_name_exists() -> None:
    assert [export for export in llama_index_piccc.__all__ if not hasattr(llama_index_piccc, export)] == []
