"""PPO's four roles and its phases, by the loop's own code. Imported in the worker alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ft_magic.memory.cards import Card
from ft_magic.memory.setting import Setting
from ft_magic.memory.tracing.autocast import Autocast
from ft_magic.memory.tracing.kernels import Device
from ft_magic.memory.tracing.layers import bound
from ft_magic.memory.tracing.ledger import Ledger
from ft_magic.memory.tracing.model import built
from ft_magic.memory.tracing.optimizers import Optimizer, optimizer_of
from ft_magic.memory.tracing.policy import generate

_STEPS = 2


class _Marks:
    """Gradient scaler and optimizer of a learner, that tell the ledger which phase begins."""

    def __init__(self, ledger: Ledger, optimizer: Optimizer, weights: list[Any], card: Card) -> None:
        self.param_groups = [{"params": weights}]
        self.name = "earlier "
        self._ledger, self._optimizer, self._card = ledger, optimizer, card
        self._weights = weights
        self._spaces = 0

    def answering(self) -> None:
        """Say that the policy begins to answer."""
        self._ledger.tag = "activations"
        self._ledger.mark(f"{self.name}generation")
        self.space(1)

    def forward(self) -> None:
        """Say that a forward pass begins, if gradients are kept."""
        if torch.is_grad_enabled() and not self._ledger.backward:
            self._ledger.mark(f"{self.name}forward")
            self._ledger.tag = "activations"
            self.space(1)

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """Say that the backward pass begins."""
        self._ledger.mark(f"{self.name}backward")
        self.space(2)
        return loss

    def space(self, threads: int) -> None:
        """Count the workspace of so many threads' matrix products, once."""
        for _ in range(self._spaces, threads):
            self._ledger.hold(self._card.cublas_bytes, "workspace")
        self._spaces = max(self._spaces, threads)

    def unscale_(self, _: Any) -> None:
        """Say that the update begins."""
        self._ledger.retag([weight.grad for weight in self._weights], "gradients")
        self._ledger.mark(f"{self.name}optimizer")
        self._ledger.tag = "optimizer"

    def step(self, _: Any = None) -> None:
        """Update the weights."""
        self._optimizer.step()

    def update(self) -> None:
        """Do nothing: no scale changes."""

    def zero_grad(self) -> None:
        """Let go of the gradients."""
        self._optimizer.zero_grad(set_to_none=True)


def run(
    config: Any, setting: Setting, card: Card, ledger: Ledger, device: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """Run the phases of PPO: answer, score with every role, learn; return the weights of policy and values by name."""
    # Not at the top: backends stand above memory, and this is our own loop.
    from ft_magic.backends.ppo_learning import experience_of, learn
    from ft_magic.memory.tracing.step import traced_on

    roles = _roles(config, setting, ledger, device)
    weights = roles.trained()
    parameters = list(weights.values())
    optimizer = optimizer_of(setting.optimizer, parameters, ledger, cuda=card.cuda)
    marks = _Marks(ledger, optimizer, parameters, card)
    learner, answers = _learner(roles, marks, setting)
    autocast = Autocast(torch.bfloat16 if setting.autocast_width else None)
    ledger.mark("resident")
    with traced_on(device), ledger, Device(setting, card, autocast, ledger), autocast.active(keeps=False):
        for step in range(_STEPS):
            marks.name = "" if step == _STEPS - 1 else "earlier "
            marks.answering()
            with roles.policy.taken() as seat:
                prompt = len(answers.prompts[0])
                generate(
                    seat.causal, ledger, setting.generation_batch or len(answers), prompt, setting.length
                )
            ledger.mark(f"{marks.name}scoring")
            scores = torch.zeros(len(answers), device=device)
            found = experience_of(learner, answers, scores, learner.config.kl_coef)
            learn(learner, answers, found, seed=0)
            del found
    return iter(weights.items())


def _learner(roles: Any, marks: _Marks, setting: Setting) -> tuple[Any, Any]:
    """Return a learner whose forward passes tell the marks, and answers of the setting's length to learn from."""
    from ft_magic.backends.ppo_answers import Answers, Vocabulary
    from ft_magic.backends.ppo_config import PPOConfig
    from ft_magic.backends.ppo_learning import Learner

    for model in {id(seat.model): seat.model for seat in (roles.policy, roles.value)}.values():
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        getattr(inner, "base_model", inner).register_forward_pre_hook(lambda *_: marks.forward())
    answer = setting.answer_length or setting.length // 2
    batch = max(setting.generation_batch, setting.micro_batch * (1 + setting.accumulates))
    answers = Answers(
        ((0,) * (setting.length - answer),) * batch, ((0,) * answer,) * batch, Vocabulary(frozenset(), 0)
    )
    numbers = PPOConfig(num_ppo_epochs=1)  # a second pass over the answers is like the first
    return Learner(roles, numbers, marks, marks, 1.0, setting.micro_batch), answers


def _roles(config: Any, setting: Setting, ledger: Ledger, device: str) -> Any:
    """Return the roles: over one base with an adapter, each with weights of its own without."""
    from ft_magic.backends import ppo_roles
    from ft_magic.backends.ppo_roles import POLICY, VALUE, Roles, add_value_adapter, new_head

    class Seat(ppo_roles.Seat):
        """A role whose head needs no autocast to be switched off: the meta device has none."""

        def numbers(self, hidden: torch.Tensor) -> torch.Tensor:
            head = self.head
            assert head is not None
            return nn.functional.linear(hidden.float(), head.weight.float(), head.bias).squeeze(-1)

    policy = built(config, setting, ledger, device)
    models = [policy]
    if setting.adapter is not None:
        with ledger, ledger.tagged("adapter"), torch.device(device):
            head = add_value_adapter(policy, None, None)
        roles = Roles(Seat(policy, POLICY), Seat(policy), Seat(policy, VALUE, head))
    else:
        reference = built(config, setting, ledger, device).requires_grad_(requires_grad=False)
        trunk = built(config, setting, ledger, device).base_model
        for model in (reference, trunk):
            ledger.retag([*model.parameters(), *model.buffers()], "other models")
        models += [reference, trunk]
        head = new_head(trunk)
        roles = Roles(Seat(policy), Seat(reference), Seat(trunk, "", head))
    _count(models, head, ledger)
    return roles


def _count(models: list[Any], head: nn.Module, ledger: Ledger) -> None:
    for row in head.parameters():
        ledger.follow(row, "adapter")
    for model in models:
        ledger.own(model)
        bound(model, ledger)
