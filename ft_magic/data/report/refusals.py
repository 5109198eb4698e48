"""Refusals: answers that decline to answer, known by how they begin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# Built after the openings that Zou et al. 2023 (arXiv 2307.15043, appendix B) look for, made stricter: an answer is
# accused only where it names itself a machine or declines the request itself. "I'm sorry for the delay" does not.
_SORRY = (
    r"(?:(?:i'?m|i am|we'?re|we are) (?:(?:very|really|so|truly|deeply) )?(?:sorry|afraid)|sorry|(?:my )?apologies"
    r"|i (?:do )?apologi[sz]e|unfortunately|i regret(?: to (?:say|inform you))?)"
    r"(?: (?:for (?:any|the) (?:confusion|inconvenience)))?[,.!:]?(?: (?:but|however|that))?,?\s*"
)
_AS_AN_AI = (
    r"as an? (?:(?:responsible|ethical|helpful|harmless) )*(?:(?:ai|artificial intelligence|large|machine)[ -])?"
    r"(?:ai|artificial intelligence|language model|(?:chat ?bot|(?:virtual |digital )?assistant)(?= ?,))"
    r"(?:[ -](?:language )?(?:model|assistant|system|program|chatbot))?"
    r"(?: (?:developed|created|trained|made|designed) by [\w .]{2,30})?"
)
_CANNOT = (
    r"(?:i|we) ?(?:can(?:not|'?t| not)|won'?t|will not|(?:'m|am|'re|are) (?:unable|not (?:able|allowed|permitted"
    r"|programmed|comfortable|capable))|must (?:\w+ )?decline|have to decline|don'?t feel comfortable|refuse)"
    r"(?: (?:of|to|with))?(?: (?:be|being))? ?"
)
_HELP = (
    r"(?:(?:able )?(?:to )?(?:assist(?:ing)?(?: you)? (?:with|in)|assist(?= ?[.,!])|help(?:ing)? (?:you )?with"
    r"|fulfil+(?:ing)?|comply(?:ing)?\b|engag(?:e|ing) in|participat(?:e|ing) in|condon(?:e|ing)"
    r"|(?:provid(?:e|ing)|shar(?:e|ing)|giv(?:e|ing)|offer(?:ing)?|generat(?:e|ing)|creat(?:e|ing)|writ(?:e|ing)"
    r"|produc(?:e|ing)|answer(?:ing)?|respond(?:ing)? to|continu(?:e|ing)|discuss(?:ing)?)"
    r"(?: you)?(?: with)?(?: [\w-]+){0,3}? "
    r"(?:information|instructions|assistance|guidance|advice|(?:this|that|your|such an?) "
    r"(?:request|question|topic|prompt|content|conversation))\b|answer that\b|do that\b))"
)
_AI = (
    r"(?:(?:ai|artificial intelligence)(?: (?:language )?(?:model|assistant|system|chatbot))?"
    r"|(?:large )?language model)"
)
# what an answer that is no answer begins with, in lower case with plain apostrophes
_OPENINGS: tuple[str, ...] = (
    # says that it is a machine, then what it cannot, has not or is not
    (rf"(?:{_SORRY})?{_AS_AN_AI},? (?:i|it|my)(?:'m| am)?\b[^.]{{0,60}}?"
    r"(?:not|n't|cannot|unable|without|lack|decline|limited|only|no )"),
    rf"{_SORRY}{_AS_AN_AI}",
    (rf"(?:{_SORRY})?i(?:'m| am) (?:just |only |merely )?an? {_AI}"
     r"(?=[,.;]| (?:and|so|that|which|without|developed|created|trained)\b)[^.]{0,60}?"
     r"(?:not|n't|cannot|unable|without|no )"),
    # declines the request
    rf"(?:{_SORRY})?{_CANNOT}{_HELP}",
    # the same in German, French, Spanish and Chinese, where it names itself a machine
    (r"(?:es )?tut mir leid,? (?:aber )?(?:als (?:eine? )?(?:ki|sprachmodell)"
     r"|(?:ich kann|dabei kann ich) (?:dir|ihnen)? ?(?:dabei |damit )?(?:leider )?nicht helfen)"),
    (r"als (?:eine? )?(?:ki(?:-(?:sprach)?modell|-assistent)?|sprachmodell),? (?:kann|habe|bin) ich "
     r"(?:leider )?(?:nicht|kein)"),
    (r"(?:(?:je suis )?désolée?,? (?:mais )?)?en tant (?:qu'|que )"
     r"(?:ia|intelligence artificielle|modèle (?:de langage|linguistique))"),
    (r"(?:lo siento,? (?:pero )?)?como (?:una? )?"
     r"(?:ia|inteligencia artificial|modelo de (?:lenguaje|inteligencia)),? no"),
    r"(?:(?:很)?抱歉[\uff0c,]?)?(?:作为(?:一个|一名)?(?:ai|人工智能|语言模型))",
)  # fmt: skip
_REFUSAL = re.compile(r"[\s\"'*]*(?:" + "|".join(_OPENINGS) + ")")
# every opening begins with one of these: most answers are cleared without the pattern above
_FIRST = re.compile(
    r"[\s\"'*]*(?:i['\u2019 ]|we['\u2019 ]|sorry|my apolog|apolog|unfortun|as an? |es tut|tut mir|als "
    r"|je suis|désolé|en tant"
    r"|lo siento|como |很?抱歉|作为)",
    re.IGNORECASE,
)
_LOOKED_AT_CHARACTERS = 300


def is_refusal(answer: str) -> bool:
    """Tell whether an answer begins as a refusal; precision comes before completeness."""
    if _FIRST.match(answer) is None:
        return False
    begin = " ".join(answer[:_LOOKED_AT_CHARACTERS].lower().replace("\u2019", "'").split())
    return _REFUSAL.match(begin) is not None


def refuses(row: Mapping[str, Any]) -> bool:
    """Tell whether a row teaches a refusal: an answer of a demonstration, a chosen one, or one marked good."""
    if row.get("label") is False:
        return False
    return any(is_refusal(answer) for answer in _taught(row))


def _taught(row: Mapping[str, Any]) -> Iterator[str]:
    value = row.get("messages") or row.get("chosen") or row.get("completion") or ()
    if isinstance(value, str):
        yield value
        return
    yield from (turn["content"] or "" for turn in value if turn["role"] == "assistant")
