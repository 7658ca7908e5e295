"""The private names of other packages that we use, and that we still work without them."""

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

ALLOWED = {
    # langchain's provider table: without it, register() raises a PicccError that says what to do.
    "_BUILTIN_PROVIDERS",
    # A documented method of namedtuple.
    "_replace",
}


def sources() -> Iterator[ast.AST]:
    for folder in ("shared/piccc", "langchain_piccc", "llama_index_piccc"):
        for path in (ROOT / folder).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and (not name.endswith("__") or "pydantic" in name)


def defined_name(node: ast.AST) -> str:
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


def used_names(node: ast.AST) -> list[str]:
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
            return [*module.split("."), *(alias.name for alias in node.names)]
    return []


def test_no_other_private_names_are_used() -> None:
    ours = {defined_name(node) for node in sources()}
    names = {name for node in sources() for name in used_names(node) if is_private(name)}
    assert names - ours == ALLOWED


@pytest.mark.parametrize("change", ["rename", "delete"])
def test_a_model_works_without_langchains_private_provider_table(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("langchain.chat_models.base")
    monkeypatch.setattr(module, "_PROVIDERS_OF_THE_NEXT_VERSION", module._BUILTIN_PROVIDERS, raising=False)
    monkeypatch.delattr(module, "_BUILTIN_PROVIDERS")
    with pytest.raises(PicccError, match="does not support this version of langchain"):
        register()
    with FaultServer() as server:
        model = ChatPiccc(
            api_key="pcc_live_plain", base_url=server.case([reply(200, whole("chat"))]).base_url
        )  # type: ignore[arg-type]  # a string will do
        assert model.invoke("hi").content == TEXT
        assert pickle.loads(pickle.dumps(model)).model == model.model  # noqa: S301  our own bytes
