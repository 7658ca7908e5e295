"""The package is found where LlamaIndex users look, and says what is missing where core is not installed."""

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
def test_it_is_found_beside_other_providers(kind: str, name: str) -> None:
    module = import_module(f"llama_index.{kind}.piccc")
    assert name in module.__all__
    for each in module.__all__:
        assert getattr(module, each) is getattr(llama_index_piccc, each)


def test_without_core_the_error_has_the_install_command() -> None:
    done = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", WITHOUT_CORE], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == 'pip install "piccc[llama-index]"'


def test_all_that_is_promised_is_there() -> None:
    assert [each for each in llama_index_piccc.__all__ if not hasattr(llama_index_piccc, each)] == []
