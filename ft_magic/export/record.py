"""The certificate: do adapter, merged model and every GGUF file answer alike?

``certify`` measures it in a heavy process; ``Certificate`` is the record, written as ``certificate.json``,
read and shown in the kernel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ft_magic import atomic
from ft_magic.errors import ExportError
from ft_magic.export.verdicts import BROKEN, OK, WARNING
from ft_magic.ui.show import BAD, GOOD, WARN, Shown, badge_html, shown_table

FORMAT = 1
_COLOURS: Mapping[str, str] = {OK: GOOD, WARNING: WARN, BROKEN: BAD}
_SENTENCES: Mapping[str, str] = {
    OK: "Every form answers like the model as trained.",
    WARNING: "At least one form is further from the model as trained than it should be.",
    BROKEN: "At least one form is not the model as trained: do not ship it.",
}
_SAMPLES = 2  # answers shown side by side; certificate.json holds more


@dataclass(frozen=True)
class Form:
    """One form of the model and how it answers.

    Attributes:
        name: ``adapter``, ``merged`` or the file's name.
        file_type: ``peft``, ``safetensors`` or a GGUF file type such as ``Q4_K_M``.
        path: folder or file.
        bytes: size of its weights.
        sha256: hash of each weight file, by its name.
        verdict: ``ok``, ``warning`` or ``broken``.
        says: the verdict in one sentence.
        mean_kl: mean KL divergence in nats of the answer tokens, trained model against this form.
        max_kl: the largest KL of one token.
        kl_limit: mean KL that this file type may have.
        kl_over: what KL was summed over: the full vocabulary, or the likeliest tokens and a rest (a lower
            bound).
        top1_share: share of answer tokens where both would choose the same.
        identical_share: share of prompts with the same greedy answer to the last token.
        prefix_share: mean share of an answer that is the same from its start.
        widest_tie_nats: where answers part, how far apart the two tokens were for the trained model, at most.
        stopped_share: share of answers ended by a stop token.
        ran_on_share: share of answers that went on after a stop token.
        prompt_equal: whether the chat template renders the same prompt; None where it was not asked.
        tokens_equal: whether text becomes the same token ids; None where it was not asked.
        stop_equal: whether the tokenizer's stop token ends answers; None where it was not asked.
        start_s: seconds until it was loaded.
        first_answer_s: seconds of the first answer.
        tokens_per_s: speed of writing, this machine.
    """

    name: str
    file_type: str
    path: str
    bytes: int
    sha256: Mapping[str, str]
    verdict: str
    says: str
    mean_kl: float | None = None
    max_kl: float | None = None
    kl_limit: float | None = None
    kl_over: str = ""
    top1_share: float | None = None
    identical_share: float | None = None
    prefix_share: float | None = None
    widest_tie_nats: float | None = None
    stopped_share: float | None = None
    ran_on_share: float | None = None
    prompt_equal: bool | None = None
    tokens_equal: bool | None = None
    stop_equal: bool | None = None
    start_s: float | None = None
    first_answer_s: float | None = None
    tokens_per_s: float | None = None


@dataclass(frozen=True)
class Sample:
    """One held-out prompt (its end, as text) with the answer of each form."""

    prompt: str
    answers: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class Certificate:
    """The proof that all forms of a model agree, or the list of those that do not.

    Attributes:
        verdict: the worst verdict of all forms.
        forms: adapter first, then the merged model, then the GGUF files.
        prompts: held-out prompts answered.
        answer_tokens: answer tokens compared for each form.
        max_new_tokens: longest answer asked for.
        samples: prompts with the answer of each form.
        versions: versions of the libraries that took part.
        created: when, in ISO 8601, UTC.
        seconds: how long it took.
    """

    verdict: str
    forms: tuple[Form, ...]
    prompts: int
    answer_tokens: int
    max_new_tokens: int
    samples: tuple[Sample, ...]
    versions: Mapping[str, str]
    created: str
    seconds: float

    @property
    def says(self) -> str:
        """The verdict in one sentence."""
        return _SENTENCES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as plain JSON values."""
        return {"format": FORMAT, "verdict": self.verdict, "says": self.says} | asdict(self)

    def write(self, path: Path) -> None:
        """Write the certificate in one step."""
        atomic.write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Certificate:
        """Read a certificate.

        Raises:
            ExportError: there is none, or it is damaged.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            forms = tuple(Form(**form) for form in raw.pop("forms"))
            samples = tuple(Sample(**sample) for sample in raw.pop("samples"))
            raw.pop("format"), raw.pop("says")
            return cls(forms=forms, samples=samples, **raw)
        except FileNotFoundError:
            raise ExportError(
                f"There is no certificate at {path}.", "Make one with run.export(gguf='q4_k_m')."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ExportError(
                f"The certificate at {path} cannot be read: {error}.", "Export the run again."
            ) from error

    def shown(self) -> Shown:
        """Return the certificate as tables: the forms, then some answers side by side."""
        header = ("form", "type", "MB", "verdict", "KL", "same tokens", "same answers", "first answer")
        rows = [_row(form) for form in self.forms]
        notes = [f"{form.name}: {form.says}" for form in self.forms]
        notes.append(
            f"{self.prompts} held-out prompts, {self.answer_tokens} answer tokens. KL: mean divergence from "
            "the model as trained, nats a token. Same tokens, same answers: greedy, against it."
        )
        title = f"Certificate: {self.verdict}. {self.says}"
        shown = shown_table([_badged(row) for row in rows], header, title=title, notes=notes)
        text = shown_table(rows, header, title=title, notes=notes).text
        for sample in self.samples[:_SAMPLES]:
            answers = shown_table(list(sample.answers.items()), ("form", f"answer to: {sample.prompt}"))
            shown = Shown(shown.html + answers.html, "")
            text += "\n\n" + answers.text
        return Shown(shown.html, text)

    def _repr_html_(self) -> str:
        return self.shown().html

    def __repr__(self) -> str:
        return self.shown().text


def sha256_of(path: Path) -> dict[str, str]:
    """Return the SHA-256 of a file, or of each weight file in a folder, by file name."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    found = {}
    for file in files:
        with file.open("rb") as stream:
            found[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def bytes_of(path: Path) -> int:
    """Return the size of a file, or of the weight files in a folder."""
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _row(form: Form) -> list[object]:
    """Return one row of the table; text but for the numbers that are set right."""
    return [
        form.name,
        form.file_type,
        f"{form.bytes / 1e6:.1f}",
        form.verdict,
        None if form.mean_kl is None else f"{form.mean_kl:.5f}",
        _percent(form.top1_share),
        _percent(form.identical_share),
        None if form.first_answer_s is None else f"{form.first_answer_s:.2f} s",
    ]


def _badged(row: list[object]) -> list[object]:
    verdict = str(row[3])
    return [*row[:3], badge_html(verdict, _COLOURS[verdict]), *row[4:]]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %"
