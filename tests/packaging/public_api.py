"""List the public API, one name per line: `python -m tests.packaging.public_api` writes public_api.txt.

The committed list makes each change of a public name or signature visible in review. A test fails if the list
and the code differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_suffix(".txt")
MODULES = (
    "piccc",
    "piccc.errors",
    "piccc.mcp_server",
    "piccc.telemetry",
    "piccc.tokens",
    "piccc.emulator",
    "piccc.pytest_plugin",
    "langchain_piccc",
    "llama_index_piccc",
)


def load() -> griffe.ModulesCollection:
    """Load the three packages from their sources, without importing them."""
    loader = griffe.GriffeLoader(search_paths=[str(ROOT), str(ROOT / "shared")])
    for name in ("piccc", "langchain_piccc", "llama_index_piccc"):
        loader.load(name)
    loader.resolve_aliases(external=False)
    return loader.modules_collection


def names_of(module: griffe.Object | griffe.Alias) -> list[str]:
    """Return a module's `__all__`, or without it the names it defines that have no leading underscore."""
    if module.exports is not None:
        return [str(name) for name in module.exports if not str(name).startswith("__")]
    return [
        name for name, member in module.members.items() if not name.startswith("_") and not member.is_alias
    ]


def listing() -> Iterator[str]:
    """Yield a line for each public name and each public member of a public class."""
    packages = load()
    for module in MODULES:
        for name in sorted(names_of(packages[module])):
            yield from _lines(f"{module}.{name}", packages[module].members[name])


def _lines(path: str, member: griffe.Object | griffe.Alias) -> Iterator[str]:
    if member.is_function:
        parameters = ", ".join(
            _parameter(parameter) for parameter in member.parameters if parameter.name not in ("self", "cls")
        )
        yield f"{path}({parameters})"
    elif member.is_class:
        yield f"{path}: class({', '.join(str(base) for base in member.bases)})"
        for name, inner in sorted(member.members.items()):
            if not name.startswith("_") or name == "__init__":
                yield from _lines(f"{path}.{name}", inner)
    else:
        yield f"{path}: {member.annotation or 'value'}"


def _parameter(parameter: griffe.Parameter) -> str:
    kind = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
    star = kind.get(parameter.kind, "") if parameter.kind else ""
    default = f"={parameter.default}" if parameter.default is not None and not star else ""
    return f"{star}{parameter.name}: {parameter.annotation}{default}"


if __name__ == "__main__":
    LIST.write_text("\n".join(listing()) + "\n")
