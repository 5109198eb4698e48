"""Who is who in PPO: policy, reference, value and reward model over one frozen base. Imported in the worker alone.

With an adapter update the base weights are in memory once, in 4 bits where the update says so, and the roles take
turns on it: the policy wears the adapter ``default``, the reference none, values ``value`` and a scalar head, the
reward model ``reward`` and its head. Nothing is copied or moved when they change. A full update changes the base
itself, so there each role has weights of its own: policy, reference, and the trunk of the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from ft_magic.backends import adapters
from ft_magic.backends.base_model import load_model
from ft_magic.errors import RunError
from ft_magic.planning.plans import Plan

POLICY, VALUE, REWARD = (
    "default",
    "value",
    "reward",
)  # names of the adapters; PEFT saves "default" as the plain one
_SCORE_HEAD = "base_model.model.score.weight"  # where PEFT stores the head of a sequence classifier


@dataclass(frozen=True)
class Seat:
    """One role.

    Attributes:
        model: a causal language model, its trunk, or a PEFT model around one; shared between roles.
        adapter: name of the adapter it wears; empty for the base as it is.
        head: hidden state -> one number; None for roles that predict tokens.
        autocast: number format of the arithmetic on a GPU; None where weights say it.
    """

    model: Any
    adapter: str = ""
    head: nn.Linear | None = None
    autocast: torch.dtype | None = None

    @property
    def causal(self) -> Any:
        """The model without PEFT's shell; adapters live inside its layers."""
        return self.model.get_base_model() if isinstance(self.model, peft.PeftModel) else self.model

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.model.parameters())).device

    @contextmanager
    def taken(self, *, train: bool = False) -> Iterator[Seat]:
        """Let the model play this role; it stays in it until another role is taken.

        Args:
            train: whether its own weights collect gradients, with dropout and recomputed activations; else no
                gradient is kept.
        """
        if isinstance(self.model, peft.PeftModel):
            tuner = self.model.base_model
            if self.adapter:
                tuner.enable_adapter_layers()
                tuner.set_adapter(self.adapter, inference_mode=not train)
            else:
                tuner.disable_adapter_layers()
        self.model.train(train)
        mixed = nullcontext() if self.autocast is None else torch.autocast("cuda", self.autocast)
        with torch.set_grad_enabled(train), mixed:
            yield self

    def numbers(self, hidden: Tensor) -> Tensor:
        """Return the head's number for each hidden state, in fp32."""
        if self.head is None:
            raise RunError("this role has no head.", "Report this: it is a fault of ft_magic.")
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.head.weight.float(), self.head.bias).squeeze(-1)


@dataclass(frozen=True)
class Roles:
    """The four roles; ``reward`` is None where scores come from elsewhere."""

    policy: Seat
    reference: Seat
    value: Seat
    reward: Seat | None = None

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the weights that learn, by role and name, in a fixed order."""
        found: dict[str, nn.Parameter] = {}
        for role, seat in (("policy", self.policy), ("value", self.value)):
            with seat.taken(train=True):
                found |= {f"{role}.{n}": p for n, p in seat.model.named_parameters() if p.requires_grad}
        head = self.value.head
        return found if head is None else found | {f"value.head.{n}": p for n, p in head.named_parameters()}

    def rate_groups(self, plan: Plan, rate: float) -> list[dict[str, Any]]:
        """Return the weights that learn, in groups of one learning rate (LoRA+ has two)."""
        ratio = plan.spec.loraplus_lr_ratio if "loraplus_lr_ratio" in plan.update.options else 1.0
        groups: dict[float, list[nn.Parameter]] = {}
        for name, weight in self.trained().items():
            groups.setdefault(rate * ratio if ".lora_B." in name else rate, []).append(weight)
        return [{"params": weights, "lr": lr} for lr, weights in groups.items()]


def roles_of(plan: Plan, reward: Path | None, checkpoint: Path | None) -> Roles:
    """Load the models of a run and seat them.

    Args:
        plan: of the run.
        reward: folder of a reward run's adapter over the same base, to be worn by it; None for none.
        checkpoint: complete checkpoint whose policy goes on; None for a fresh start. Its values are loaded later.
    """
    return _sharing(plan, reward, checkpoint) if plan.update.peft else _apart(plan, checkpoint)


def _sharing(plan: Plan, reward: Path | None, checkpoint: Path | None) -> Roles:
    base = load_model(plan)
    prepare(base, plan)
    if checkpoint is None:
        model = peft.get_peft_model(base, adapters.adapter_config(base, plan))
    else:
        model = peft.PeftModel.from_pretrained(base, checkpoint, is_trainable=True)
    targets = model.peft_config[POLICY].target_modules
    if isinstance(
        targets, set
    ):  # a set is written in another order by each process; results are compared as bytes
        model.peft_config[POLICY].target_modules = sorted(targets)
    reward_head = None if reward is None else add_reward_adapter(model, reward)
    head = add_value_adapter(model, reward, reward_head)
    mixed = autocast_of(plan)
    return Roles(
        policy=Seat(model, POLICY, None, mixed),
        reference=Seat(model, "", None, mixed),
        value=Seat(model, VALUE, head, mixed),
        reward=None if reward_head is None else Seat(model, REWARD, reward_head, mixed),
    )


def _apart(plan: Plan, checkpoint: Path | None) -> Roles:
    """Seat a full update: three sets of weights, the values' without the language head."""
    start = plan if checkpoint is None else replace(plan, model_folder=str(checkpoint))
    policy, _ = adapters.prepare(load_model(start), plan)
    reference = load_model(plan).requires_grad_(requires_grad=False)
    trunk = adapters.prepare(load_model(plan), plan)[0].base_model
    for model in (policy, trunk):
        prepare(model, plan)
    mixed = autocast_of(plan)
    return Roles(
        policy=Seat(policy, "", None, mixed),
        reference=Seat(reference, "", None, mixed),
        value=Seat(trunk, "", new_head(trunk), mixed),
    )


