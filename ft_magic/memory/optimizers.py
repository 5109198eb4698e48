"""What each optimizer holds between steps, and what it needs for a moment in one.

The names are those of transformers' ``OptimizerNames``; how each is made is in its ``trainer_optimizer.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from ft_magic.memory.setting import Optimizer

_FP32 = 4
# bitsandbytes keeps an fp32 scale for each 256 values of an 8-bit state (bitsandbytes/functional.py), and tensors of
# fewer than 4096 values in fp32; paged states of fewer than 100,000 values stay on the card (optim/optimizer.py).
_BLOCK = 256
SMALL_VALUES = 4096
PAGED_FROM_VALUES = 100_000
_EIGHT = 1 + _FP32 / _BLOCK
ADAM_8BIT = 2 * _EIGHT
# torchao packs two 4-bit values into a byte; transformers asks for blocks of 256 (torchao/optim).
_FOUR = 0.5 + _FP32 / _BLOCK
_RANK = 128  # of GaLore and APOLLO where ``optim_args`` says nothing (transformers' trainer_optimizer.py)

# torch's optimizers hold states in the parameter's own type; their default ``foreach`` versions make copies of all
# gradients at once (torch/optim/adamw.py: the denominators; adagrad.py: those and the numerators).
_ADAMW = Optimizer(copies=1.0)
_FUSED = Optimizer()
_PROJECTED = Optimizer(rank=_RANK, step_bytes=4 * _FP32)
# transformers' Adafactor: a row and a column in fp32 of each matrix; for one parameter at a time an fp32 update and its
# square, and of 16-bit weights also gradient and weight in fp32 (optimization.py).
_ADAFACTOR = Optimizer(0.0, factored=True, step_bytes=2 * _FP32, narrow_step_bytes=2 * _FP32)


def _bnb(states: int, *, eight: bool = False, paged: bool = False) -> Optimizer:
    if not eight:
        return Optimizer(float(states * _FP32), paged)
    return Optimizer(states * _EIGHT, paged, small_bytes=float(states * _FP32))


def _layerwise(row: Optimizer) -> Optimizer:
    """The same, each layer's step taken as soon as its gradient exists."""
    return replace(row, in_backward=True, copies=0.0)


