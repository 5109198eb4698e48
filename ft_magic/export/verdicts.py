"""When two forms of a model count as the same: limits with their source, and one plain sentence each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ft_magic.export.agreement import Agreement

OK, WARNING, BROKEN = "ok", "warning", "broken"

# Mean KL in nats that a form may be away from the model as trained, by how its file type begins (the first
# that fits). About three times what was measured on SmolLM2-135M over 202 positions: BF16 0.00014, Q8_0
# 0.006, Q6_K 0.022, Q5_K_M 0.11, Q4_K_M 0.075, Q3_K_M 0.19, IQ4_XS 0.30, Q2_K 0.63. Larger models lose less.
KL_LIMITS: Sequence[tuple[str, float]] = (
    ("SAFETENSORS", 0.002),  # ft_magic.export.merge.KL_LIMITS
    ("F32", 0.002),
    ("F16", 0.002),
    ("BF16", 0.002),
    ("Q8", 0.03),
    ("Q6", 0.07),
    ("Q5", 0.25),
    ("Q4", 0.25),
    ("IQ4", 0.9),
    ("Q3", 0.6),
    ("", 2.0),
)
# Beyond this many times its limit a form is not a rounded copy but another model: a converter that assumed
# other expert weights was 50 times off (KL 0.10 in f32), a wrong rotary base or norm is further still.
BROKEN_FACTOR = 4.0


@dataclass(frozen=True)
class Reading:
    """Whether a GGUF file reads prompts as the tokenizer does.

    Attributes:
        prompt_equal: the file's chat template renders the same text; None where there is no chat template.
        tokens_equal: texts, prompts and rendered chats become the same token ids.
        stop_equal: the tokenizer's stop token is among the file's.
    """

    prompt_equal: bool | None
    tokens_equal: bool
    stop_equal: bool


def kl_limit(file_type: str) -> float:
    """Return the mean KL in nats that a file type may be away from the model as trained."""
    return next(limit for start, limit in KL_LIMITS if file_type.upper().startswith(start))


def judge(file_type: str, found: Agreement, reading: Reading | None) -> tuple[str, str]:
    """Return verdict (``ok``, ``warning``, ``broken``) and one sentence that says why.

    Args:
        file_type: GGUF file type, or ``safetensors`` for the merged folder.
        found: how closely it answers.
        reading: how it reads prompts; None for the merged folder.
    """
    limit = kl_limit(file_type)
    figures = f"mean KL {_figure(found.mean_kl)} nats (limit {limit:g})"
    if reading is not None and (fault := _misreads(reading)):
        return BROKEN, fault
    if found.ran_on_share > 0:
        return BROKEN, "It writes the stop token and goes on: its runtime does not end answers there."
    if not found.mean_kl <= limit * BROKEN_FACTOR:
        return BROKEN, f"It is another model: {figures}."
    if found.mean_kl > limit:
        return WARNING, f"It is further from the model as trained than this file type should be: {figures}."
    return OK, f"It answers like the model as trained: {figures}; {_same_answers(found)}."


def overall(verdicts: Sequence[str]) -> str:
    """Return the worst verdict."""
    return max(verdicts, key=(OK, WARNING, BROKEN).index, default=OK)


def _misreads(reading: Reading) -> str:
    if reading.prompt_equal is False:
        return "Its chat template renders another prompt than the tokenizer's."
    if not reading.tokens_equal:
        return "It reads the same text as other tokens than the tokenizer does."
    if not reading.stop_equal:
        return "The tokenizer's stop token does not end its answers."
    return ""


def _same_answers(found: Agreement) -> str:
    count = round(found.identical_share * len(found.answers))
    if count == len(found.answers):
        return "every greedy answer is the same"
    times = math.exp(min(found.widest_tie_nats, 99))
    return (
        f"{count} of {len(found.answers)} greedy answers are the same to the last token; where others part, "
        f"the trained model found its own token at most {times:.2f} times as likely"
    )


def _figure(value: float) -> str:
    return f"{value:.5f}" if value < 0.001 else f"{value:.3g}"
