"""Packages: what ft_magic needs and what is installed, read from metadata; nothing is imported for it."""

from __future__ import annotations

import platform
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "ft-magic"
_PROJECT_FILE = Path(__file__).parents[1] / "pyproject.toml"
_NEED = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
_CLAUSE = re.compile(r"(>=|<=|==|!=|~=|>|<)\s*([0-9]\w*(?:\.\w+)*)(\.\*)?")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")
_FIRST_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True)
class Need:
    """One package that a part of ft_magic needs.

    Attributes:
        extra: the extra of ``pip install "ft-magic[extra]"``; empty for what is always needed.
        name: distribution's name.
        versions: accepted versions as in ``pyproject.toml``: ``>=2.10,<2.15``; empty for any.
        installed: installed version, or empty.
    """

    extra: str
    name: str
    versions: str
    installed: str

    @property
    def met(self) -> bool:
        """Whether it is installed in an accepted version."""
        return bool(self.installed) and accepts(self.versions, self.installed)


def needs() -> tuple[Need, ...]:
    """Return what ft_magic needs, in the order of its project file, with what is installed."""
    return tuple(
        Need(extra, name, versions, version_of(name))
        for extra, name, versions in _parsed()
        if name != DISTRIBUTION
    )


def version_of(name: str) -> str:
    """Return the installed version of a distribution, or an empty string."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of distributions, Python's own first; those not installed are left out."""
    found = {name: version_of(name) for name in names}
    return {"python": platform.python_version(), **{name: found[name] for name in found if found[name]}}


def accepts(versions: str, installed: str) -> bool:
    """Tell whether a version meets ``>=2.10,<2.15``; numbers count, local and pre-release parts do not."""
    have = _numbers(installed)
    return all(
        _clause_holds(sign, _numbers(want), bool(star), have)
        for sign, want, star in _CLAUSE.findall(versions)
    )


def _clause_holds(sign: str, want: tuple[int, ...], star: bool, have: tuple[int, ...]) -> bool:
    if sign in ("==", "!=") and star:
        return (have[: len(want)] == want) is (sign == "==")
    if sign == "~=":
        return have >= want and have[: len(want) - 1] == want[:-1]
    width = max(len(have), len(want))
    left, right = _padded(have, width), _padded(want, width)
    return {
        ">=": left >= right, "<=": left <= right, "==": left == right, "!=": left != right,
        ">": left > right, "<": left < right,
    }[sign]  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    match = _FIRST_NUMBERS.match(version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _padded(numbers: tuple[int, ...], width: int) -> tuple[int, ...]:
    return numbers + (0,) * (width - len(numbers))


def _parsed() -> Iterable[tuple[str, str, str]]:
    """Yield (extra, name, versions): from the installed metadata, in a source tree from its project file."""
    for text in _requirement_lines():
        match = _NEED.fullmatch(text)
        if match:
            extra = _EXTRA.search(match[3] or "")
            yield extra[1] if extra else "", match[1], match[2].strip()


def _requirement_lines() -> list[str]:
    """Return the requirement lines, ``name>=1; extra == "train"``."""
    if _PROJECT_FILE.is_file():
        project = tomllib.loads(_PROJECT_FILE.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == DISTRIBUTION:
            extras = project.get("optional-dependencies", {})
            marked = [f'{line}; extra == "{extra}"' for extra, lines in extras.items() for line in lines]
            return [*project.get("dependencies", []), *marked]
    return metadata.requires(DISTRIBUTION) or []


def install_source() -> str:
    """Return what pip installs ft_magic from: its name, or the source tree where it was never installed."""
    return DISTRIBUTION if version_of(DISTRIBUTION) else str(_PROJECT_FILE.parent)
