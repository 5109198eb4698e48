"""Training steps under the ledger, phase by phase. Imported in the worker alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch.fx.experimental import _config as shapes
from torch.utils.checkpoint import DefaultDeviceType

from ft_magic.memory.cards import Card
from ft_magic.memory.setting import Setting
from ft_magic.memory.tracing.autocast import Autocast
from ft_magic.memory.tracing.kernels import Device
from ft_magic.memory.tracing.layers import bound
from ft_magic.memory.tracing.ledger import Ledger
from ft_magic.memory.tracing.losses import PLAIN, Result, Scene, prepare
from ft_magic.memory.tracing.model import checkpoint
from ft_magic.memory.tracing.optimizers import Optimizer, optimizer_of
from ft_magic.memory.tracing.policy import ANSWERED, generate, scores
from ft_magic.memory.tracing.preference import PREFERENCES, reference_log_probs

LOSSES: Mapping[str, Callable[[Scene], Result]] = MappingProxyType({**PLAIN, **PREFERENCES, **ANSWERED})
# Before the last step, whose phases carry the names, come others: the optimizer's state exists from the second on.
_STEPS = 2
_MOST_MICRO_BATCHES = 2  # gradients live on from the second one; more are like it


@dataclass(frozen=True)
class Trainer:
    """What takes part in a step."""

    scene: Scene
    card: Card
    ledger: Ledger
    autocast: Autocast
    device: Device
    optimizer: Optimizer
    parameters: list[torch.nn.Parameter]

    @property
    def setting(self) -> Setting:
        """What is trained, and how."""
        return self.scene.setting


def trainer(model: Any, reference: Any, setting: Setting, card: Card, ledger: Ledger, device: str) -> Trainer:
    """Return a trainer whose model, batch and working space the ledger counts."""
    if reference is not None:
        ledger.retag([*reference.parameters(), *reference.buffers()], "other models")
    ids = torch.zeros(setting.micro_batch * setting.sides, setting.length, dtype=torch.long, device=device)
    scene = Scene(model, ids, torch.ones_like(ids), reference, setting)
    autocast = Autocast(torch.bfloat16 if setting.autocast_width else None)
    for row in (scene.ids, scene.mask):
        ledger.follow(row, "activations")
    for built in (model, reference):
        if built is not None:
            ledger.own(built)
            bound(built, ledger)
            if setting.autocast_width and setting.method not in PLAIN:
                _accelerated(built, autocast)
    if setting.method in ("sft", "cpt"):
        prepare(scene)
    parameters = [row for row in model.parameters() if row.requires_grad]
    optimizer = optimizer_of(setting.optimizer, parameters, ledger, cuda=card.cuda)
    return Trainer(
        scene, card, ledger, autocast, Device(setting, card, autocast, ledger), optimizer, parameters
    )


def _accelerated(model: Any, autocast: Autocast) -> None:
    """Run a model's forward pass, and it alone, under autocast and hand its output on in fp32, as accelerate does."""
    forward = model.forward

    def cast(*args: Any, **kwargs: Any) -> Any:
        with autocast.active(keeps=torch.is_grad_enabled()):
            return forward(*args, **kwargs)

    model.forward = convert_outputs_to_fp32(cast)


def run(work: Trainer) -> None:
    """Run the phases; the ledger's marks name those of the last step ``forward``, ``backward`` ..."""
    setting = work.setting
    work.ledger.mark("resident")
    with traced_on(work.scene.ids.device.type), work.ledger:
        if setting.reference == "precomputed":
            _without_gradients(work, "reference", lambda: reference_log_probs(work.scene))
        held: list[Any] = []
        for step in range(_STEPS):
            last = step == _STEPS - 1
            if setting.generation_batch:
                _answer(work, "" if last else "earlier ")
            micros = min(_MOST_MICRO_BATCHES, 1 + setting.accumulates)
            for micro in range(micros):
                name = "" if last and micro == micros - 1 else "earlier "
                _learn(work, held, name, first=step == micro == 0)
            _update(work, "" if last else "earlier ")
            if not setting.stale_outputs:
                held.clear()
        if setting.evaluation_batch:
            _evaluate(work)


def _answer(work: Trainer, name: str) -> None:
    """Let the policy answer, and the reference read the answers."""
    setting = work.setting
    prompt = setting.length - (setting.answer_length or 0)
    work.ledger.mark(f"{name}generation")
    work.ledger.tag = "activations"
    with work.device, _casting(work):
        generate(work.scene.model, work.ledger, setting.generation_batch, prompt, setting.length)
    checkpoint(work.scene.model, setting)
    if setting.reference and setting.reference != "precomputed":
        _without_gradients(work, f"{name}scoring", lambda: scores(work.scene))


def _without_gradients(work: Trainer, name: str, task: Callable[[], Any]) -> None:
    work.ledger.mark(name)
    work.ledger.tag = "activations"
    with torch.no_grad(), work.device, _casting(work):
        task()


def _evaluate(work: Trainer) -> None:
    """Run the loss without gradients on an evaluation's batch."""
    scene = work.scene
    rows = work.setting.evaluation_batch * work.setting.sides
    ids = scene.ids.new_zeros(rows, scene.ids.shape[1])
    held = Scene(scene.model, ids, torch.ones_like(ids), scene.reference, scene.setting)
    scene.model.eval()
    _without_gradients(work, "evaluation", lambda: LOSSES[work.setting.method](held))
    scene.model.train()


def _learn(work: Trainer, held: list[Any], name: str, *, first: bool) -> None:
    """Run forward and backward; ``held`` is what a hand-written loop references: its last loss and output."""
    ledger, setting = work.ledger, work.setting
    ledger.tag = "activations"
    ledger.mark(f"{name}forward")
    if first:
        ledger.hold(work.card.cublas_bytes, "workspace")
    with work.device, _casting(work):
        loss, output = LOSSES[setting.method](work.scene)
    checkpoint(work.scene.model, setting)  # TRL switches it off and on around a reference
    held[:] = (loss, output) if setting.loss.outputs_alive else ()
    del output
    ledger.mark(f"{name}backward")
    if first:
        ledger.hold(work.card.cublas_bytes, "workspace")  # the backward pass has a thread of its own
    with work.device, work.autocast.active(keeps=False):
        torch.autograd.backward(loss)
    ledger.retag([row.grad for row in work.parameters], "gradients")


def _casting(work: Trainer) -> AbstractContextManager[None]:
    """Return autocast around a whole loss, where it is the model's own; other losses have it in the forward pass."""
    return work.autocast.active(keeps=True) if work.setting.method in PLAIN else nullcontext()


def _update(work: Trainer, name: str) -> None:
    work.ledger.tag = "optimizer"
    work.ledger.mark(f"{name}optimizer")
    work.optimizer.step()
    work.optimizer.zero_grad(set_to_none=True)


@contextmanager
def traced_on(device: str) -> Iterator[None]:
    """Tell torch's checkpointing which device runs, and its meta kernels that masks hide nothing; undo both after."""
    before = DefaultDeviceType.get_device_type()
    DefaultDeviceType.set_device_type(device)
    try:
        with shapes.patch(meta_nonzero_assume_all_nonzero=True):
            yield
    finally:
        DefaultDeviceType.set_device_type(before)
