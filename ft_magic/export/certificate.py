"""The certificate: do adapter, merged model and every GGUF file answer alike?

``certify`` measures it in a heavy process: torch for adapter and merged model, llama.cpp for GGUF files.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_magic.errors import ExportError
from ft_magic.export import agreement, trained
from ft_magic.export.agreement import TOP, Agreement, Ids, Reference
from ft_magic.export.describe import describe
from ft_magic.export.merge import PROBE_TEXTS
from ft_magic.export.record import Certificate, Form, Sample, bytes_of, sha256_of
from ft_magic.export.refusals import check_adapter
from ft_magic.export.verdicts import BROKEN, OK, Reading, judge, kl_limit, overall
from ft_magic.packages import versions_of
from ft_magic.progress import Progress, silent
from ft_magic.serve.llamacpp import Runtime

__all__ = ["Certificate", "certify"]

PACKAGES = ("ft-magic", "torch", "transformers", "peft", "tokenizers", "gguf", "xllamacpp")
SAMPLES = 4
SAMPLE_PROMPT_CHARACTERS = 200
SMALLEST_CONTEXT_TOKENS = 512
PROBE_CHATS: Sequence[Sequence[dict[str, str]]] = (
    ({"role": "user", "content": "What is the capital of France? Answer in 1 sentence."},),
    (
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Caf\u00e9 \u4f60\u597d?\n  2 lines"},
    ),
)


def certify(  # noqa: PLR0913  what is compared, on what, and where the result goes
    base: Path,
    adapter: Path | None,
    merged: Path,
    ggufs: Sequence[Path],
    prompts: Sequence[Sequence[int]],
    *,
    out: Path,
    titles: Sequence[str] = (),
    base_bits: int = 0,
    max_new_tokens: int = 48,
    progress: Progress | None = None,
) -> Certificate:
    """Compare base + adapter, merged model and GGUF files on held-out prompts; write the certificate.

    Args:
        base: folder of the base model; of the fully fine-tuned model where there is no adapter.
        adapter: adapter folder, or None.
        merged: folder of the merged model, with its tokenizer.
        ggufs: GGUF files made of it.
        prompts: held-out prompts as token ids, rendered as in training; 16 are enough (about 500 answer
            tokens).
        out: where ``certificate.json`` is written.
        titles: the prompts as a person wrote them, for showing; by default the end of the rendered prompt.
        base_bits: 4 where training held the base in NF4.
        max_new_tokens: longest answer in tokens.
        progress: told how many prompts each form has answered.

    Raises:
        ExportError: no prompts, a file is missing, or the runtime is not installed. A form that does not
            agree is a verdict, not an error; so is a file that llama.cpp cannot load.
    """
    from transformers import AutoTokenizer

    if adapter is not None:
        check_adapter(adapter)
    if not prompts or not all(prompts):
        raise ExportError(
            "A certificate needs held-out prompts.", "Give each as a list of token ids, none empty."
        )
    started_s = time.monotonic()
    bench = _Bench(
        AutoTokenizer.from_pretrained(merged), trained.working_dtype(base), max_new_tokens, progress or silent
    )
    trained_form, expected = bench.as_trained(base, adapter, base_bits, prompts)
    measured = [(trained_form, expected.answers), bench.merged(merged, expected)]
    measured += [bench.gguf(gguf, expected) for gguf in ggufs]
    forms = tuple(form for form, _ in measured)
    certificate = Certificate(
        verdict=overall([form.verdict for form in forms]),
        forms=forms,
        prompts=len(expected.prompts),
        answer_tokens=sum(map(len, expected.answers)),
        max_new_tokens=max_new_tokens,
        samples=bench.samples(expected, titles, {form.name: answers for form, answers in measured}),
        versions=versions_of(PACKAGES),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started_s, 1),
    )
    certificate.write(out)
    return certificate


@dataclass(frozen=True)
class _Bench:
    """What every form is measured with.

    Attributes:
        tokenizer: transformers tokenizer of the merged folder.
        dtype: number format of the torch models.
        max_new_tokens: longest answer in tokens.
        report: progress.
    """

    tokenizer: Any
    dtype: str
    max_new_tokens: int
    report: Progress

    def as_trained(
        self, base: Path, adapter: Path | None, base_bits: int, prompts: Sequence[Sequence[int]]
    ) -> tuple[Form, Reference]:
        """Return the model as trained, which is the reference."""
        started_s = time.monotonic()
        model = trained.load_trained(base, adapter, base_bits=base_bits, dtype=self.dtype)
        loaded_s = time.monotonic()
        expected = agreement.reference(model, prompts, self._stops(base), self.max_new_tokens, self.report)
        weights = adapter or base
        form = Form(
            name="trained" if adapter is None else "adapter",
            file_type="safetensors" if adapter is None else "peft",
            path=str(weights),
            bytes=bytes_of(weights),
            sha256=sha256_of(weights),
            verdict=OK,
            says=f"The reference: the model as trained, computed in {self.dtype}.",
            stopped_share=sum(expected.stopped) / len(expected.stopped),
            start_s=round(loaded_s - started_s, 2),
        )
        return form, expected

    def merged(self, folder: Path, expected: Reference) -> tuple[Form, tuple[Ids, ...]]:
        """Return the merged model against the reference."""
        gc.collect()
        started_s = time.monotonic()
        model = trained.load_trained(folder, None, dtype=self.dtype)
        start_s = time.monotonic() - started_s
        found = agreement.of_torch(model, expected, self.report, "comparing merged")
        form = self._form("merged", "safetensors", folder, found, None)
        return replace(form, kl_over="full vocabulary", start_s=round(start_s, 2)), found.answers

    def gguf(self, gguf: Path, expected: Reference) -> tuple[Form, tuple[Ids, ...]]:
        """Return a GGUF file in llama.cpp against the reference."""
        gc.collect()
        file_type = "unknown"
        longest = max(map(len, expected.prompts)) + self.max_new_tokens
        started_s = time.monotonic()
        try:
            kind = describe(gguf)
            file_type = kind.file_type
            with Runtime(gguf, context_tokens=max(longest + 1, SMALLEST_CONTEXT_TOKENS)) as runtime:
                start_s = time.monotonic() - started_s
                first = runtime.generate(expected.prompts[0], self.max_new_tokens)
                reading = self._reading(runtime, kind.stop_ids, expected.prompts)
                found = agreement.of_runtime(
                    runtime, expected, self.max_new_tokens, self.report, f"comparing {file_type}"
                )
        except ExportError as error:
            return _unusable(gguf, file_type, error), ()
        form = self._form(gguf.name, file_type, gguf, found, reading)
        return replace(
            form,
            kl_over=f"{TOP} likeliest tokens and a rest",
            start_s=round(start_s, 2),
            first_answer_s=round(first.prompt_s + first.answer_s, 2),
            tokens_per_s=round(len(first.token_ids) / max(first.answer_s, 1e-3), 1),
        ), found.answers

    def samples(
        self, expected: Reference, titles: Sequence[str], answers: Mapping[str, tuple[Ids, ...]]
    ) -> tuple[Sample, ...]:
        """Return the first prompts with the answer of each form, as text."""
        found = []
        for number, prompt in enumerate(expected.prompts[:SAMPLES]):
            texts = {
                name: self.tokenizer.decode(list(given[number]), skip_special_tokens=True)
                for name, given in answers.items()
                if given
            }
            rendered = self.tokenizer.decode(list(prompt), skip_special_tokens=True).strip()
            text = titles[number] if number < len(titles) and titles[number] else rendered
            found.append(Sample(text[-SAMPLE_PROMPT_CHARACTERS:], texts))
        return tuple(found)

    def _form(
        self,
        name: str,
        file_type: str,
        path: Path,
        found: Agreement,
        reading: Reading | None,
    ) -> Form:
        verdict, says = judge(file_type, found, reading)
        figures: dict[str, Any] = {
            key: value if isinstance(value, int) else float(f"{value:.4g}")
            for key, value in asdict(found).items()
            if key not in ("positions", "answers")
        }
        return Form(
            name=name,
            file_type=file_type,
            path=str(path),
            bytes=bytes_of(path),
            sha256=sha256_of(path),
            verdict=verdict,
            says=says,
            kl_limit=kl_limit(file_type),
            **figures,
            **(asdict(reading) if reading else {}),
        )

    def _stops(self, base: Path) -> list[int]:
        """Return the ids that end an answer: the tokenizer's, and those of the generation settings."""
        from transformers import GenerationConfig

        stops = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        if (base / "generation_config.json").is_file():
            given = GenerationConfig.from_pretrained(base).eos_token_id
            stops += given if isinstance(given, list) else [] if given is None else [given]
        if not stops:
            raise ExportError(
                f"The tokenizer of {base} names no stop token.", "Set its eos_token, then export again."
            )
        return list(dict.fromkeys(stops))

    def _reading(self, runtime: Runtime, stop_ids: Sequence[int], prompts: Sequence[Ids]) -> Reading:
        """Return whether the file reads chats, prompts and texts as the tokenizer does."""
        chats = [self._chat_reading(runtime, chat) for chat in PROBE_CHATS if self._renders(chat)]
        # Plain text with what each side puts before it: a start token missing or doubled shows here.
        plain = all(
            runtime.tokenize(t, add_special=True) == self.tokenizer(t)["input_ids"] for t in PROBE_TEXTS
        )
        rendered = [(self.tokenizer.decode(list(prompt)), list(prompt)) for prompt in prompts]
        # A prompt cut to length may end inside a character; only what the tokenizer itself reads back can
        # count.
        own = [
            (t, ids) for t, ids in rendered if self.tokenizer(t, add_special_tokens=False)["input_ids"] == ids
        ]
        return Reading(
            prompt_equal=all(same for same, _ in chats) if chats else None,
            tokens_equal=plain
            and all(same for _, same in chats)
            and all(runtime.tokenize(text) == ids for text, ids in own),
            stop_equal=self.tokenizer.eos_token_id in stop_ids,
        )

    def _chat_reading(self, runtime: Runtime, chat: Sequence[Mapping[str, str]]) -> tuple[bool, bool]:
        """Return whether a chat becomes the same text, and the same token ids."""
        expected = self.tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(expected, add_special_tokens=False)["input_ids"]
        text = runtime.apply_template(chat)
        # llama.cpp takes a leading start token off the text where its tokenizer adds one; the ids must agree.
        start = self.tokenizer.bos_token or ""
        return expected in (text, start + text), runtime.tokenize(text, add_special=True) == ids

    def _renders(self, chat: Sequence[Mapping[str, str]]) -> bool:
        """Return whether there is a chat template that takes this chat (some refuse a system message)."""
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            return False
        try:
            self.tokenizer.apply_chat_template(list(chat), tokenize=False)
        except TemplateError:
            return False
        return True


def _unusable(gguf: Path, file_type: str, error: ExportError) -> Form:
    return Form(
        name=gguf.name,
        file_type=file_type,
        path=str(gguf),
        bytes=bytes_of(gguf),
        sha256=sha256_of(gguf),
        verdict=BROKEN,
        says=f"llama.cpp cannot use it: {error.problem}",
        kl_limit=kl_limit(file_type),
    )