def prepare(model: Any, plan: Plan) -> None:
    """Set recomputation of activations as the plan says."""
    if plan.settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def autocast_of(plan: Plan) -> torch.dtype | None:
    """Return the 16-bit format of arithmetic on a GPU, else None."""
    if plan.settings.device != "cuda":
        return None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.settings.precision)


def new_head(model: Any) -> nn.Linear:
    """Return a head that says 0 to everything, the fairest first guess."""
    weights = next(iter(model.parameters()))
    head = nn.Linear(
        model.config.get_text_config().hidden_size, 1, dtype=torch.float32, device=weights.device
    )
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def add_reward_adapter(model: Any, folder: Path) -> nn.Linear:
    """Put the adapter of a reward run beside the policy's, frozen, and return its score head.

    The run trained it over a sequence classifier, whose layers have the names of the language model's; only the score
    head is apart.

    Raises:
        RunError: the adapter does not fit this model.
    """
    config, weights = _reward_parts(folder)
    _add(model, REWARD, config, weights)
    score = load_file(folder / "adapter_model.safetensors")[_SCORE_HEAD]
    head = nn.Linear(score.shape[1], 1, bias=False, dtype=torch.float32, device=model.device)
    with torch.no_grad():
        head.weight.copy_(score)
    return head.requires_grad_(requires_grad=False)


def add_value_adapter(model: Any, reward: Path | None, reward_head: nn.Linear | None) -> nn.Linear:
    """Put an adapter for the values beside the policy's and return its head.

    Where the reward model shares the base, values begin as a copy of it (Stiennon et al. 2020, arXiv 2009.01325,
    appendix B.1; Ouyang et al. 2022, appendix C.4); else as 0 for everything.
    """
    head = new_head(model)
    if reward is None or reward_head is None:
        config = deepcopy(model.peft_config[POLICY])  # its target modules are names by now
        config.modules_to_save = None
        config.inference_mode = False
        model.add_adapter(VALUE, config)
        return head
    config, weights = _reward_parts(reward)
    _add(model, VALUE, config, weights)
    with torch.no_grad():
        head.weight.copy_(reward_head.weight)
    return head


def _reward_parts(folder: Path) -> tuple[Any, Mapping[str, Tensor]]:
    """Return the configuration for a language model and the matrices of a reward run's adapter."""
    config = peft.PeftConfig.from_pretrained(str(folder))
    config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, False
    weights = load_file(folder / "adapter_model.safetensors")
    return config, {name: value for name, value in weights.items() if name != _SCORE_HEAD}


def _add(model: Any, name: str, config: Any, weights: Mapping[str, Tensor]) -> None:
    """Add an adapter with these weights.

    Raises:
        RunError: names or shapes differ from what the model has.
    """
    model.add_adapter(name, config)
    found = set_peft_model_state_dict(model, dict(weights), adapter_name=name)
    missing = [key for key in found.missing_keys if f".{name}." in key]
    if found.unexpected_keys or missing:
        raise RunError(
            f"the reward run's adapter does not fit this model: {(*found.unexpected_keys, *missing)[0]}.",
            "Train the reward model over the same base, or give a function as reward.",
        )
