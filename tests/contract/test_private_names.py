"""Private names of other packages: which ones we touch, and that the plain path works without them."""

from __future__ import annotations

import ast
import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_piccc import ChatPiccc, register
from piccc.errors import PicccError
from tests.faults.replies import TEXT, whole
from tests.faults.server import FaultServer, reply

ROOT = Path(__file__).parents[2]
OURS = ("piccc", "langchain_piccc", "llama_index_piccc", "__future__")

TOUCHED = {
    # Of the module: without it, register() is a PicccError that names the way out.
    "_BUILTIN_PROVIDERS",
    # Documented in spite of its name: namedtuple's.
    "_replace",
}


def sources() -> Iterator[ast.AST]:
    for folder in ("shared/piccc", "langchain_piccc", "llama_index_piccc"):
        for path in (ROOT / folder).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and (not name.endswith("__") or "pydantic" in name)


def defined(node: ast.AST) -> str:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return node.name
        case ast.Name(ctx=ast.Store()):
            return node.id
        case ast.Attribute(ctx=ast.Store()):
            return node.attr
        case ast.arg():
            return node.arg
    return ""


def mentioned(node: ast.AST) -> list[str]:
    match node:
        case ast.Attribute():
            return [node.attr]
        case ast.Call(
            func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, ast.Constant(value=name), *_]
        ):
            return [str(name)]
        case ast.Constant(value=str(text)) if text.startswith("__pydantic"):
            return [text]
        case ast.ImportFrom(module=str(module)) if module.partition(".")[0] not in OURS:
            return [*module.split("."), *(each.name for each in node.names)]
    return []


def test_no_other_private_name_is_touched() -> None:
    ours = {defined(node) for node in sources()}
    names = {name for node in sources() for name in mentioned(node) if is_private(name)}
    assert names - ours == TOUCHED


@pytest.mark.parametrize("change", ["rename", "delete"])
def test_without_langchains_private_table_a_model_works(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = importlib.import_module("langchain.chat_models.base")
    monkeypatch.setattr(home, "_PROVIDERS_OF_THE_NEXT_VERSION", home._BUILTIN_PROVIDERS, raising=False)
    monkeypatch.delattr(home, "_BUILTIN_PROVIDERS")
    with pytest.raises(PicccError, match="does not support this version of langchain"):
        register()
    with FaultServer() as server:
        model = ChatPiccc(
            api_key="pcc_live_plain", base_url=server.case([reply(200, whole("chat"))]).base_url
        )  # type: ignore[arg-type]  # a string will do
        assert model.invoke("hi").content == TEXT
        assert pickle.loads(pickle.dumps(model)).model == model.model  # noqa: S301  our own bytes
