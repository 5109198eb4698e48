"""Room on the disk that a run and what follows it will take. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from ft_magic.models import ModelFacts
from ft_magic.planning.plans import Plan

_KEPT_CHECKPOINTS = 3  # two kept and one being written (backends/watch.py)
_MERGED_BYTES = 2  # a weight of a merged model: it is written in 16 bit
_FULL_BYTES = 4  # a weight that is trained whole beside an adapter, and each of AdamW's two moments of it
_MOMENTS = 2
_TABLES = ("embed_tokens", "lm_head", "wte", "embed_out")  # a row for each token of the vocabulary


@dataclass(frozen=True)
class DiskNeeds:
    """Bytes on the disk: of one checkpoint, of the result, and of the merged model where there will be one.

    ``checkpoints`` counts those that stand at once, one half-written included.
    """

    checkpoint_bytes: int
    result_bytes: int
    merged_bytes: int
    checkpoints: int = _KEPT_CHECKPOINTS

    @property
    def run_bytes(self) -> int:
        """What training itself may hold at once."""
        return self.checkpoints * self.checkpoint_bytes + self.result_bytes

    @property
    def words(self) -> str:
        """The sum in words."""
        return (
            f"{self.checkpoints} checkpoints of {self.checkpoint_bytes / 2**30:.1f} GiB, optimizer states included, "
            f"and a result of {self.result_bytes / 2**30:.1f} GiB"
        )


def disk_needs(plan: Plan, facts: ModelFacts, parameters: int = 0, tokenizer_bytes: int = 0) -> DiskNeeds:
    """Return what a run will hold on the disk.

    Args:
        plan: its memory by part says how large what trains and its optimizer are.
        facts: sizes of the model.
        parameters: weights of the base model; 0 leaves the merged model out.
        tokenizer_bytes: of the model's tokenizer files, which every checkpoint and the result carry.
    """
    parts, whole = plan.memory.parts, _saved_whole(plan, facts)
    result = int(parts.get("adapter", 0) or parts.get("weights", 0)) + _FULL_BYTES * whole + tokenizer_bytes
    moments = 0 if plan.settings.optim == "sgd" else int(parts.get("optimizer", 0))
    checkpoint = result + moments + _MOMENTS * _FULL_BYTES * whole
    merged = _MERGED_BYTES * parameters if plan.update.family == "adapter" else 0
    best = int(plan.spec.early_stopping is not None)  # the best checkpoint stays, however old
    return DiskNeeds(checkpoint, result, merged, _KEPT_CHECKPOINTS + best)


def _saved_whole(plan: Plan, facts: ModelFacts) -> int:
    """Return the weights that are trained and saved whole beside an adapter (``modules_to_save``)."""
    asked = plan.spec.modules_to_save or ()
    names = [asked] if isinstance(asked, str) else asked
    return sum(facts.vocab_size * facts.hidden_size for name in names if name.rsplit(".", 1)[-1] in _TABLES)
