"""Which modules another process finds too, and how a name is imported there."""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

_INSTALLED_FOLDERS = ("site-packages", "dist-packages")


def installed(module: str) -> bool:
    """Return whether a module is found wherever this Python runs: of Python itself, or of an installed package."""
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(root)
    except (ValueError, ImportError):  # __main__ has no spec
        return False
    if spec is None:
        return False
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    return (
        any(part in _INSTALLED_FOLDERS for place in places for part in Path(place).parts)
        or root in _packages()
    )


@functools.cache  # reads the metadata of every package: 0.1 to 1 s
def _packages() -> frozenset[str]:
    """Return the top modules of every installed package, also of those installed as links to their source."""
    return frozenset(metadata.packages_distributions())


def import_of_object(name: str, value: Any) -> str:
    """Return the line that imports a function, class or method under a name; empty where none would."""
    home = getattr(value, "__module__", None)
    if not isinstance(home, str) or not callable(value):
        return ""
    for own in dict.fromkeys((getattr(value, "__qualname__", name), name)):
        there = getattr(sys.modules.get(home), own, None)
        if there is value and str(own).isidentifier() and installed(home):
            return f"from {home} import {own}" + ("" if own == name else f" as {name}")
    return ""


def imports_of_module(name: str, module: ModuleType, text: str) -> Iterator[str]:
    """Yield the lines that import a module under a name, and the submodules a text reaches through it."""
    real = module.__name__
    parent, _, leaf = real.rpartition(".")
    if name == real:
        yield f"import {real}"
    else:
        yield f"from {parent} import {leaf}" if parent and leaf == name else f"import {real} as {name}"
    for node in ast.walk(ast.parse(text)):
        first, *rest = _dotted(node) or [""]
        below = f"{real}.{'.'.join(rest)}"
        if first == name and rest and isinstance(sys.modules.get(below), ModuleType):
            yield f"import {below}"


def _dotted(node: ast.AST) -> list[str]:
    """Return the parts of ``a.b.c``; empty for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return [*inner, node.attr] if inner else []
    return []
