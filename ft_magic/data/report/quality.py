"""What is off in the rows: one function a finding, one table of them."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.data.finding import LEVELS, Finding, finding_line, finding_of
from ft_magic.data.preferences import label_findings, pair_findings
from ft_magic.data.row import Row, answer_text, canonical, contents, prompt_text

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.tokenizer import Tokenizer

_FEW_ROWS = (
    100  # LIMA (arXiv 2305.11206) needed 1,000 rows for a style; under 100 answers are mostly memorised
)
_FAR_OUT = 3.0  # Tukey 1977: beyond three interquartile ranges; taken on the logarithm of the length
_LEAST_FACTOR = 4.0  # and at least this many times longer or shorter than the median

_PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_]\w*\s*\}\}")
# U+FFFD, and UTF-8 bytes read as cp1252 or latin-1: the lead byte's letter followed by what was a trail byte.
_MOJIBAKE = re.compile(
    "\ufffd|[ÃÂ][\u0080-\u00bf]|â€[\u0080-\u00bf\u0153\u0161\u2018-\u201e\u2020-\u203a\u2122]|(?:[ÐÑ][\u0080-\u00bf]){2}"
)
_HTML = re.compile(
    r"</(?:p|div|span|a|li|ul|ol|b|i|em|strong|h[1-6]|td|tr|table|font)>|<br\s*/?>|&(?:nbsp|amp|lt|gt|quot|#\d{2,5});"
)
_FENCED_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


@dataclass(frozen=True)
class Report:
    """What is off in some data, the worst first.

    Attributes:
        name: name of the data.
        rows: number of rows looked at.
        signal: their signal.
        unit: what lengths are counted in, ``tokens`` or ``characters``.
        length_median: median length of a row in that unit.
        length_max: longest row in that unit.
        findings: what is off.
    """

    name: str
    rows: int
    signal: str
    unit: str
    length_median: float
    length_max: int
    findings: tuple[Finding, ...]

    def to_frame(self) -> Any:
        """Return the findings as a pandas DataFrame."""
        from ft_magic.data.data import frame_of

        return frame_of(asdict(finding) for finding in self.findings)

    def __str__(self) -> str:
        head = (
            f"{self.name}: {self.rows} {self.signal} rows, median {self.length_median:g}, "
            f"longest {self.length_max} {self.unit}"
        )
        return "\n".join([head, *(finding_line(finding) for finding in self.findings or ())])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002  IPython's protocol
        printer.text(str(self))

    def _repr_html_(self) -> str:
        from ft_magic.data.card import report_card

        return report_card(self)


def make_report(data: Data, tokenizer: Tokenizer | None = None) -> Report:
    """Look at every row and return what is off.

    Args:
        data: rows of one signal.
        tokenizer: counts lengths in tokens instead of characters.
    """
    texts = [contents(row) for row in data.rows]
    lengths = _lengths(texts, tokenizer)
    unit = "tokens" if tokenizer else "characters"
    found = [
        _dropped(data),
        *(check(data.rows) for check in _CHECKS),
        *_patterns(texts),
        *_outliers(lengths, unit),
        *(_MORE_CHECKS[data.signal](data.rows) if data.signal in _MORE_CHECKS else ()),
    ]
    findings = sorted((f for f in found if f is not None), key=lambda f: LEVELS.index(f.level))
    median = statistics.median(lengths) if lengths else 0
    return Report(data.name, len(data), data.signal, unit, median, max(lengths, default=0), tuple(findings))


def _lengths(texts: list[list[str]], tokenizer: Tokenizer | None) -> list[int]:
    if tokenizer is None:
        return [sum(map(len, parts)) for parts in texts]
    return [len(ids) for ids in tokenizer.encode_batch(["\n".join(parts) for parts in texts])]


def _dropped(data: Data) -> Finding | None:
    if not data.dropped:
        return None
    message = f"{data.dropped.count} source rows could not be used and were kept out: {data.dropped}."
    return Finding("dropped", "warning", data.dropped.count, message, (), "see data.dropped.examples")


def _few(rows: tuple[Row, ...]) -> Finding | None:
    # Few texts may be long documents: rows count only where each is one lesson.
    if len(rows) >= _FEW_ROWS or "text" in rows[0]:
        return None
    message = f"Only {len(rows)} rows: below {_FEW_ROWS} a model mostly memorises them."
    fix = "collect more, or put a few good rows into the prompt instead of training"
    return Finding("few", "warning", len(rows), message, (), fix)


def _empty(rows: tuple[Row, ...]) -> Finding | None:
    from ft_magic.data.data import is_empty

    empty = [index for index, row in enumerate(rows) if is_empty(row)]
    return finding_of("empty", "problem", empty, "{n} without a prompt or an answer.", "data.fix('empty')")


def _duplicates(rows: tuple[Row, ...]) -> Finding | None:
    seen: set[str] = set()
    again = []
    for index, row in enumerate(rows):
        key = canonical(row)
        if key in seen:
            again.append(index)
        seen.add(key)
    message = "{n} exactly equal to an earlier one: counted twice in training."
    return finding_of("duplicates", "warning", again, message, "data.fix('duplicates')")


def _contradictions(rows: tuple[Row, ...]) -> Finding | None:
    if rows and "label" in rows[0] and "completion" in rows[0]:
        return None  # good and bad answers to one prompt are the point of judged answers
    answers: dict[str, set[str]] = {}
    pairs = [(prompt_text(row), answer_text(row)) for row in rows if "text" not in row]
    for prompt, answer in pairs:
        answers.setdefault(prompt, set()).add(answer)
    several = [index for index, (prompt, _) in enumerate(pairs) if len(answers[prompt]) > 1]
    level = "info" if rows and "chosen" in rows[0] else "warning"
    message = "{n} whose prompt is answered differently in another row."
    return finding_of(
        "different_answers", level, several, message, "keep the better answer where only one is right"
    )


_CHECKS: tuple[Callable[[tuple[Row, ...]], Finding | None], ...] = (
    _few,
    _empty,
    _duplicates,
    _contradictions,
)


# signal -> what only its rows can have
_MORE_CHECKS: Mapping[str, Callable[[tuple[Row, ...]], list[Finding | None]]] = MappingProxyType(
    {"pair": pair_findings, "label": label_findings}
)


def _patterns(texts: list[list[str]]) -> list[Finding | None]:
    placeholders: list[int] = []
    damaged: list[int] = []
    html: list[int] = []
    for index, parts in enumerate(texts):
        joined = "\n".join(parts)
        if "{{" in joined and _PLACEHOLDER.search(joined):
            placeholders.append(index)
        if not joined.isascii() and _MOJIBAKE.search(joined):
            damaged.append(index)
        if ("<" in joined or "&" in joined) and _HTML.search(_FENCED_CODE.sub("", joined)):
            html.append(index)
    return [
        finding_of(
            "placeholders", "warning", placeholders, "{n} with an unfilled placeholder such as {{name}}.",
            "fill them before loading",
        ),
        finding_of(
            "encoding", "warning", damaged,
            "{n} with damaged characters (U+FFFD, or 'Ã©' where 'é' was meant).",
            "read the source again with its real encoding",
        ),
        finding_of("html", "info", html, "{n} with HTML outside code: the model will learn to write it."),
    ]  # fmt: skip


def _outliers(lengths: list[int], unit: str) -> list[Finding | None]:
    filled = [math.log(length) for length in lengths if length]
    if len(filled) < 8:  # quartiles of fewer rows say nothing
        return []
    low, median, high = statistics.quantiles(filled, n=4)
    reach = max(_FAR_OUT * (high - low), math.log(_LEAST_FACTOR))
    long = [i for i, length in enumerate(lengths) if length and math.log(length) > max(high, median) + reach]
    short = [i for i, length in enumerate(lengths) if length and math.log(length) < min(low, median) - reach]
    long.sort(key=lambda i: -lengths[i])
    short.sort(key=lambda i: lengths[i])
    around = f"(median {math.exp(median):.0f} {unit}"
    return [
        finding_of(
            "long", "info", long, f"{{n}} far longer than the rest {around}, longest {max(lengths)})."
        ),
        finding_of("short", "info", short, f"{{n}} far shorter than the rest {around})."),
    ]
