"""Languages: which ones the answers are in, and rows unlike the rest."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ft_magic.data.report.finding import Finding, finding_of
from ft_magic.data.report.shingles import spread
from ft_magic.data.row import Row, answer_text, prompt_text, well_formed
from ft_magic.errors import DataError
from ft_magic.progress import Progress, silent

# Telling a language takes about 0.8 ms a KB (measured, py3langid 0.4): 2,000 rows are a second.
SAMPLE_ROWS = 2_000
# Of 999 English answers none was taken for another language above 0.75 but quotations in it (measured).
_SURE = 0.9
_LEAST_LETTERS = 20  # names, numbers and single words belong to no language
_READ_CHARACTERS = 500
_NO_LANGUAGE = "zxx"  # ISO 639: no linguistic content
_MAIN_SHARE = 0.8  # from here on the other languages are the exception, below the data are multilingual
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)


@dataclass(frozen=True)
class Mix:
    """Languages of some rows.

    Attributes:
        looked_at: rows that were looked at.
        told: index -> ISO 639 code, of the rows whose language is sure.
    """

    looked_at: int
    told: dict[int, str]

    @property
    def counts(self) -> list[tuple[str, int]]:
        """(language, rows), the commonest first."""
        return Counter(self.told.values()).most_common()

    @property
    def main(self) -> str:
        """The language of at least four rows in five; empty where there is none."""
        counts = self.counts
        return counts[0][0] if counts and counts[0][1] >= _MAIN_SHARE * len(self.told) else ""

    def foreign(self) -> list[int]:
        """Return the indices of rows in another language than the main one."""
        main = self.main
        return [index for index, language in self.told.items() if language != main] if main else []


def can_tell() -> bool:
    """Tell whether the package for it is installed."""
    return find_spec("py3langid") is not None


def mix_of(rows: Sequence[Row], *, every: bool = False, progress: Progress = silent) -> Mix:
    """Return the languages of the answers (of texts and prompts where there are none).

    Args:
        rows: the rows.
        every: look at each row; otherwise at most 2,000, evenly spread.
        progress: told how far it is, in rows.

    Raises:
        DataError: py3langid is not installed.
    """
    if not can_tell():
        raise DataError(
            "Telling languages needs the package py3langid, which is not installed.", "pip install py3langid"
        )
    chosen = range(len(rows)) if every else spread(len(rows), SAMPLE_ROWS)
    return Mix(len(chosen), dict(_told(rows, chosen, progress)))


def language_finding(mix: Mix, rows: int) -> Finding | None:
    """Return the finding about several languages, None where there is one."""
    if len(mix.counts) < 2:
        return None
    total = len(mix.told)
    shares = ", ".join(f"{language} {100 * count / total:.1f} %" for language, count in mix.counts[:5])
    more = f" and {len(mix.counts) - 5} more" if len(mix.counts) > 5 else ""
    seen = "" if mix.looked_at == rows else f" (looked at {mix.looked_at} of {rows} rows, evenly spread)"
    if not mix.main:
        message = f"Answers in several languages: {shares}{more}{seen}."
        return Finding("languages", "info", total, message, tuple(list(mix.told)[:3]))
    message = f"{{n}} in another language than the rest: {shares}{more}{seen}."
    return finding_of("languages", "info", mix.foreign(), message, "data.fix('languages')")


def _told(rows: Sequence[Row], chosen: Sequence[int], progress: Progress) -> Iterable[tuple[int, str]]:
    identifier = _identifier()
    for done, index in enumerate(chosen):
        text = _CODE.sub(" ", (answer_text(rows[index]) or prompt_text(rows[index]))[:_READ_CHARACTERS])
        if sum(map(str.isalpha, text)) >= _LEAST_LETTERS:
            language, probability = identifier.classify(well_formed(text))
            if probability >= _SURE and language != _NO_LANGUAGE:
                yield index, str(language)
        if done % 500 == 0:
            progress("telling languages", done, len(chosen))


@functools.cache  # 0.3 s to read 4.6 MB of model (measured on a laptop-class CPU)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
