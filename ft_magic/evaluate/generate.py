"""Load a trained model and let it answer. Runs in the warm process; the last model stays loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from ft_magic.backends.answering import answer_ids, without_stop
from ft_magic.backends.quantized import keep_layout, nf4_config
from ft_magic.progress import Progress
from ft_magic.template import Tokenizer, prompt_ids

_BATCH_PROMPTS = 8  # answered together; more only pads more on a CPU


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer.

    Attributes:
        model: transformers model, with its adapter when it has one, in evaluation mode.
        tokenizer: transformers tokenizer.
        light: the tokenizer that renders chats exactly as in training.
        key: what was loaded.
    """

    model: Any
    tokenizer: Any
    light: Tokenizer
    key: tuple[str, str | None, int, str]

    @contextmanager
    def base(self) -> Iterator[Any]:
        """Give the model as it was before its adapter."""
        off = self.model.disable_adapter() if self.key[1] else nullcontext()
        with off:
            yield self.model


_last: Loaded | None = None


def load(base: str, adapter: str | None = None, bits: int = 0, precision: str = "fp32") -> Loaded:
    """Load a base and, where given, an adapter over it; the model loaded last is kept.

    Args:
        base: model folder.
        adapter: adapter folder, or None.
        bits: 4 when the base was NF4-quantized in training, else 0.
        precision: number format: fp32, bf16 or fp16.
    """
    global _last  # noqa: PLW0603  one model a process: a second would double the memory
    key = (base, adapter, bits, precision)
    if _last is None or _last.key != key:
        _last = None
        _last = _load(key)
    return _last


def _load(key: tuple[str, str | None, int, str]) -> Loaded:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ft_magic.backends import matmul

    matmul.use_fastest()
    base, adapter, bits, precision = key
    extra: dict[str, Any] = {"device_map": {"": 0}} if torch.cuda.is_available() else {}
    if bits:
        extra["quantization_config"] = nf4_config(precision)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    model = keep_layout(AutoModelForCausalLM.from_pretrained(base, dtype=dtype, **extra))
    if adapter:
        from ft_magic.backends import adapters

        model = adapters.load(model, adapter)
    return Loaded(model.eval(), AutoTokenizer.from_pretrained(base), Tokenizer.load(base), key)


def answer(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    progress: Progress,
    what: str = "answering",
) -> list[str]:
    """Return the model's answer to each prompt, given as token ids, without the stop token.

    Prompts of similar length are batched together; the order of the answers is that of the prompts.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), _BATCH_PROMPTS):
        progress(what, start, len(order))
        batch = order[start : start + _BATCH_PROMPTS]
        found = answer_ids(
            loaded.model,
            loaded.light,
            [prompts[i] for i in batch],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
        )
        for index, ids in zip(batch, found, strict=True):
            answers[index] = loaded.light.decode(without_stop(ids, loaded.light))
    progress(what, len(order), len(order))
    return answers


def generate_job(
    *,
    model: Mapping[str, Any],
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float,
    base: bool,
    progress: Progress,
) -> list[str]:
    """Answer user messages; the job behind ``Run.generate``."""
    progress("loading the model", 0, 0)
    loaded = load(**model)
    ids = [prompt_ids(loaded.light, {"prompt": prompt}) for prompt in prompts]
    with loaded.base() if base else nullcontext():
        return answer(loaded, ids, max_new_tokens=max_new_tokens, temperature=temperature, progress=progress)


def forget() -> None:
    """Free the model kept from the last call."""
    global _last  # noqa: PLW0603  see ``load``
    _last = None
