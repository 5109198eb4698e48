"""A trained reward model as a reward: one score for prompt and answer together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.rewards.trial import Scorer
from ft_magic.template import Tokenizer
from ft_magic.template.render import tokenized
from ft_magic.template.script import answered

if TYPE_CHECKING:
    from ft_magic.planning.plans import Plan

_BATCH = 8  # texts scored together; similar lengths share a batch


@dataclass(frozen=True)
class RewardModel:
    """A reward model ready to score.

    Attributes:
        model: transformers model with one label, and its adapter where it has one, in evaluation mode.
        tokenizer: renders chats exactly as in training.
        padding_id: token behind shorter texts; the model's own padding where virtual tokens stand in front.
    """

    model: Any
    tokenizer: Tokenizer
    padding_id: int = 0

    def ids(self, prompt: Any, answer: str) -> list[int]:
        """Return prompt and answer as one sequence up to the stop token, as in the reward model's training."""
        whole = tokenized(self.tokenizer, [answered(self.tokenizer, prompt, answer)])[0]
        trained = [place for place, on in enumerate(whole.mask) if on]
        return whole.ids[: trained[-1] + 1] if trained else whole.ids

    def scores(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """Return the score of each text, read at its last token.

        Args:
            texts: token ids, ``(texts, tokens)``.
        """
        found = [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            for index, score in zip(batch, self._batch([texts[i] for i in batch]), strict=True):
                found[index] = score
        return found

    def _batch(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """Score texts padded on the right.

        The library's own pooling looks for the last token that is no padding, which fails where the padding
        token is also the stop token; the head is put on the last hidden state of each text instead.
        """
        import torch

        width = max(map(len, texts))
        device = self.model.device
        ids = torch.full((len(texts), width), self.padding_id, device=device)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(list(text), device=device)
            mask[row, : len(text)] = 1
        kind = getattr(self.model, "active_peft_config", None)
        if kind is not None and kind.is_prompt_learning:
            # Virtual tokens are put in front by PEFT's own forward, whose pooling reads the mask.
            with torch.no_grad():
                return [float(v) for v in self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float()]
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        body = getattr(inner, inner.base_model_prefix)
        with torch.no_grad():
            hidden = body(input_ids=ids, attention_mask=mask).last_hidden_state
            last = hidden[torch.arange(len(texts), device=device), mask.sum(1) - 1]
            logits = inner.score(last)
        return [float(value) for value in logits[:, 0].float().tolist()]


def scorer(run: Path, device: str) -> Scorer:
    """Return the scorer of a finished reward run; its model loads onto the device when it first scores."""
    model: list[RewardModel] = []

    def score(
        prompts: Sequence[Any], completions: Sequence[str], _columns: Mapping[str, Sequence[Any]]
    ) -> list[float]:
        if not model:
            model.append(load(run, device))
        texts = [model[0].ids(prompt, answer) for prompt, answer in zip(prompts, completions, strict=True)]
        return model[0].scores(texts)

    return score


def load(run: Path, device: str) -> RewardModel:
    """Load the reward model of a run folder, in the number format it was trained in."""
    from transformers import AutoModelForSequenceClassification

    from ft_magic.backends.quantized import keep_layout
    from ft_magic.planning.plans import Plan

    plan = Plan.read(run / "plan.json")
    adapter = run / "adapter"
    base = plan.model_folder if adapter.exists() else str(run / "model")
    model = keep_layout(AutoModelForSequenceClassification.from_pretrained(base, **_loading(plan, device)))
    if adapter.exists():
        from ft_magic.backends import adapters

        model = adapters.load(model, adapter)
    model.requires_grad_(requires_grad=False)
    tokenizer = Tokenizer.load(base)
    model.config.pad_token_id = tokenizer.unlike_stop_id
    # A 4-bit base is put on its device while it loads.
    placed = model if plan.update.bits else model.to(device)
    return RewardModel(placed.eval(), tokenizer, tokenizer.unlike_stop_id)


def _loading(plan: Plan, device: str) -> dict[str, Any]:
    import torch

    types: Mapping[str, Any] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    settings: dict[str, Any] = {"num_labels": 1, "dtype": types[plan.settings.precision]}
    if plan.update.bits:
        from ft_magic.backends.quantized import nf4_config

        settings["quantization_config"] = nf4_config(plan.settings.precision)
        settings["device_map"] = {"": device}
    return settings
