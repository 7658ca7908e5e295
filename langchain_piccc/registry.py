"""Where LangChain looks up models by name: for `init_chat_model("piccc:…")`, and to load what was dumped."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from langchain_piccc._replies import PROVIDER
from piccc.errors import MissingExtraError, PicccError


def register() -> None:
    """Let LangChain find ChatPiccc by the strings `piccc:MODEL`; calling it again changes nothing.

    LangChain has no public way for this, so it writes into a private table of the package `langchain`. Raise
    PicccError where that table looks otherwise than expected; a ChatPiccc object always works in its place.
    """
    try:
        home = import_module("langchain.chat_models.base")
    except ImportError as error:
        raise MissingExtraError("register() needs langchain: pip install langchain") from error
    table: Any = getattr(home, "_BUILTIN_PROVIDERS", None)
    rows = list(table.values()) if isinstance(table, dict) else []
    if not rows or not all(isinstance(row, tuple) and len(row) == 3 for row in rows):
        raise PicccError(
            "This version of langchain keeps its chat models otherwise than register() knows.",
            hint="Pass the object: create_agent(ChatPiccc(model=…), …).",
        )
    table[PROVIDER] = ("langchain_piccc", "ChatPiccc", _make)


def _make(cls: Any, **settings: Any) -> Any:
    return cls(**settings)


def admit() -> None:
    """Let `load(..., allowed_objects="all")` make a dumped ChatPiccc again, as it does others' models."""
    home = import_module("langchain_core.load.load")
    path = ("langchain_piccc", "chat_models", "ChatPiccc")
    getattr(home, "ALL_SERIALIZABLE_MAPPINGS", {})[path] = path
    getattr(home, "_default_class_paths_cache", {}).clear()
