"""Phases of methods that answer while they train: generation with a cache, then GRPO's and RLOO's loss. Worker only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from trl import GRPOTrainer

from ft_magic.memory.tracing.kernel_losses import with_kernels
from ft_magic.memory.tracing.ledger import Ledger
from ft_magic.memory.tracing.losses import Result, Scene

# The cache grows token by token; this many steps of it are followed, the last one whole.
_STRIDES = 6
_TEMPERATURE = 0.9  # any but 1 makes a scaled copy of the logits


def generate(model: Any, ledger: Ledger, sequences: int, prompt: int, length: int) -> None:
    """Answer a batch of prompts: the prompts go through whole, then one token at a time with a growing cache.

    Args:
        model: a causal language model.
        ledger: where the cache is counted.
        sequences: answers made at once.
        prompt: tokens of a prompt.
        length: tokens of prompt and answer.
    """
    device = next(model.parameters()).device
    ids = torch.zeros(sequences, max(1, prompt), dtype=torch.long, device=device)
    was = model.training
    model.eval()
    with torch.no_grad():
        cache = _step(model, ids, None, ledger)
        seen = ids.shape[1]
        ends = sorted({seen + (length - 1 - seen) * part // _STRIDES for part in range(1, _STRIDES + 1)})
        for end in ends:
            if end > seen:
                _grow(cache, end - seen, ledger)
                seen = end
            cache = _step(model, ids[:, :1], cache, ledger)
            seen += 1
    model.train(was)


def _step(model: Any, ids: torch.Tensor, cache: Any, ledger: Ledger) -> Any:
    """Run one forward pass and pick a token, as transformers' ``generate`` does: from an fp32 copy of the logits."""
    with ledger.tagged("activations"):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = output.logits[:, -1].to(copy=True, dtype=torch.float32)
        shares = torch.softmax(logits, -1)
        torch.empty_like(shares).argmax(-1)  # torch.multinomial draws one exponential number a word
    for layer in output.past_key_values.layers:
        ledger.retag((layer.keys, layer.values), "KV cache")
    return output.past_key_values


def _grow(cache: Any, tokens: int, ledger: Ledger) -> None:
    """Lengthen the cache by tokens that are not run, layer by layer: the old tensor lives until the new one does."""
    for number, layer in enumerate(cache.layers):
        ledger.enter(number)
        with ledger.tagged("KV cache"):
            for name in ("keys", "values"):
                old = getattr(layer, name)
                more = old.new_empty(*old.shape[:2], tokens, old.shape[3])
                setattr(layer, name, torch.cat([old, more], 2))
                del old, more
    ledger.enter(None)


def answers_loss(scene: Scene) -> Result:
    """GRPO and RLOO: a clipped policy gradient over the answers' tokens, with TRL's log-probabilities."""
    logps, entropies = _log_probs(scene, entropy=True)
    ratio = torch.exp(logps - logps.detach())
    advantage = torch.ones(logps.shape[0], 1, device=logps.device)
    loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    del entropies
    return loss.mean(), None


def scores(scene: Scene) -> torch.Tensor:
    """Return the reference's log-probabilities of the answers, without gradients."""
    model = scene.model if scene.reference is None else scene.reference
    with torch.no_grad():
        if hasattr(model, "disable_adapter"):
            with model.disable_adapter():
                return _log_probs(scene, entropy=False)[0]
        return _log_probs(Scene(model, scene.ids, scene.mask, None, scene.setting), entropy=False)[0]


def _log_probs(scene: Scene, *, entropy: bool) -> tuple[torch.Tensor, Any]:
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.__dict__.update(
        model_kwarg_keys={"logits_to_keep"},
        temperature=_TEMPERATURE if scene.setting.loss.scaled else 1.0,
        _entropy_bonus_enabled=False,
        use_liger_kernel=False,
    )
    kept = scene.setting.answer_length or scene.setting.length
    own = GRPOTrainer._full_logits_logps  # noqa: SLF001 - the loss' own code
    found = with_kernels(own, kernel=scene.setting.loss.kind == "log_probs_kernel")(
        trainer,
        scene.model,
        scene.ids,
        scene.mask,
        min(kept, scene.ids.shape[1] - 1),
        compute_entropy=entropy,
    )
    return found[0], found[1]


ANSWERED: Mapping[str, Callable[[Scene], Result]] = MappingProxyType(
    {"grpo": answers_loss, "rloo": answers_loss}
)
