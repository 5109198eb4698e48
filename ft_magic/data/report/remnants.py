"""Remnants of where text came from: damaged characters, HTML, blanks nobody filled in; and their repair."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from importlib.util import find_spec

from ft_magic.errors import DataError

# {{name}}, [Your Name], [Insert date], <your name>, lorem ipsum: what a template wanted filled in
_BLANK = re.compile(
    r"\{\{\s*[A-Za-z_]\w*\s*\}\}|\[(?:your|insert|enter your) [^\]\n]{1,40}\]|<(?:your|insert|enter)[ _-][\w -]{1,40}>"
    r"|lorem ipsum dolor",
    re.IGNORECASE,
)
# U+FFFD, half characters (surrogates), and UTF-8 bytes read as cp1252 or latin-1: the lead byte's letter followed by
# what was a trail byte.
_MOJIBAKE = re.compile(
    r"[\ufffd\ud800-\udfff]|[ÃÂ][\u0080-\u00bf]|ð[Ÿ\u009f]|(?:[ÐÑ][\u0080-\u00bf]){2}"
    r"|â[€\u0080][\u0080-\u00bf\u0153\u0161\u2018-\u201e\u2020-\u203a\u2122]"
)
_HTML = re.compile(
    r"</(?:p|div|span|a|li|ul|ol|b|i|em|strong|h[1-6]|td|tr|table|font)>|<br\s*/?>|&(?:nbsp|amp|lt|gt|quot|#\d{2,5});"
)
# Code stays as it is: in fences, in backticks, and in rows that speak of HTML itself.
_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`", re.DOTALL)
_SPEAKS_OF_HTML = re.compile(
    r"\bhtml5?\b|<!doctype|<html|\bcss\b|\bjavascript\b|\bjsx\b|\bxml\b|\bweb ?page\b|<script"
    r"|\b(?:opening|closing) tag",
    re.IGNORECASE,
)
# longer names first
_TAGS = (
    r"blockquote|figcaption|article|section|center|figure|footer|header|strike|strong|aside|small|table"
    r"|tbody|tfoot|thead|abbr|body|cite|code|font|main|mark|span|big|del|div|img|ins|kbd|nav|pre|sub|sup"
    r"|wbr|br|dd|dl|dt|em|h1|h2|h3|h4|h5|h6|hr|li|ol|td|th|tr|tt|ul|a|b|i|p|q|s|u"
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_BREAK = re.compile(
    r"(?i)[ \t]*(?:<br\s*/?>|<hr\b[^<>]*>|</(?:p|div|li|ul|ol|h[1-6]|tr|table|blockquote|section|dd|dt|pre)\s*>)"
    r"(?:[ \t]*\n)?"
)
_TAG = re.compile(rf"(?i)</?(?:{_TAGS})(?:\s[^<>]*)?/?>")
_ENTITY = re.compile(r"&(?:#\d{2,7}|#[xX][0-9A-Fa-f]{2,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_MANY_BREAKS = re.compile(r"\n{3,}")


def has_blank(text: str) -> bool:
    """Tell whether a text outside code holds a blank such as ``{{name}}`` or ``[Your Name]``."""
    if not ("{{" in text or "[" in text or "<" in text or "ipsum" in text.lower()):
        return False
    return _BLANK.search(text) is not None and _BLANK.search(_CODE.sub("", text)) is not None


def is_damaged(text: str) -> bool:
    """Tell whether a text holds U+FFFD or characters of a wrongly read encoding."""
    return not text.isascii() and _MOJIBAKE.search(text) is not None


def has_html(text: str) -> bool:
    """Tell whether a text that does not speak of HTML holds HTML outside code."""
    if not ("</" in text or "<br" in text or "&" in text) or _HTML.search(text) is None:
        return False
    return _HTML.search(_CODE.sub("", text)) is not None and _SPEAKS_OF_HTML.search(text) is None


def without_html(text: str) -> str:
    """Return a text without tags and entities; code, unknown tags and ``a < b`` stay."""
    made = _outside_code(text, _stripped)
    return made if made == text else _MANY_BREAKS.sub("\n\n", made).strip()


def repaired(text: str) -> str:
    """Return a text whose wrongly read characters are those that were meant; what is lost stays U+FFFD.

    Raises:
        DataError: ftfy is not installed.
    """
    if not is_damaged(text):
        return text
    if find_spec("ftfy") is None:
        raise DataError(
            "Repairing characters needs the package ftfy, which is not installed.", "pip install ftfy"
        )
    import ftfy

    # Two halves of a character become one; half of one is lost.
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    made: str = ftfy.fix_encoding(whole)
    return made


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(text[end:])])


def _stripped(text: str) -> str:
    bare = _TAG.sub("", _BREAK.sub("\n", _COMMENT.sub("", text)))
    return _ENTITY.sub(lambda match: html.unescape(match[0]), bare).replace("\xa0", " ")
