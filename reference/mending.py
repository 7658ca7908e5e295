"""Mend what pdoc finds, so that the reference shows what users import, under the name they import it by.

pdoc reads modules as they run. So it does not see names that are loaded at their first use, it spells out
aliases, and it takes what a public class has from a private one for somebody else's.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from pdoc.doc import Class, Doc, Function, Module, Variable
from pdoc.doc_ast import walk_tree
from pdoc.doc_types import empty
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

Place = tuple[str, str]
"""A module, and a qualified name in it."""

_NAME = re.compile(r"(?<![\w.])[A-Z]\w*")
_ATTRIBUTES = re.compile(r"^Attributes:\n((?: +.+\n?|\n(?= ))+)", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^ {4}(\w[\w, ]*): (.+(?:\n {5,}.+)*)\n?", re.MULTILINE)


class Written(str):
    """An annotation as it stands in the source."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Mender:
    """Mend pdoc's documents of the public modules; `pdoc.pdoc` then takes the same ones."""

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            _load_all(name)
        self.modules = [Module.from_name(name) for name in names]
        classes = [each for module in reversed(self.modules) for each in module.classes]
        self._places: dict[Place, Place] = {
            each.taken_from: (each.modulename, each.qualname) for each in classes
        }
        self._named = {qualname: (module, qualname) for module, qualname in self._places.values()}
        for module in self.modules:
            for doc in shown(module):
                self._mend(doc)

    def _mend(self, doc: Doc[Any]) -> None:
        match doc:
            case Class():
                self._mend_class(doc)
            case Function():
                self._mend_function(doc)
            case Variable() if not doc.docstring:
                doc.docstring = _docstring_at_home(doc)

    def _mend_class(self, doc: Class) -> None:
        constructor = doc.members.get("__init__")
        if isinstance(constructor, Function) and not self._is_made_by_users(doc.obj, constructor):
            del doc.members["__init__"]
        for name, member in doc.members.items():
            owner = member.taken_from[0], member.taken_from[1].rpartition(".")[0]
            if owner != doc.taken_from and _is_ours(owner):
                module, qualname = self._places.get(owner, doc.taken_from)
                member.taken_from = module, f"{qualname}.{name}"
        doc.bases = list(self._bases(doc.obj))
        doc.decorators = []
        _describe_attributes(doc)
        for member in shown(doc):
            if isinstance(member, Function):
                self._mend_function(member)
            elif isinstance(member, Variable):
                self._mend_field(member, doc)

    def _is_made_by_users(self, cls: type, constructor: Function) -> bool:
        """Tell whether users can make objects of a class: whether they can import what that takes."""
        if issubclass(cls, BaseModel):
            return False  # its fields say all that its constructor takes
        needed = [
            each.annotation
            for each in constructor.signature.parameters.values()
            if each.default is empty and inspect.isclass(each.annotation)
        ]
        places = [(each.__module__, each.__qualname__) for each in needed]
        return all(place in self._places for place in places if _is_ours(place))

    def _bases(self, cls: type) -> Iterator[tuple[str, str, str]]:
        """Yield the classes that a class builds on, with private ones of ours replaced by theirs."""
        for base in cls.__bases__:
            place = base.__module__, base.__qualname__
            if not _is_ours(place) or place in self._places:
                module, qualname = self._places.get(place, place)
                if module not in ("builtins", "pydantic.main", "typing"):
                    yield module, qualname, f"{module}.{qualname}"
            else:
                yield from self._bases(base)

    def _mend_function(self, doc: Function) -> None:
        signature = inspect.signature(doc.obj)
        scope = _scope_of(doc.obj)
        parameters = [
            each.replace(annotation=self._written(each.annotation, scope))
            for each in signature.parameters.values()
        ]
        given = empty if doc.name == "__init__" else self._written(signature.return_annotation, scope)
        doc.signature = signature.replace(parameters=parameters, return_annotation=given)
        doc.decorators = [each for each in doc.decorators if each in ("@classmethod", "@staticmethod")]

    def _mend_field(self, doc: Variable, owner: Class) -> None:
        if doc.default_value is PydanticUndefined:
            doc.default_value = empty
        annotation, scope = _annotation_of(owner.obj, doc.name)
        doc.annotation = self._written(annotation, scope)

    def _written(self, annotation: Any, scope: Mapping[str, Any]) -> Any:
        """Return an annotation as it is written, with public names in full, for pdoc to make links of."""
        if not isinstance(annotation, str):
            return annotation

        def in_full(match: re.Match[str]) -> str:
            name = match[0]
            meant = scope.get(name)
            if inspect.isclass(meant):
                place = self._places.get((meant.__module__, meant.__qualname__))
            else:  # imported for type checkers alone, or no class at all
                place = None if name in scope else self._named.get(name)
            return ".".join(place) if place else name

        return Written(_NAME.sub(in_full, annotation))


def shown(parent: Module | Class) -> list[Doc[Any]]:
    """Return what the reference shows of a module or a class."""
    return [each for each in parent.own_members if not each.name.startswith("_") or each.name == "__init__"]


def undescribed(modules: Sequence[Module]) -> Iterator[str]:
    """Yield the public names of which no docstring says anything; a field may be named by its class's."""
    for module in modules:
        for doc in shown(module):
            if not doc.docstring:
                yield doc.fullname
            if isinstance(doc, Class):
                yield from (
                    each.fullname
                    for each in shown(doc)
                    if not each.docstring
                    and each.name != "__init__"
                    and f"`{each.name}`" not in doc.docstring
                )


def _load_all(name: str) -> None:
    module = import_module(name)
    for each in getattr(module, "__all__", ()):
        setattr(module, each, getattr(module, each))


def _is_ours(place: Place) -> bool:
    return place[0].partition(".")[0] in {"langchain_piccc", "llama_index_piccc", "piccc"}


def _scope_of(obj: Any) -> Mapping[str, Any]:
    return vars(sys.modules[obj.__module__])


def _annotation_of(cls: type, name: str) -> tuple[Any, Mapping[str, Any]]:
    """Return a field's or property's annotation as it stands in the source, and where its names are known."""
    found = inspect.getattr_static(cls, name, None)
    if isinstance(found, property):
        getter: Any = found.fget
        return getter.__annotations__.get("return", empty), _scope_of(getter)
    for base in cls.__mro__:
        if name in (written := inspect.get_annotations(base)):
            return written[name], _scope_of(base)
    return empty, {}


def _docstring_at_home(doc: Variable) -> str:
    """Return the docstring of a variable that is defined in another module of ours."""
    for name, module in list(sys.modules.items()):
        if _is_ours((name, "")) and vars(module).get(doc.name) is doc.default_value:
            text = walk_tree(module).var_docstrings.get(doc.name)
            if text is not None:
                return text
    return ""


def _describe_attributes(doc: Class) -> None:
    """Move what the section `Attributes` says of a field to the field."""
    section = _ATTRIBUTES.search(doc.docstring)
    if section is None:
        return

    def take(match: re.Match[str]) -> str:
        fields = [doc.members.get(name) for name in match[1].split(", ")]
        for field in fields:
            if field is not None:
                field.docstring = inspect.cleandoc(match[2][0].upper() + match[2][1:])
        return "" if all(fields) else match[0]

    rest = _ATTRIBUTE.sub(take, section[1])
    kept = f"Attributes:\n{rest}" if rest.strip() else ""
    doc.docstring = doc.docstring.replace(section[0], kept).strip()
