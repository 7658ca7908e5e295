"""Import every module of the packages that are named; of those with a `-` before their name, none."""

from __future__ import annotations

import importlib
import pkgutil
import sys


def modules(name: str, left_out: set[str]) -> list[str]:
    """Return the names of a package and of all that is in it."""
    if name in left_out:
        return []
    path = getattr(importlib.import_module(name), "__path__", ())
    below = [f"{name}.{module.name}" for module in pkgutil.iter_modules(path)]
    return [name, *(each for child in below for each in modules(child, left_out))]


left_out = {word[1:] for word in sys.argv[1:] if word.startswith("-")}
for word in sys.argv[1:]:
    if not word.startswith("-"):
        print(word, len(modules(word, left_out)))
