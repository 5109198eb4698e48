"""Held-out loss and answers, before and after training. Runs in the warm process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_magic.backends import rows
from ft_magic.evaluate.generate import Loaded, answer, load
from ft_magic.planning.plans import Plan
from ft_magic.progress import Progress
from ft_magic.run_folder import RunFolder
from ft_magic.template import Tokenizer, prompt_ids

_BATCH_ROWS = 8


def evaluate_job(
    *, run: str, model: Mapping[str, Any], samples: int, max_new_tokens: int, progress: Progress
) -> dict[str, Any]:
    """Score the model before and after training on every held-out row.

    Args:
        run: run folder.
        model: how to load the trained model.
        samples: held-out prompts to answer.
        max_new_tokens: longest answer, in tokens.
        progress: told what is being done.

    Returns:
        ``loss_before``, ``loss_after`` (mean negative log-likelihood of the trained tokens, in nats a token),
        for pairs ``accuracy_before`` and ``accuracy_after``, and ``samples`` with prompt, expected, before, after.
    """
    folder = RunFolder(Path(run))
    plan = Plan.read(folder.plan)
    progress("loading the model", 0, 0)
    light = Tokenizer.load(plan.model_folder)
    heldout = rows.tokenized(folder.heldout_rows, light, plan)
    raw = list(rows.read(folder.heldout_rows))[:samples] if plan.method.signal != "text" else []
    prompts = [prompt_ids(light, row) for row in raw]
    sides: dict[str, dict[str, Any]] = {}
    if model["adapter"]:
        loaded = load(**model)
        with loaded.base():
            sides["before"] = _side(loaded, heldout, prompts, max_new_tokens, progress, "before")
        sides["after"] = _side(loaded, heldout, prompts, max_new_tokens, progress, "after")
    else:
        sides["after"] = _side(load(**model), heldout, prompts, max_new_tokens, progress, "after")
        before = load(**(dict(model) | {"base": plan.model_folder}))
        sides["before"] = _side(before, heldout, prompts, max_new_tokens, progress, "before")
    return _result(sides, heldout, raw, prompts, light)


def _side(
    loaded: Loaded,
    heldout: Sequence[Mapping[str, Sequence[int]]],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    progress: Progress,
    when: str,
) -> dict[str, Any]:
    pairs = bool(heldout) and "chosen_ids" in heldout[0]
    if pairs:
        chosen = _losses(loaded, [_side_of_pair(row, "chosen_ids") for row in heldout], progress, when)
        rejected = _losses(loaded, [_side_of_pair(row, "rejected_ids") for row in heldout], progress, when)
    else:
        chosen, rejected = _losses(loaded, heldout, progress, when), []
    answers = answer(
        loaded, prompts, max_new_tokens=max_new_tokens, progress=progress, what=f"answering, {when} training"
    )
    return {"chosen": chosen, "rejected": rejected, "answers": answers}


def _side_of_pair(row: Mapping[str, Sequence[int]], side: str) -> dict[str, list[int]]:
    prompt, ids = list(row["prompt_ids"]), list(row[side])
    return {"input_ids": prompt + ids, "labels": [rows.IGNORED] * len(prompt) + ids}


def _losses(
    loaded: Loaded, heldout: Sequence[Mapping[str, Sequence[int]]], progress: Progress, when: str
) -> list[tuple[float, int]]:
    """Return (summed negative log-likelihood, trained tokens) of each row, in order."""
    import torch

    found: list[tuple[float, int]] = [(0.0, 0)] * len(heldout)
    order = sorted(range(len(heldout)), key=lambda i: len(heldout[i]["input_ids"]))
    for start in range(0, len(order), _BATCH_ROWS):
        progress(f"held-out loss, {when} training", start, len(order))
        batch = order[start : start + _BATCH_ROWS]
        width = max(len(heldout[i]["input_ids"]) for i in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        labels = torch.full((len(batch), width), rows.IGNORED)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for line, i in enumerate(batch):
            length = len(heldout[i]["input_ids"])
            ids[line, :length] = torch.tensor(heldout[i]["input_ids"])
            labels[line, :length] = torch.tensor(heldout[i]["labels"])
            mask[line, :length] = 1
        for i, pair in zip(batch, _batch_losses(loaded.model, ids, mask, labels), strict=True):
            found[i] = pair
    return found


def _batch_losses(model: Any, ids: Any, mask: Any, labels: Any) -> list[tuple[float, int]]:
    """Score one padded batch; logits are made only where a label follows.

    Args:
        model: causal language model.
        ids: token ids (batch, tokens).
        mask: 1 for real tokens (batch, tokens).
        labels: token ids or ``IGNORED`` (batch, tokens).
    """
    import torch

    with torch.no_grad():
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        device = inner.device
        hidden = inner.base_model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        target = labels[:, 1:].to(device)
        keep = target != rows.IGNORED
        logits = inner.get_output_embeddings()(hidden[:, :-1][keep]).float()
        nll = torch.nn.functional.cross_entropy(logits, target[keep], reduction="none")
        line = keep.nonzero()[:, 0]
        sums = torch.zeros(len(ids), device=device).index_add_(0, line, nll)
        counts = keep.sum(dim=1)
    return list(zip(sums.tolist(), counts.tolist(), strict=True))


def _result(
    sides: Mapping[str, Mapping[str, Any]],
    heldout: Sequence[object],
    raw: Sequence[Mapping[str, Any]],
    prompts: Sequence[Sequence[int]],
    light: Tokenizer,
) -> dict[str, Any]:
    result: dict[str, Any] = {"examples": len(heldout)}
    for when, side in sides.items():
        tokens = sum(count for _, count in side["chosen"])
        result[f"loss_{when}"] = sum(loss for loss, _ in side["chosen"]) / tokens if tokens else None
    if sides["after"]["rejected"]:
        result |= _accuracies(sides)
    result["samples"] = [
        {
            "prompt": prompt_text(row) or light.decode(list(ids)),
            "expected": expected_text(row),
            "before": before,
            "after": after,
        }
        for row, ids, before, after in zip(
            raw, prompts, sides["before"]["answers"], sides["after"]["answers"], strict=True
        )
    ]
    return result


def _accuracies(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Share of pairs in which the better answer is the likelier one, per token, before and after."""
    shares = {}
    for when, side in sides.items():
        wins = [
            a / max(1, n) < b / max(1, m)
            for (a, n), (b, m) in zip(side["chosen"], side["rejected"], strict=True)
        ]
        shares[f"accuracy_{when}"] = sum(wins) / len(wins)
    return shares


def prompt_text(row: Mapping[str, Any]) -> str:
    """Return what the person asked in a normalised row: the last user turn before the answer."""
    if "text" in row:
        return ""
    turns = row["messages"][:-1] if "messages" in row else row["prompt"]
    if isinstance(turns, str):
        return turns
    return next((str(turn["content"]) for turn in reversed(turns) if turn["role"] == "user"), "")


def expected_text(row: Mapping[str, Any]) -> str:
    """Return the answer a normalised row shows: the last assistant turn, completion or chosen answer."""
    if "messages" in row:
        return str(row["messages"][-1]["content"])
    answer_ = row.get("completion", row.get("chosen", ""))
    return answer_ if isinstance(answer_, str) else str(answer_[-1]["content"])
