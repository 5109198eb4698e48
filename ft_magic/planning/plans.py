"""Plan: what will happen, every number with its reason. Pure values: no torch, no files, no clock.

The three axes, the model, the data and the hardware meet here and in ``decide.py``, which makes the plan.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.axes import METHODS, UPDATES, Method, Update, find_method, find_update
from ft_magic.hardware import Hardware
from ft_magic.memory import Memory
from ft_magic.models import ModelFacts
from ft_magic.spec import Spec

if TYPE_CHECKING:
    from ft_magic.planning.eta import Speed

BACKENDS = ("trl", "unsloth", "ppo")


@dataclass(frozen=True)
class Settings:
    """Every value the worker needs, none left open. Steps are optimizer steps; lengths are tokens.

    ``batch_size`` counts examples; ``micro_batch_size`` counts what goes through the model at once: examples, pairs,
    packed sequences, or answers of methods that compare ``num_generations`` answers a prompt. The four from
    ``max_completion_length`` on say how a model that answers while it trains does so, and are 0 elsewhere.
    ``generation_batch_size`` is 0 until memory ran short: then it says how many are answered at once.
    ``save_every`` is in minutes, 0 = by steps alone.
    ``padding_free`` sends a micro-batch through the model as one row of tokens.
    """

    backend: str
    device: str
    precision: str
    learning_rate: float
    total_steps: int
    batch_size: int
    micro_batch_size: int
    accumulation_steps: int
    max_length: int
    weight_bytes: int
    warmup_steps: int
    eval_steps: int
    eval_examples: int
    save_steps: int
    optim: str
    gradient_checkpointing: bool
    packing: bool
    lora_alpha: int
    threads: int
    max_completion_length: int = 0
    num_generations: int = 0
    temperature: float = 0.0
    iterations: int = 0
    preflight: bool = False
    eval_batch_size: int = 0
    generation_batch_size: int = 0
    save_every: float = 0.0
    padding_free: bool = False

    @property
    def attention(self) -> str:
        """Attention kernel, by transformers' name: joined rows are kept apart by FlashAttention alone."""
        return "flash_attention_2" if self.packing or self.padding_free else "sdpa"


@dataclass(frozen=True)
class Advice:
    """A warning a reader can act on: what is off, and the fix."""

    message: str
    fix: str


@dataclass(frozen=True)
class Lengths:
    """Token counts of the rows to train on.

    Attributes:
        tokens: length of each row (of the longer answer for pairs), in order.
        trained: how many of them carry loss, in order.
    """

    tokens: tuple[int, ...]
    trained: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Plan:
    """What will happen.

    Attributes:
        spec: what was asked, with data and model as text.
        settings: every number the worker uses.
        reasons: why, for each setting that was not simply given.
        memory: peak bytes by part.
        memory_limit_bytes: what the device has free.
        examples: rows trained on.
        heldout_examples: rows held out.
        epochs: passes over the data.
        eta_s: duration in seconds, 0 when unknown.
        eta_source: where that is from: an earlier run, the preflight, or a guess.
        eta_steps: measured steps behind it; 0 for a guess.
        tokens_a_step: tokens of rows and answers in an optimizer step, without padding.
        speed_key: what runs share whose speeds are alike.
        measured_bytes: highest memory measured, 0 before anything was.
        measured_where: what was measured.
        environment: variables set for the worker.
        warnings: what a reader should act on.
        notes: what was decided or changed on the way, in sentences.
        teacher_folder: model folder of the teacher, where there is one.
    """

    spec: Spec
    model_folder: str
    model_name: str
    settings: Settings
    reasons: Mapping[str, str]
    memory: Memory
    memory_limit_bytes: int
    examples: int
    heldout_examples: int
    epochs: float
    eta_s: float
    environment: Mapping[str, str]
    warnings: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()
    teacher_folder: str = ""
    eta_source: str = ""
    eta_steps: int = 0
    tokens_a_step: float = 0.0
    speed_key: str = ""
    measured_bytes: int = 0
    measured_where: str = ""

    @property
    def method(self) -> Method:
        """Row of the method axis."""
        return find_method(self.spec.method)

    @property
    def update(self) -> Update:
        """Row of the update axis."""
        return find_update(self.spec.update)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON values; ``from_dict`` is its inverse."""
        raw = {key: getattr(self, key) for key in _PLAIN}
        return raw | {
            "spec": self.spec.model_dump(mode="json"),
            "settings": asdict(self.settings),
            "reasons": dict(self.reasons),
            "memory": dict(self.memory.parts),
            "environment": dict(self.environment),
            "warnings": [asdict(warning) for warning in self.warnings],
            "notes": list(self.notes),
            **{key: getattr(self, key) for key in _LATER},
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from ``to_dict``'s values."""
        return cls(
            spec=Spec.model_validate(raw["spec"]),
            settings=Settings(**raw["settings"]),
            reasons=raw["reasons"],
            memory=Memory(raw["memory"]),
            environment=raw["environment"],
            warnings=tuple(Advice(**warning) for warning in raw["warnings"]),
            notes=tuple(raw["notes"]),
            **{key: raw[key] for key in _PLAIN},
            **{key: raw[key] for key in _LATER if key in raw},
        )

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan from its file in a run folder."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))

    def __repr__(self) -> str:
        from ft_magic.ui.plan import plan_text

        return plan_text(self)

    def _repr_html_(self) -> str:
        from ft_magic.ui.plan import plan_html

        return plan_html(self)


