"""Memory: the answer of an estimate, in bytes by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Parts that are not tensors of PyTorch's allocator.
FRAGMENTATION, RUNTIME = "fragmentation", "runtime"


@dataclass(frozen=True)
class Memory:
    """Peak memory of a step in bytes, by part, at the instant where the sum is largest.

    Attributes:
        parts: bytes by part; their sum is what the device must have.
        instant: when the peak is: ``forward``, ``backward``, ``optimizer``, ``generation`` or ``load``.
        metric: which of the three sums ``peak_bytes`` is: ``allocated``, ``reserved`` or ``device``.
        error: how far off the estimate may be, as two factors.
        notes: what was assumed.
    """

    parts: Mapping[str, int]
    instant: str = field(default="", compare=False)
    metric: str = field(default="device", compare=False)
    error: tuple[float, float] = field(default=(1.0, 1.0), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def total_bytes(self) -> int:
        """Sum of all parts: what the device must have."""
        return sum(self.parts.values())

    @property
    def device_bytes(self) -> int:
        """What the device must have: reserved and the runtime's context."""
        return self.total_bytes

    @property
    def reserved_bytes(self) -> int:
        """What PyTorch's allocator takes from the device."""
        return self.total_bytes - self.parts.get(RUNTIME, 0)

    @property
    def allocated_bytes(self) -> int:
        """What tensors take."""
        return self.reserved_bytes - self.parts.get(FRAGMENTATION, 0)

    @property
    def peak_bytes(self) -> int:
        """The peak in the metric asked for."""
        sums = {"allocated": self.allocated_bytes, "reserved": self.reserved_bytes}
        return sums.get(self.metric, self.device_bytes)

    @property
    def band(self) -> tuple[int, int]:
        """Lowest and highest peak to expect, in bytes."""
        low, high = self.error
        return round(self.peak_bytes * low), round(self.peak_bytes * high)

    def chart(self, gpu: str | None = None) -> Any:
        """Return the parts as one stacked bar, a plotly ``Figure``, against a card's limit where one is named.

        Raises:
            SpecError: the card is not in the table.
            ImportError: plotly is not installed.
        """
        from ft_magic.memory.question import card_named
        from ft_magic.ui.memory_chart import figure

        return figure(self, card_named(gpu) if gpu else None)

    def _repr_html_(self) -> str:
        from ft_magic.ui.memory_view import memory_html

        return memory_html(self)
