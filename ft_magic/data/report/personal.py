"""Personal data: what names a person or opens a door, how to find it and how to mask it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ft_magic.data.report.checked_numbers import is_card, is_iban, is_phone
from ft_magic.data.report.finding import Finding, finding_of
from ft_magic.data.report.keys import KEY_KINDS, is_secret


@dataclass(frozen=True)
class PersonalKind:
    """One kind of personal data.

    Attributes:
        name: singular, for messages.
        mask: what replaces it.
        pattern: what it looks like.
        proven: whether what looks like it is it.
        shown: how one is shown without giving it away.
    """

    name: str
    mask: str
    pattern: re.Pattern[str]
    proven: Callable[[str], bool]
    shown: Callable[[str], str]


@dataclass(frozen=True)
class Personal:
    """One piece of personal data in a text.

    Attributes:
        kind: name of its kind.
        start: where it begins.
        end: where it ends.
        mask: what replaces it.
        shown: how it may be shown.
    """

    kind: str
    start: int
    end: int
    mask: str
    shown: str


# git@host and logo@2x.png are addresses of nobody.
_NOBODY = re.compile(r"(?i)git@|.*\.(?:png|jpe?g|gif|svg|webp|css|js|py)$")


def _is_email(text: str) -> bool:
    return _NOBODY.match(text) is None


def _email_shown(text: str) -> str:
    return f"{text[0]}…@….{text.rpartition('.')[2]}"


# Patterns begin with what they consume and look behind it (a width more): re then skips to where one can begin,
# four times as fast over 1 KB of prose as with the look-behind first (measured).
_EMAIL = PersonalKind(
    "e-mail address", "[EMAIL]",
    re.compile(
        r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24}(?![\w-])"
    ),
    _is_email, _email_shown,
)  # fmt: skip
# What is a card or an account is no telephone: the first kind wins.
_NUMBERS: tuple[PersonalKind, ...] = (
    PersonalKind(
        "IBAN", "[IBAN]",
        re.compile(
            r"[A-Z](?<![A-Za-z0-9].)[A-Z][0-9]{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)"
            r"(?![A-Za-z0-9])",
            re.DOTALL,
        ),
        is_iban, lambda text: f"{text[:2]}…",
    ),
    PersonalKind(
        "card number", "[CARD]",
        re.compile(
            r"[0-9](?<![\w.,+$€£-].)(?:[0-9]{13,18}|[0-9]{3}(?:([ -])[0-9]{4})(?:\1[0-9]{4}){2}(?:\1[0-9]{3})?"
            r"|[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})(?![\w-]|[.,][0-9])",
            re.DOTALL,
        ),
        is_card, lambda text: f"…{text[-4:]}",
    ),
    PersonalKind(
        "telephone number", "[PHONE]",
        re.compile(
            r"[+(0-9](?<![\w.+/=-].)(?:"
            r"(?<=\+)[0-9]{1,3}[ .-]?(?:\([0-9]{1,5}\)[ .-]?)?[0-9]{1,5}(?:[ ./-]?[0-9]{2,5}){1,4}"
            r"|(?<=\()[0-9]{3}\) ?[0-9]{3}[ .-][0-9]{4}"
            r"|(?<=1)[ .-](?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}"
            r"|(?<=[0-9])[0-9]{2}([.-])[0-9]{3}\1[0-9]{4}"
            r")(?![\w-]|[.,/][0-9])",
            re.DOTALL,
        ),
        is_phone, lambda text: f"…{text[-2:]}",
    ),
)  # fmt: skip
# All three have seven digits close together.
_LONG_NUMBER = re.compile(r"[0-9](?:[ ().\-/]{0,2}[A-Z]{0,4}[0-9]){6}")
_KEY_MARKS = tuple((mark, kind) for kind in KEY_KINDS for mark in kind.marks)
_DOORS = ("key", "card number", "IBAN")  # kinds that make the finding a problem: money or access is at stake


def personal_in(text: str) -> list[Personal]:
    """Return the personal data in a text, in order, without overlaps."""
    found: list[Personal] = []
    for piece in _candidates(text):
        if all(piece.end <= other.start or piece.start >= other.end for other in found):
            found.append(piece)
    return sorted(found, key=lambda piece: piece.start)


def masked(text: str) -> str:
    """Return a text with its personal data replaced by ``[EMAIL]``, ``[PHONE]``, ``[KEY]``, ``[CARD]``, ``[IBAN]``."""
    for piece in reversed(personal_in(text)):
        text = text[: piece.start] + piece.mask + text[piece.end :]
    return text


def personal_finding(found: dict[int, list[Personal]]) -> Finding | None:
    """Return the finding about personal data, given the pieces by row; nothing is shown but masked."""
    kinds = Counter(piece.kind for pieces in found.values() for piece in pieces)
    shown: dict[str, str] = {}
    for pieces in found.values():
        for piece in pieces:
            shown.setdefault(piece.kind, piece.shown)
    counts = ", ".join(f"{_plural(kind, count)} ({shown[kind]})" for kind, count in kinds.most_common())
    level = "problem" if any(kind in _DOORS for kind in kinds) else "warning"
    message = f"{{n}} with personal data or secrets: {counts}. A model can give them away word for word."
    return finding_of("pii", level, list(found), message, "data.fix('pii')")


def _plural(kind: str, count: int) -> str:
    ending = "" if count == 1 else "es" if kind.endswith("s") else "s"
    return f"{count} {kind}{ending}"


def _candidates(text: str) -> Iterator[Personal]:
    """Yield what is proven, kinds that win over others first."""
    for kind in [kind for mark, kind in _KEY_MARKS if mark in text]:
        for match in kind.pattern.finditer(text):
            if is_secret(match[0]):
                yield Personal("key", match.start(), match.end(), "[KEY]", f"{kind.issuer} {match[0][:4]}…")
    if "@" in text:
        yield from _proven(_EMAIL, text)
    if _LONG_NUMBER.search(text):
        for number in _NUMBERS:
            yield from _proven(number, text)


def _proven(kind: PersonalKind, text: str) -> Iterator[Personal]:
    for match in kind.pattern.finditer(text):
        if kind.proven(match[0]):
            yield Personal(kind.name, match.start(), match.end(), kind.mask, kind.shown(match[0]))
