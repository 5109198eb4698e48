"""What the allocator holds beyond the tensors: the same step's allocations, replayed through its pools.

A few layers are enough: further ones ask for the same sizes again and find them cached.
"""

from __future__ import annotations

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


def unused_bytes(model: Architecture, setting: Setting) -> float:
    """Return the bytes reserved and not allocated at the peak of a step."""
    block = model.blocks[-1]
    forward, backward, out, size = _layer_logs(model, setting, block)
    loss = _loss_log(model, setting)
    replay = _Replay()
    layers = min(_LAYERS - bool(model.experts), model.layers)  # experts are many alike already
    if setting.checkpointing == "layers":
        for _ in range(model.layers - layers):
            replay.take(size)
    runs: list[dict[int, int]] = []
    checkpointed = setting.checkpointing != "none"
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
            for number in held.values():
                replay.allocator.release(number)
        else:
            replay.play(backward, held)
    return max(0.0, float(replay.allocator.reserved_bytes - replay.allocator.peak_allocated_bytes))


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
