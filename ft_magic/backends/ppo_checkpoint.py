"""Checkpoints of PPO: everything that a step depends on, so that resuming gives the same bits. Worker only.

``checkpoint-STEP/`` holds the policy as its result will (a plain PEFT adapter, or a model), ``value/`` the weights of
the values, ``training.pt`` optimizer, schedule, scaler, KL coefficient and random states, ``trainer_state.json`` the
step. Which prompts come next and how answers are drawn follow from the seed and the step alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from ft_magic.backends import adapters
from ft_magic.backends.ppo_learning import Learner
from ft_magic.backends.random_state import RandomState
from ft_magic.planning.plans import Plan

_VALUES, _TRAINING, STATE = Path("value") / "value.safetensors", "training.pt", "trainer_state.json"


@dataclass
class Going:
    """What changes from step to step besides the weights.

    Attributes:
        kl_coef: price of a nat of distance to the reference.
        tokens: tokens of all rollouts so far.
    """

    kl_coef: float
    tokens: int = 0


def save(
    folder: Path, plan: Plan, learner: Learner, scheduler: Any, going: Going, state: TrainerState
) -> None:
    """Write a complete checkpoint.

    Args:
        folder: to make.
        plan: of the run.
        learner: with the weights and the optimizer.
        scheduler: of the learning rate.
        going: what else changes.
        state: transformers' own record of the step.
    """
    (folder / _VALUES).parent.mkdir(parents=True)
    with learner.roles.policy.taken():
        adapters.save(learner.roles.policy.model, plan, folder)
    save_file(_value_weights(learner), folder / _VALUES)
    torch.save(
        {
            "optimizer": learner.optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "scaler": learner.scaler.state_dict(),
            "kl_coef": going.kl_coef,
            "tokens": going.tokens,
            "random": _random_states(),
        },
        folder / _TRAINING,
    )
    state.save_to_json(str(folder / STATE))


def load(folder: Path, learner: Learner, scheduler: Any, going: Going) -> int:
    """Put a checkpoint's state back, all but the policy, which was loaded from it already; return its step."""
    found = load_file(folder / _VALUES)
    with torch.no_grad():
        for name, weight in _value_weights(learner).items():
            weight.copy_(found[name])
    # Written by this program into the run's own folder; it holds plain values and tensors only.
    kept = torch.load(folder / _TRAINING, map_location="cpu", weights_only=True)
    learner.optimizer.load_state_dict(kept["optimizer"])
    scheduler.load_state_dict(kept["scheduler"])
    learner.scaler.load_state_dict(kept["scaler"])
    going.kl_coef, going.tokens = kept["kl_coef"], kept["tokens"]
    _set_random_states(kept["random"])
    return int(TrainerState.load_from_json(str(folder / STATE)).global_step)


def _value_weights(learner: Learner) -> dict[str, torch.Tensor]:
    trained = learner.roles.trained()
    return {name: weight.data for name, weight in trained.items() if name.startswith("value.")}


def _random_states() -> dict[str, Any]:
    now = RandomState.now()
    version, numbers, gauss = now.python
    return {"torch": now.cpu, "gpu": list(now.gpus), "python": [version, list(numbers), gauss]}


def _set_random_states(states: dict[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    python = (version, tuple(numbers), gauss)
    kept = replace(RandomState.now(), python=python, cpu=states["torch"], gpus=tuple(states["gpu"]))
    kept.put_back()
