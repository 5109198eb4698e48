"""What the allocator holds beyond the tensors: the same step's allocations, replayed through its pools.

A few layers are enough: further ones ask for the same sizes again and find them cached.
"""

from __future__ import annotations

from ft_magic.memory.allocator import Allocator, Piece
from ft_magic.memory.block import LayerTape
from ft_magic.memory.logits import head_and_loss
from ft_magic.memory.setting import Setting
from ft_magic.memory.tape import Tape
from ft_magic.models.architecture import Architecture, Block

_LAYERS = 3
_X = 1  # the key of a tape's first tensor: the hidden states that come in
Log = list[tuple[int, float]]


class _Replay:
    """Plays logs into one allocator and follows what is allocated."""

    def __init__(self) -> None:
        self.allocator = Allocator()
        self.live = 0.0
        self.peak = 0.0

    def play(self, log: Log, held: dict[int, Piece]) -> None:
        for key, size in log:
            if key <= _X or size == 0:
                continue
            if size > 0:
                held[key] = self.take(size)
            elif key in held:
                self.give(held.pop(key))

    def take(self, size: float) -> Piece:
        piece = self.allocator.take(size)
        self.live += piece.size
        self.peak = max(self.peak, self.live)
        return piece

    def give(self, piece: Piece) -> None:
        self.live -= piece.size
        self.allocator.give(piece)


def unused_bytes(model: Architecture, setting: Setting) -> float:
    """Return the bytes reserved and not allocated at the peak of a step."""
    block = model.blocks[-1]
    forward, backward, out, size = _layer_logs(model, setting, block)
    loss = _loss_log(model, setting)
    replay = _Replay()
    count = min(_LAYERS - bool(model.experts), model.layers)  # experts are many alike already
    if setting.checkpointing == "layers":
        for _ in range(model.layers - count):
            replay.take(size)
    runs: list[dict[int, Piece]] = []
    checkpointed = setting.checkpointing != "none"
    for _ in range(count):
        held: dict[int, Piece] = {}
        replay.play(forward, held)
        if checkpointed:
            for key in [key for key in held if key != out]:
                replay.give(held.pop(key))
        runs.append(held)
    replay.play(loss, {})
    for held in reversed(runs):
        if checkpointed:
            again: dict[int, Piece] = {}
            replay.play(forward, again)
            replay.play(backward, again)
            for piece in held.values():
                replay.give(piece)
        else:
            replay.play(backward, held)
    return max(0.0, replay.allocator.reserved - replay.peak)


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
