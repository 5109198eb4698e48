"""Spec: what the user asked, checked. One vocabulary for magics, Python, command line and YAML files.

Keys are TRL's and PEFT's own names where those exist. A key that is left out is decided by the plan, which
prints its reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from ft_magic.axes import METHODS, UPDATES, find_method, find_update
from ft_magic.axes.pipelines import PIPELINES
from ft_magic.errors import FTError, SpecError, nearest

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
# No number: 0, negative, or unwritten values mean "the plan decides" nowhere; None does.
_WORDS = {"no": False, "off": False, "false": False, "yes": True, "on": True, "true": True}


def _flag(value: Any) -> Any:
    """Let ``no``, ``off``, ``yes``, ``on`` stand for booleans: the YAML body keeps them as strings."""
    return _WORDS.get(value.lower(), value) if isinstance(value, str) else value


def _text(value: Any) -> Any:
    """Let a number stand for its text: ``name: 2026``."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text)]
Flag = Annotated[bool, BeforeValidator(_flag)]


class Spec(BaseModel):
    """What to fine-tune, on what, how. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(description="'demo' (bundled SmolLM2-135M-Instruct), a hub id, a folder, or a run")
    data: str = Field(description="a path, URL or hub id; in a cell, $name for a Python variable")
    method: str = Field("sft", description="which loss: one of the methods")
    update: str = Field("lora", description="which weights: one of the updates")
    name: Text | None = Field(None, description="name of the run folder; by default date, method and model")
    backend: Literal["auto", "trl", "unsloth", "ppo", "fake"] = Field(
        "auto", description="engine that trains"
    )
    seed: int = Field(42, ge=0, lt=2**32, description="seed of data order and new weights (TRL's default)")
    learning_rate: float | None = Field(None, gt=0, le=1, description="peak learning rate")
    num_train_epochs: float | None = Field(None, gt=0, description="passes over the training data")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps; overrides num_train_epochs")
    batch_size: int | None = Field(None, ge=1, description="examples per optimizer step")
    micro_batch_size: int | None = Field(None, ge=1, description="examples per forward pass")
    max_length: int | None = Field(None, ge=8, description="longest example in tokens; longer ones are cut")
    lora_r: int = Field(16, ge=1, description="rank of the LoRA matrices (Unsloth's default)")
    lora_alpha: int | None = Field(None, ge=1, description="LoRA scale numerator; by default twice the rank")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the LoRA matrices")
    target_modules: str | tuple[str, ...] | None = Field(
        None, description="modules that get LoRA matrices; by default every linear layer but the output head"
    )
    modules_to_save: str | tuple[str, ...] | None = Field(
        None, description="modules trained whole and saved with the adapter, as embed_tokens for new tokens"
    )
    loraplus_lr_ratio: float = Field(
        16.0, ge=1, description="learning rate of LoRA's second matrix over the first's (LoRA+ paper)"
    )
    vera_r: int = Field(256, ge=1, description="rank of the random matrices VeRA shares (PEFT's default)")
    adapter_size: int = Field(64, ge=1, description="width of a bottleneck layer (Houlsby et al.: 8 to 256)")
    adapter_placement: Literal["houlsby", "pfeiffer"] = Field(
        "houlsby",
        description="bottlenecks behind attention and feed-forward part, or behind the latter alone",
    )
    num_virtual_tokens: int = Field(
        20, ge=1, description="learned tokens in front of the text (PEFT's guides)"
    )
    trainable_layers: int | None = Field(
        None, ge=1, description="top layers that train; by default a quarter of them, rounded up"
    )
    loss_type: str | None = Field(None, description="variant of the method's loss, by TRL's name")
    beta: float | None = Field(None, ge=0, description="strength of the pull to the reference model")
    rewards: Any = Field(
        None, description="what scores answers: $function, a built-in name, a reward run; a list for several"
    )
    judge: Any = Field(None, description="what compares two answers: a model, or an endpoint's settings")
    teacher: str | None = Field(None, description="model to learn from: as model")
    num_generations: int | None = Field(None, ge=2, description="answers a prompt, compared with each other")
    max_completion_length: int | None = Field(None, ge=1, description="longest answer in training, in tokens")
    temperature: float | None = Field(
        None, gt=0, description="spread of sampled answers; 1 = the model's own"
    )
    iterations: int | None = Field(None, ge=1, description="rounds of self-play")
    stages: dict[str, Any] = Field(
        default_factory=dict, description="settings of single stages of a pipeline: {reward: {max_steps: 50}}"
    )
    train_on: Literal["answers", "all", "last"] = Field(
        "answers", description="what carries loss: every answer, every token, or the last answer of a row"
    )
    packing: Flag = Field(False, description="pack short examples into full-length sequences")
    gradient_checkpointing: Flag | None = Field(None, description="recompute activations to save memory")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="number format of training"
    )
    optim: str | None = Field(None, description="optimizer, by transformers' name")
    lr_scheduler_type: str = Field("linear", description="learning-rate schedule (transformers' default)")
    warmup_ratio: float | None = Field(
        None, ge=0, le=1, description="share of steps with a rising learning rate"
    )
    eval_fraction: float = Field(0.1, ge=0, lt=1, description="share of rows held out; 0 = none")
    eval_data: str | None = Field(None, description="held-out data of its own, instead of eval_fraction")
    eval_steps: int | None = Field(None, ge=1, description="steps between held-out evaluations")
    save_steps: int | None = Field(None, ge=1, description="steps between checkpoints")
    save_every: float | None = Field(
        None, gt=0, description="minutes between checkpoints, besides save_steps; by default 10"
    )
    early_stopping: int | None = Field(
        None,
        ge=1,
        description="stop after this many evaluations without a better held-out loss; keep the best",
    )
    preflight: Flag | None = Field(
        None, description="try one step on the longest rows before training; by default on a GPU"
    )
    time_budget: float | None = Field(
        None, gt=0, description="minutes of a session; training saves and stops before they are over"
    )
    mirror: str | None = Field(
        None, description="folder that gets a copy of the run as it goes: a mounted drive, Kaggle's output"
    )
    audit: Literal["warn", "refuse", "off"] = Field("refuse", description="what a broken template check does")
    report_to: str | tuple[str, ...] | None = Field(None, description="trackers of transformers: wandb, ...")
    python: str | None = Field(None, description="Python interpreter of the worker; by default this one")
    detach: Flag = Field(False, description="return at once; follow later with %ft attach")
    if_exists: Literal["new", "error"] = Field(
        "new", description="when the run name is taken: number it, or stop"
    )
    trainer: dict[str, Any] = Field(default_factory=dict, description="further fields of the TRL config")

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        return find_method(value).name

    @field_validator("update")
    @classmethod
    def _known_update(cls, value: str) -> str:
        return find_update(value).name

    @field_validator("mirror")
    @classmethod
    def _whole_path(cls, value: str | None) -> str | None:
        return value and str(Path(value).expanduser().absolute())  # the worker may run elsewhere

    @field_validator("name")
    @classmethod
    def _safe_name(cls, value: str | None) -> str | None:
        if value is not None and not NAME_PATTERN.fullmatch(value):
            raise SpecError(
                f"name {value!r} is no plain folder name, so the run could land outside the run folder.",
                "Use up to 80 letters, digits, dots, dashes and underscores, starting with a letter or digit.",
            )
        return value


def parse(given: Mapping[str, Any]) -> Spec:
    """Check what was asked and return it as a ``Spec``.

    Args:
        given: spec keys and values, as typed.

    Raises:
        SpecError: unknown keys, wrong types or impossible values; all of them in one error.
    """
    problems = [_unknown_key(key) for key in given if key not in Spec.model_fields]
    known = {key: value for key, value in given.items() if key in Spec.model_fields}
    spec = None
    try:
        spec = Spec.model_validate(known)
    except ValidationError as error:
        problems += [_describe(detail) for detail in error.errors()]
    if spec is not None and not problems:
        return spec
    first, *rest = problems
    if not rest:
        return _raise(*first)
    lines = [f"{problem} {instead}".strip() for problem, instead in problems]
    return _raise(f"{len(problems)} things in this spec cannot be:", "\n".join(f"- {line}" for line in lines))


def _raise(problem: str, instead: str) -> Spec:
    raise SpecError(problem, instead)


def _unknown_key(key: str) -> tuple[str, str]:
    hint = nearest(key, Spec.model_fields)
    more = (
        "Fields of the TRL config go under trainer:."
        if hint
        else f"Known keys: {', '.join(Spec.model_fields)}."
    )
    return f"unknown key '{key}'.{hint}", more


def _describe(detail: Any) -> tuple[str, str]:
    """Turn one pydantic error into (what and why, what instead)."""
    key = str(detail["loc"][0]) if detail["loc"] else "spec"
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, FTError):
        return cause.problem, cause.instead
    if detail["type"] == "missing":
        return f"'{key}' is missing.", f"Add `{key}: ...` ({Spec.model_fields[key].description})."
    text = str(detail["msg"])
    return (
        f"{key}: {detail['input']!r} cannot be used: {text[0].lower()}{text[1:]}.",
        f"{key} is {Spec.model_fields[key].description}.",
    )


def choices(key: str) -> tuple[str, ...]:
    """Return the fixed words a key may take, for completion and forms; empty where any value goes."""
    if key == "method":
        return (*METHODS, *PIPELINES)
    if key == "update":
        return tuple(UPDATES)
    annotation = Spec.model_fields[key].annotation
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Literal:
            return tuple(str(word) for word in get_args(part))
        if part is bool:
            return ("true", "false")
    return ()
