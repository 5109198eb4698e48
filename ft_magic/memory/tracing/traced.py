"""What a trace answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Instant:
    """The largest moment of one phase.

    Attributes:
        name: ``load``, ``resident``, ``reference`` (log-probabilities made before training), ``evaluation``,
            ``generation``, ``scoring`` (answers read without gradients), ``forward``, ``backward`` or ``optimizer``.
        allocated_bytes: bytes in tensors at that moment.
        parts: the same by part.
    """

    name: str
    allocated_bytes: int
    parts: Mapping[str, int]


@dataclass(frozen=True)
class Traced:
    """What a traced step needs.

    Attributes:
        allocated_bytes: most bytes in tensors at once (``torch.cuda.max_memory_allocated``).
        reserved_bytes: most bytes the caching allocator holds (``max_memory_reserved``).
        parts: the allocated bytes by part.
        instant: phase of the peak.
        timeline: the largest moment of each phase of the last step.
        trained_parameters: weights that train.
        layers_traced: decoder layers that really ran.
        seconds: time the trace took.
        notes: where something stood in for what would have run.
    """

    allocated_bytes: int
    reserved_bytes: int
    parts: Mapping[str, int]
    instant: str
    timeline: tuple[Instant, ...] = field(default=())
    trained_parameters: int = 0
    layers_traced: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
