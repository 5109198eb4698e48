"""TRL's trainers, fed with our tokens. Imported in the worker alone, so heavy libraries stand at the top.

Each class below changes two things of the trainer it derives from: where tokens come from (``rows.py``, so that what
the audit showed is what is trained), and, where TRL's own sums depend on how a batch is split into micro-batches,
that they do not.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.utils import use_adapter

from ft_magic.backends.rows import IGNORED
from ft_magic.planning.plans import Plan

Columns = Mapping[str, Any]


def resolve(path: str) -> Any:
    """Return what ``module:name`` names."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def trainer_class(plan: Plan) -> Any:
    """Return the trainer class of the method, taking rows as ``dataset`` makes them."""
    base = resolve(plan.method.trainer)
    feed = "labelled_pairs" if hasattr(base, "tokenize_row") else plan.method.feed
    fed = _FEEDS[feed](base) if feed in _FEEDS else base
    fed.__name__ = base.__name__
    return fed


def dataset(rows: list[dict[str, Any]], feed: str, first_index: int = 0) -> Dataset | None:
    """Return tokenized rows as a data set for a trainer of this feed; None where there are none.

    Prompts travel as text of their token ids, and by their place (``row``) to what scores their answers: columns
    of users may hold anything, which a table of one type a column cannot.
    """
    if not rows:
        return None
    if feed in ("prompts", "demos"):
        rows = [
            {"prompt": json.dumps(row["prompt_ids"]), "row": first_index + index}
            for index, row in enumerate(rows)
        ]
    return Dataset.from_list(rows)


def prompt_tokens(prompts: list[str]) -> list[list[int]]:
    """Return the token ids of prompts as ``dataset`` wrote them."""
    return [json.loads(prompt) for prompt in prompts]


def _as_prepared(base: Any) -> Any:
    class Tokenized(base):  # type: ignore[misc]  # the base is known at run time only
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    return Tokenized


def _labelled_pairs(base: Any) -> Any:
    """Feed ORPO and CPO, whose classes tokenize row by row and average the imitation loss over micro-batches."""

    class LabelledPairs(base):  # type: ignore[misc]  # the base is known at run time only
        # A plain function: data sets hash what they map, and a bound method would hash the model.
        tokenize_row = staticmethod(_labelled_pair)

        def __init__(
            self, *, train_dataset: Dataset, eval_dataset: Dataset | None = None, **kwargs: Any
        ) -> None:
            named = [_with_text(part) for part in (train_dataset, eval_dataset)]
            super().__init__(train_dataset=named[0], eval_dataset=named[1], **kwargs)

        def concatenated_forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
            """Imitate the better answer alone, each example counting once, as the papers write the loss."""
            (
                chosen,
                rejected,
                *logits,
                _,
            ) = super().concatenated_forward(model, batch)[:5]
            tokens = (batch["chosen_labels"] != IGNORED).sum(dim=1).to(chosen.device)
            averaged = getattr(self, "loss_type", "orpo") in ("orpo", "ipo", "simpo")
            per_example = -chosen if averaged else -chosen / tokens
            return chosen, rejected, *logits, per_example.mean()

    return LabelledPairs


def _with_text(rows: Dataset | None) -> Dataset | None:
    """Add the text columns the class asks for and never reads."""
    if rows is None:
        return None
    for name in ("prompt", "chosen", "rejected"):
        rows = rows.add_column(name, [""] * len(rows))
    return rows


def _labelled_pair(feature: Columns, **_: Any) -> dict[str, list[int]]:
    prompt = feature["prompt_ids"]
    found = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        answer = feature[f"{side}_ids"]
        found[f"{side}_input_ids"] = prompt + answer
        found[f"{side}_attention_mask"] = [1] * (len(prompt) + len(answer))
        found[f"{side}_labels"] = [IGNORED] * len(prompt) + answer
    return found


def _judged(base: Any) -> Any:
    """Feed KTO; its estimate of the KL to the reference is taken over the whole step, not each micro-batch."""

    class Judged(base):  # type: ignore[misc]  # the base is known at run time only
        _step_kl: torch.Tensor | None = None

        def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
            # The estimate pairs each prompt with another row's answer (KTO paper, section 4.2).
            answers = dataset["completion_ids"]
            return dataset.add_column("KL_completion_ids", [answers[-1], *answers[:-1]])

        def get_batch_samples(self, iterator: Iterator[Any], count: int, device: torch.device) -> Any:
            self._step_kl = None
            batches, items = super().get_batch_samples(iterator, count, device)
            if self.calculate_KL and batches:
                gaps = torch.cat([self._gap(batch) for batch in batches])
                self._step_kl = gaps.mean()
                for batch in batches:
                    if "ref_KL_logps" in batch:
                        batch["ref_KL_logps"] = torch.zeros_like(batch["ref_KL_logps"])
            return batches, items

        def _gap(self, batch: Mapping[str, Any]) -> torch.Tensor:
            """Return log-probabilities of mismatched answers, policy less reference: (examples,), in nats."""
            batch = self._prepare_inputs(dict(batch))
            reference = batch.get("ref_KL_logps")
            with torch.no_grad():
                policy = super()._compute_kl_logps(self.model, batch)
                if reference is None:
                    with _reference(self):
                        reference = super()._compute_kl_logps(self.ref_model or self.model, batch)
            return policy - reference

        def _compute_kl_logps(self, model: Any, batch: Mapping[str, Any]) -> Any:
            if self._step_kl is None or not self.model.training:
                return super()._compute_kl_logps(model, batch)
            # The policy is asked with gradients on, the reference without: their difference is the step's KL.
            size = len(batch["label"])
            kl = self._step_kl.expand(size)
            return kl if torch.is_grad_enabled() else torch.zeros_like(kl)

    return Judged


def _reference(trainer: Any) -> AbstractContextManager[Any]:
    """Turn the adapter off, or to the copy it started from, where the reference has no model of its own."""
    adapters = getattr(trainer.model, "peft_config", None)
    if adapters is None or trainer.ref_model is not None:
        return nullcontext()
    model = trainer.accelerator.unwrap_model(trainer.model)
    off: AbstractContextManager[Any] = use_adapter(model, "ref" if "ref" in adapters else None)
    return off


def _prompts(base: Any) -> Any:
    class Prompts(base):  # type: ignore[misc]  # the base is known at run time only
        def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return prompt_tokens(prompts), None, {}

    return Prompts


_FEEDS: Mapping[str, Callable[[Any], Any]] = {
    "pairs": _as_prepared,
    "labelled_pairs": _labelled_pairs,
    "judged": _judged,
    "prompts": _prompts,
}
