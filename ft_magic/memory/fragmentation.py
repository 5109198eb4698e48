"""What the allocator holds beyond the tensors: the same step's allocations, replayed through its pools.

A few layers are enough: further ones ask for the same sizes again and find them cached.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from ft_magic.memory.allocator import CachingAllocator
from ft_magic.memory.block import LayerTape
from ft_magic.memory.logits import head_and_loss
from ft_magic.memory.setting import Setting
from ft_magic.memory.tape import Tape
from ft_magic.models.architecture import Architecture, Block

_LAYERS = 3
_X = 1  # the key of a tape's first tensor: the hidden states that come in
Log = list[tuple[int, float]]


class _Replay:
    """Plays logs into one allocator; every block gets a number of its own."""

    def __init__(self) -> None:
        self.allocator = CachingAllocator()
        self._numbers = count(1)

    def play(self, log: Log, held: dict[int, int]) -> None:
        for key, size in log:
            if key <= _X or size == 0:
                continue
            if size > 0:
                held[key] = self.take(size)
            elif key in held:
                self.allocator.release(held.pop(key))

    def take(self, size: float) -> int:
        number = next(self._numbers)
        self.allocator.allocate(number, size)
        return number


# Rows of evenly spread lengths: each that is longer than all before is, on average, half way from those to the longest.
_RECORDS = (1 / 2, 3 / 4, 1.0)


def unused_bytes(model: Architecture, setting: Setting) -> float:
    """Return the bytes reserved and not allocated at the peak of a step.

    Where lengths vary, rows of other lengths came before the longest, and the blocks made for them are still cached.
    """
    replay = _Replay()
    for share in _RECORDS if setting.lengths_vary else (1.0,):
        _play_step(replay, model, replace(setting, length=max(1, round(setting.length * share))))
    return max(0.0, float(replay.allocator.reserved_bytes - replay.allocator.peak_allocated_bytes))


def _play_step(replay: _Replay, model: Architecture, setting: Setting) -> None:
    """Play the forward pass, the loss and the backward pass of a few layers, or of all where lengths vary."""
    forward, backward, out, size = _layer_logs(model, setting, model.blocks[-1])
    loss = _loss_log(model, setting)
    checkpointed = setting.checkpointing != "none"
    layers = min(_LAYERS - bool(model.experts), model.layers)  # experts are many alike already
    if setting.lengths_vary and not checkpointed:
        layers = model.layers  # blocks of every layer stay cached, and fit no longer row
    below = range(model.layers - layers if setting.checkpointing == "layers" else 0)
    stored = [replay.take(size) for _ in below]
    runs: list[dict[int, int]] = []
    for _ in range(layers):
        held: dict[int, int] = {}
        replay.play(forward, held)
        if checkpointed:
            for key in [key for key in held if key != out]:
                replay.allocator.release(held.pop(key))
        runs.append(held)
    replay.play(loss, {})
    for held in reversed(runs):
        if checkpointed:
            again: dict[int, int] = {}
            replay.play(forward, again)
            replay.play(backward, again)
        else:
            replay.play(backward, held)
        for number in held.values():
            replay.allocator.release(number)
    for number in stored:
        replay.allocator.release(number)


def _layer_logs(model: Architecture, setting: Setting, block: Block) -> tuple[Log, Log, int, float]:
    """Return a layer's allocations forward and backward, the key of its result, and the result's bytes."""
    tape = Tape()
    layer = LayerTape(tape, model, setting)
    x = tape.make(layer.tokens * model.hidden, layer.stream_width)
    out = layer.layer(block, x)
    split = len(tape.log)
    tape.drop(out)
    tape.backward(out)
    return tape.log[:split], tape.log[split:], out.key, out.size


def _loss_log(model: Architecture, setting: Setting) -> Log:
    tape = Tape()
    layer = LayerTape(tape, model, setting)
    head_and_loss(layer, tape.make(layer.tokens * model.hidden, layer.stream_width))
    return tape.log