_PLAIN = (
    "model_folder", "model_name", "memory_limit_bytes", "examples", "heldout_examples", "epochs", "eta_s",
)  # fmt: skip
# Fields that a plan of an earlier version may lack.
_LATER = (
    "teacher_folder", "eta_source", "eta_steps", "tokens_a_step", "speed_key", "measured_bytes", "measured_where",
)  # fmt: skip


def refusal(method: Method, update: Update, backend: str, *, cpu: bool = True) -> str:
    """Return why a combination cannot run, or an empty string when it works."""
    if backend not in method.backends:
        runs = [row.name for row in METHODS.values() if backend in row.backends]
        return f"backend {backend} runs the methods {', '.join(runs)} only"
    if backend not in update.backends:
        runs = [row.name for row in UPDATES.values() if backend in row.backends]
        return f"backend {backend} trains {', '.join(runs)} only"
    for trait, why in method.refuses.items():
        if getattr(update, trait):
            return why
    if backend == "unsloth" and cpu and update.bits:
        return "Unsloth's CPU backend trains LoRA and full weights only; 4-bit bases need its CUDA kernels"
    if backend == "unsloth" and cpu and method.feed != "labels":
        return "Unsloth's CPU backend covers supervised text training only"
    return ""


@dataclass(frozen=True)
class Cell:
    """One combination of the grid; ``reason`` is empty when it works."""

    method: str
    update: str
    backend: str
    reason: str


@dataclass(frozen=True, repr=False)
class Grid:
    """Every combination; shows itself as a table."""

    cells: tuple[Cell, ...]

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __repr__(self) -> str:
        from ft_magic.ui.plan import shown_grid

        return shown_grid(self.cells).text

    def _repr_html_(self) -> str:
        from ft_magic.ui.plan import shown_grid

        return shown_grid(self.cells).html


def grid(*, cpu: bool = True) -> Grid:
    """Return every method x update x backend of the method, with the reason where it is refused."""
    return Grid(
        tuple(
            Cell(method.name, update.name, backend, refusal(method, update, backend, cpu=cpu))
            for method in METHODS.values()
            for update in UPDATES.values()
            for backend in method.backends
        )
    )


@dataclass(frozen=True)
class Situation:
    """What a plan is made from besides the spec."""

    facts: ModelFacts
    model_folder: str
    model_name: str
    lengths: Lengths
    heldout_examples: int
    hardware: Hardware
    unsloth_installed: bool = False
    threads: int = 1
    teacher_folder: str = ""
    teacher_parameters: int = 0
    flash_attention_installed: bool = False
    speeds: Mapping[str, Speed] = field(default_factory=dict)
