"""Training steps under the ledger. Imported in the worker alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import DefaultDeviceType

from ft_magic.memory.tracing.autocast import Autocast
from ft_magic.memory.tracing.kernels import Device
from ft_magic.memory.tracing.layers import bound
from ft_magic.memory.tracing.ledger import Ledger
from ft_magic.memory.tracing.losses import LOSSES, PAIRS, Batch
from ft_magic.memory.tracing.optimizers import OPTIMIZERS, Optimizer
from ft_magic.memory.tracing.settings import TraceSettings


@dataclass(frozen=True)
class Trainer:
    """What takes part in a step."""

    model: Any
    reference: Any
    batch: Batch
    settings: TraceSettings
    ledger: Ledger
    autocast: Autocast
    device: Device
    optimizer: Optimizer
    parameters: list[torch.nn.Parameter]


def trainer(model: Any, reference: Any, settings: TraceSettings, ledger: Ledger, device: str) -> Trainer:
    """Return a trainer whose model, batch and working space the ledger counts."""
    if reference is not None:
        ledger.retag([*reference.parameters(), *reference.buffers()], "other models")
    sequences = settings.micro_batch * (2 if settings.method in PAIRS else 1)
    ids = torch.zeros(sequences, settings.length_tokens, dtype=torch.long, device=device)
    batch = Batch(ids, torch.ones_like(ids), reference)
    for row in (batch.ids, batch.mask):
        ledger.follow(row, "activations")
    for built in (model, reference):
        if built is not None:
            ledger.own(built)
            bound(built, ledger)
    parameters = [row for row in model.parameters() if row.requires_grad]
    autocast = Autocast(getattr(torch, settings.autocast) if settings.autocast else None)
    optimizer = OPTIMIZERS[settings.optimizer](parameters)
    return Trainer(
        model, reference, batch, settings, ledger, autocast, Device(settings, autocast), optimizer, parameters
    )


def run(work: Trainer) -> None:
    """Run the optimizer steps; the ledger's marks name the phases of the last one ``forward``, ``backward`` ..."""
    work.ledger.mark("resident")
    with _recomputing_on(work.batch.ids.device.type), work.ledger:
        held: list[Any] = []
        for step in range(work.settings.steps):
            last = step == work.settings.steps - 1
            for micro in range(work.settings.accumulation):
                name = "" if last and micro == work.settings.accumulation - 1 else "earlier "
                _learn(work, held, name, first=step == micro == 0)
            _update(work, "" if last else "earlier ")
            if not work.settings.stale:
                held.clear()


def _learn(work: Trainer, held: list[Any], name: str, *, first: bool) -> None:
    """Run forward and backward; ``held`` is what a hand-written loop references: its last loss and output."""
    ledger, settings = work.ledger, work.settings
    ledger.tag = "activations"
    ledger.mark(f"{name}forward")
    if first:
        ledger.hold(settings.card.cublas_bytes, "workspace")
    with work.device, work.autocast.active(keeps=True):
        loss, output = LOSSES[settings.method](work.model, work.batch, settings)
    held[:] = (loss, output) if settings.keeps_output else ()
    del output
    ledger.mark(f"{name}backward")
    if first:
        ledger.hold(settings.card.cublas_bytes, "workspace")  # the backward pass has a thread of its own
    with work.device, work.autocast.active(keeps=False):
        torch.autograd.backward(loss)
    ledger.retag([row.grad for row in work.parameters], "gradients")


def _update(work: Trainer, name: str) -> None:
    work.ledger.tag = "optimizer"
    work.ledger.mark(f"{name}optimizer")
    work.optimizer.step()
    work.optimizer.zero_grad(set_to_none=True)


@contextmanager
def _recomputing_on(device: str) -> Iterator[None]:
    """Tell torch's checkpointing which device runs, and leave its default as it was."""
    before = DefaultDeviceType.get_device_type()
    DefaultDeviceType.set_device_type(device)
    try:
        yield
    finally:
        DefaultDeviceType.set_device_type(before)