OPTIMIZERS: Mapping[str, Optimizer] = MappingProxyType(
    {
        "adamw_torch": _ADAMW,
        "adamw_torch_fused": _FUSED,
        "adamw_torch_xla": _FUSED,  # torch_xla's syncfree AdamW: the same two states
        "adamw_torch_npu_fused": _FUSED,
        "adafactor": _ADAFACTOR,
        "adamw_anyprecision": Optimizer(
            2.0 * _FP32
        ),  # transformers asks for fp32 moments, without Kahan's sum
        "adamw_torch_4bit": Optimizer(2 * _FOUR),
        "adamw_torch_8bit": Optimizer(ADAM_8BIT),
        "ademamix": _bnb(3),
        "sgd": Optimizer(own_states=0.0),  # without momentum, transformers' default
        "adagrad": Optimizer(own_states=1.0, copies=2.0),
        "adamw_bnb_8bit": _bnb(2, eight=True),
        "adamw_8bit": _bnb(2, eight=True),
        "ademamix_8bit": _bnb(3, eight=True),
        "lion_8bit": _bnb(1, eight=True),
        "lion_32bit": _bnb(1),
        "paged_adamw_32bit": _bnb(2, paged=True),
        "paged_adamw_8bit": _bnb(2, eight=True, paged=True),
        "paged_ademamix_32bit": _bnb(3, paged=True),
        "paged_ademamix_8bit": _bnb(3, eight=True, paged=True),
        "paged_lion_32bit": _bnb(1, paged=True),
        "paged_lion_8bit": _bnb(1, eight=True, paged=True),
        "rmsprop": Optimizer(own_states=1.0, copies=1.0),
        "rmsprop_bnb": _bnb(1),
        "rmsprop_bnb_8bit": _bnb(1, eight=True),
        "rmsprop_bnb_32bit": _bnb(1),
        # GaLore (arXiv 2403.03507): moments of gradients projected to a rank, and the projection; its singular value
        # decomposition runs in fp32 on one matrix at a time (galore_torch/galore_projector.py).
        "galore_adamw": _PROJECTED,
        "galore_adamw_8bit": replace(_PROJECTED, state_bytes=ADAM_8BIT),
        "galore_adafactor": replace(_PROJECTED, state_bytes=0.0, factored=True),
        "galore_adamw_layerwise": _layerwise(_PROJECTED),
        "galore_adamw_8bit_layerwise": _layerwise(replace(_PROJECTED, state_bytes=ADAM_8BIT)),
        "galore_adafactor_layerwise": _layerwise(replace(_PROJECTED, state_bytes=0.0, factored=True)),
        # LOMO (arXiv 2306.09782) has no states and uses each gradient at once; AdaLomo factors its second moment.
        "lomo": Optimizer(own_states=0.0, in_backward=True),
        "adalomo": Optimizer(
            0.0, factored=True, in_backward=True, step_bytes=2 * _FP32, narrow_step_bytes=2 * _FP32
        ),
        "grokadamw": Optimizer(own_states=3.0),  # two moments and the slow gradient (grokadamw/grokadamw.py)
        # ScheduleFree keeps z beside the weights, and AdamW's and RAdam's second moment (schedulefree/*.py).
        "schedule_free_radam": Optimizer(copies=1.0),
        "schedule_free_adamw": Optimizer(copies=1.0),
        "schedule_free_sgd": Optimizer(own_states=1.0),
        # APOLLO (arXiv 2412.05270): as GaLore with a random projection, so without its decomposition.
        "apollo_adamw": replace(_PROJECTED, step_bytes=2 * _FP32),
        "apollo_adamw_layerwise": _layerwise(replace(_PROJECTED, step_bytes=2 * _FP32)),
        # optimi's StableAdamW sums 16-bit weights by Kahan: one state more of their own width.
        "stable_adamw": Optimizer(copies=1.0, narrow_states=1.0),
        # Beside transformers' list. Adam-mini (arXiv 2406.16793): one second moment a block of weights.
        "adam_mini": Optimizer(own_states=1.0),
        "sgd_momentum": Optimizer(own_states=1.0),
    }
)
Tensors = Iterable[tuple[int, int, int]]


def state_bytes(row: Optimizer, tensors: Tensors, width: int) -> float:
    """Return the bytes of all states that the allocator holds.

    Args:
        row: the optimizer.
        tensors: what trains: outputs, inputs (1 = a vector) and how many of it there are.
        width: bytes of a trained value.
    """
    return sum(copies * _held(row, rows, columns, width) for rows, columns, copies in tensors)


def _held(row: Optimizer, rows: int, columns: int, width: int) -> float:
    values = rows * columns
    if row.rank and min(rows, columns) > row.rank:
        longer, shorter = max(rows, columns), min(rows, columns)
        return _plain(row, longer * row.rank, longer, row.rank, width) + shorter * row.rank * width
    return _plain(row, values, rows, columns, width)


def _plain(row: Optimizer, values: int, rows: int, columns: int, width: int) -> float:
    if row.paged and values >= PAGED_FROM_VALUES:
        return 0.0
    if row.factored:
        return float(_FP32 * (rows + columns if min(rows, columns) > 1 else values))
    if row.small_bytes is not None and values < SMALL_VALUES:
        return row.small_bytes * values
    if row.state_bytes is not None:
        return row.state_bytes * values
    return (row.own_states + (row.narrow_states if width < _FP32 else 0.0)) * width * values


def step_bytes(row: Optimizer, tensors: Tensors, width: int) -> float:
    """Return what a step needs for a moment beside states and gradients, in bytes; arguments as ``state_bytes``."""
    sizes = [(rows * columns, copies) for rows, columns, copies in tensors]
    everything = sum(values * copies for values, copies in sizes)
    largest = max((values for values, _ in sizes), default=0)
    one = row.step_bytes + (row.narrow_step_bytes if width < _FP32 else 0.0)
    return row.copies * width * everything + one * largest
