"""Room on the disk that a run and what follows it will take. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from ft_magic.planning.plans import Plan

# A checkpoint holds what trains and AdamW's two moments of it, in the same number format.
_CHECKPOINT_COPIES = 3
_KEPT_CHECKPOINTS = 3  # two kept and one being written (backends/watch.py)
_MERGED_BYTES = 2  # a weight of a merged model: it is written in 16 bit


@dataclass(frozen=True)
class DiskNeeds:
    """Bytes on the disk: of one checkpoint, of the result, and of the merged model where there will be one."""

    checkpoint_bytes: int
    result_bytes: int
    merged_bytes: int

    @property
    def run_bytes(self) -> int:
        """What training itself may hold at once."""
        return _KEPT_CHECKPOINTS * self.checkpoint_bytes + self.result_bytes

    @property
    def words(self) -> str:
        """The sum in words."""
        return (
            f"{_KEPT_CHECKPOINTS} checkpoints of {self.checkpoint_bytes / 2**30:.1f} GiB and a result of "
            f"{self.result_bytes / 2**30:.1f} GiB"
        )


def disk_needs(plan: Plan, parameters: int = 0) -> DiskNeeds:
    """Return what a run will hold on the disk.

    Args:
        plan: its memory by part says how large what trains is.
        parameters: weights of the base model; 0 leaves the merged model out.
    """
    parts = plan.memory.parts
    result = int(parts.get("adapter", 0) or parts.get("weights", 0))
    merged = _MERGED_BYTES * parameters if plan.update.family == "adapter" else 0
    return DiskNeeds(_CHECKPOINT_COPIES * result, result, merged)
