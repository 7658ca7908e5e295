"""Import every module of the given packages, except packages given with a leading `-`."""

from __future__ import annotations

import importlib
import pkgutil
import sys


def modules(name: str, excluded: set[str]) -> list[str]:
    """Import a package with all its modules, and return their names."""
    if name in excluded:
        return []
    path = getattr(importlib.import_module(name), "__path__", ())
    below = [f"{name}.{module.name}" for module in pkgutil.iter_modules(path)]
    return [name, *(each for child in below for each in modules(child, excluded))]


excluded = {word[1:] for word in sys.argv[1:] if word.startswith("-")}
for word in sys.argv[1:]:
    if not word.startswith("-"):
        print(word, len(modules(word, excluded)))
