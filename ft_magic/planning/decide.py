"""Decide everything a spec left open. One small function a number; each gives the value and the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from ft_magic.axes import Method, Update, find_method, find_update
from ft_magic.errors import SpecError
from ft_magic.memory import Size, Workload
from ft_magic.planning import cautions, joining
from ft_magic.planning.cadence import cadence, eval_batch
from ft_magic.planning.eta import eta, key, step_tokens
from ft_magic.planning.fit import Choice, fit, memory_limit_bytes
from ft_magic.planning.joining import Joined
from ft_magic.planning.options import check_needs, check_options
from ft_magic.planning.plans import BACKENDS, Plan, Settings, Situation, refusal
from ft_magic.planning.sampling import sampling
from ft_magic.process_environment import process_environment
from ft_magic.spec import Spec

_LENGTH_CAP_TOKENS = {"cpu": 1024, "cuda": 2048}  # TRL's and Unsloth's default max_length
_UNKNOWN_POSITIONS = 2048  # where a configuration names no limit
_DEFAULT_BATCH_EXAMPLES = 8  # effective batch of Unsloth's and TRL's published SFT recipes
_FEW_ROWS_EPOCHS = 3  # transformers' default; large sets get one pass (Unsloth's notebooks)
_MANY_ROWS = 1000
_WARMUP_RATIO = 0.05  # Unsloth's recipes warm up for 5 steps of about 100
_REHEARSED = ("trl", "unsloth", "ppo")  # backends whose first step can be tried without taking it


def make(spec: Spec, situation: Situation) -> Plan:
    """Make the plan.

    Args:
        spec: what was asked.
        situation: model, data and machine.

    Raises:
        SpecError: the combination cannot run, or an option does not belong to the method.
    """
    method, update = find_method(spec.method), find_update(spec.update)
    check_options(spec, method, update)
    check_needs(spec, method)
    device = "cuda" if situation.hardware.gpus else "cpu"
    limit = memory_limit_bytes(situation)
    backend = _backend(spec, method, update, situation, device)
    precision = _precision(spec, situation, device)
    positions = situation.facts.max_length_tokens or _UNKNOWN_POSITIONS
    answers = sampling(spec, method, situation, device, positions)
    length = _max_length(spec, situation, device, _value(answers, "max_completion_length"))
    batch = _batch_size(spec, situation)
    sequences = batch.value * max(1, _value(answers, "num_generations"))
    packing = joining.packing(spec, method, situation, update, precision.value)
    if packing.value:
        packed = joining.joined(spec, situation, batch.value, length.value, _cap(situation, device))
        length, sequences = _packed_length(spec, packed), packed.sequences
    work = Workload(
        update=update,
        micro_batch_examples=1,
        length_tokens=length.value,
        weight_bytes=_weight_bytes(update, precision.value),
        size=Size(
            lora_r=spec.lora_r,
            vera_r=spec.vera_r,
            adapter_size=spec.adapter_size,
            adapters_a_layer=2 if spec.adapter_placement == "houlsby" else 1,
            num_virtual_tokens=spec.num_virtual_tokens,
            trainable_layers=spec.trainable_layers,
        ),
        sides=method.sides,
        twins=int(backend.value == "ppo"),
        frozen_copies=int(method.reference == "live" and update.family == "full"),
        other_weights=situation.teacher_parameters,
        full_logits=method.feed not in ("labels", "whole_pairs"),
        gpu=device == "cuda",
    )
    micro, checkpointing, memory = fit(spec, situation, work, sequences, limit, method.least_micro_batch)
    epochs, steps = _steps(spec, situation, batch.value, _value(answers, "iterations"))
    rate = _learning_rate(spec, method, update)
    group = _value(answers, "num_generations")
    often = cadence(spec, situation, steps.value, batch.value)
    evaluated = int(often["eval_examples"].value)  # type: ignore[call-overload]  # a count
    loaded = replace(work, micro_batch_examples=micro.value, checkpointing=checkpointing.value)
    fed = [min(tokens, length.value) for tokens in situation.lengths.tokens]
    chosen: dict[str, Choice[object]] = {
        "backend": backend,
        "precision": precision,
        "learning_rate": rate,
        "total_steps": steps,
        "batch_size": batch,
        "micro_batch_size": micro,
        "accumulation_steps": Choice(sequences // micro.value, "what is left of the batch"),
        "max_length": length,
        "warmup_steps": _warmup_steps(spec, steps.value),
        **often,
        "eval_batch_size": eval_batch(spec, situation, method, loaded, memory, evaluated, group),
        "optim": _optim(spec, update, device),
        "gradient_checkpointing": checkpointing,
        "packing": packing,
        "padding_free": joining.padding_free(
            method, situation, update, precision.value, backend.value, fed, micro.value
        )
        if not packing.value
        else Choice(value=False, reason=""),
        "lora_alpha": Choice(spec.lora_alpha or 2 * spec.lora_r, "twice the rank (LoRA paper's repository)"),
        "threads": Choice(situation.threads, "the cores this process may use, or OMP_NUM_THREADS"),
        "preflight": _preflight(spec, backend.value, device),
        **answers,
    }
    settings = Settings(
        device=device,
        weight_bytes=work.weight_bytes,
        **{name: choice.value for name, choice in chosen.items()},  # type: ignore[arg-type]  # names match fields
    )
    time = eta(situation, settings, method, update)
    return Plan(
        spec=spec,
        model_folder=situation.model_folder,
        model_name=situation.model_name,
        settings=settings,
        reasons={name: choice.reason for name, choice in chosen.items() if choice.reason},
        memory=memory,
        memory_limit_bytes=limit,
        examples=len(situation.lengths.tokens),
        heldout_examples=situation.heldout_examples,
        epochs=epochs,
        eta_s=time.seconds,
        eta_source=time.source,
        eta_steps=time.steps,
        tokens_a_step=step_tokens(situation, settings),
        speed_key=key(situation, settings, method, update),
        environment=process_environment(device, settings.threads),
        warnings=cautions.warnings(situation, settings, update, epochs, limit, memory),
        notes=cautions.notes(situation, settings, method, update),
        teacher_folder=situation.teacher_folder,
    )


def _value(answers: Mapping[str, Choice[object]], name: str) -> int:
    return int(answers[name].value) if name in answers else 0  # type: ignore[call-overload]  # counts and lengths


def _backend(spec: Spec, method: Method, update: Update, situation: Situation, device: str) -> Choice[str]:
    cpu = device == "cpu"
    if spec.backend == "fake":
        return Choice("fake", "asked for: events without training, for tests of the display")
    works = [name for name in BACKENDS if not refusal(method, update, name, cpu=cpu)]
    if spec.backend != "auto" and spec.backend not in works:
        raise SpecError(
            f"backend {spec.backend} cannot run {method.name} with {update.name}: "
            f"{refusal(method, update, spec.backend, cpu=cpu)}.",
            f"Write backend: {works[0] if works else 'auto'}, or choose another update.",
        )
    if spec.backend != "auto":
        return Choice(spec.backend, "asked for")
    if not works:
        raise SpecError(
            f"{method.name} cannot train {update.name}: {refusal(method, update, method.backends[0], cpu=cpu)}.",
            "Choose another update: lora works with every method.",
        )
    if not cpu and situation.unsloth_installed and "unsloth" in works:
        return Choice("unsloth", "installed, and its kernels are faster on a GPU")
    if "trl" not in works:
        return Choice(works[0], "ft_magic's own loop: no library has this method")
    if not cpu and situation.unsloth_installed:
        return Choice("trl", f"plain TRL, because {refusal(method, update, 'unsloth', cpu=cpu)}")
    return Choice(
        "trl", "plain TRL: on a CPU as fast as Unsloth or faster" if cpu else "runs every cell of the grid"
    )


def _precision(spec: Spec, situation: Situation, device: str) -> Choice[str]:
    if spec.precision != "auto":
        return Choice(str(spec.precision), "asked for")
    if device == "cpu":
        return Choice(
            "fp32",
            "exact, and as fast as bf16 where measured (Zen 5); precision: bf16 tries the 16-bit units"
            if situation.hardware.cpu_bf16
            else "this CPU has no 16-bit arithmetic",
        )
    found = situation.hardware.precision
    emulated = "GPUs before compute capability 8.0 only emulate bf16"
    return Choice(found, "the GPU has bf16 arithmetic" if found == "bf16" else emulated)


def _weight_bytes(update: Update, precision: str) -> int:
    """Bytes of an unquantized weight; full fine-tuning keeps fp32 master weights under 16-bit autocast."""
    return 4 if precision == "fp32" or update.family == "full" else 2


def _max_length(spec: Spec, situation: Situation, device: str, answer_tokens: int) -> Choice[int]:
    longest = max(situation.lengths.tokens, default=8) + answer_tokens
    top = situation.facts.max_length_tokens or _UNKNOWN_POSITIONS
    if spec.max_length is not None:
        if spec.max_length > top:
            raise SpecError(
                f"max_length {spec.max_length} is more than this model's {top} positions.",
                f"Write max_length: {top} or less.",
            )
        return Choice(spec.max_length, "asked for")
    cap = _cap(situation, device)
    rounded = max(8, math.ceil(longest / 8) * 8)
    row, fate = ("prompt with its answer", "left out") if answer_tokens else ("row", "cut")
    if rounded <= cap:
        return Choice(rounded, f"the longest {row} has {longest} tokens")
    return Choice(cap, f"the longest {row} has {longest} tokens; those beyond {cap} are {fate}")


def _cap(situation: Situation, device: str) -> int:
    """Return the longest sequence taken by default, in tokens."""
    return min(situation.facts.max_length_tokens or _UNKNOWN_POSITIONS, _LENGTH_CAP_TOKENS[device])


def _packed_length(spec: Spec, packed: Joined) -> Choice[int]:
    if spec.max_length is not None:
        return Choice(spec.max_length, "asked for")
    held = f"{packed.sequences} packed sequence{'s' * (packed.sequences > 1)} of this length"
    return Choice(packed.length_tokens, f"{held} hold about the examples of a step")


def _batch_size(spec: Spec, situation: Situation) -> Choice[int]:
    if spec.batch_size is not None:
        return Choice(spec.batch_size, "asked for")
    rows = max(1, len(situation.lengths.tokens))
    if rows < _DEFAULT_BATCH_EXAMPLES:
        return Choice(rows, "all rows: there are fewer than eight")
    return Choice(_DEFAULT_BATCH_EXAMPLES, "effective batch of the published LoRA recipes")


def _steps(spec: Spec, situation: Situation, batch: int, iterations: int) -> tuple[float, Choice[int]]:
    rows = max(1, len(situation.lengths.tokens))
    per_epoch = math.ceil(rows / batch)
    if spec.max_steps is not None:
        return spec.max_steps / per_epoch, Choice(spec.max_steps, "asked for")
    if spec.num_train_epochs is not None:
        epochs, why = spec.num_train_epochs, "asked for"
    elif iterations:
        epochs, why = float(iterations), "one pass each round of self-play"
    elif rows < _MANY_ROWS:
        epochs, why = float(_FEW_ROWS_EPOCHS), f"three passes: fewer than {_MANY_ROWS} rows"
    else:
        epochs, why = 1.0, "one pass over a large set"
    return epochs, Choice(max(1, math.ceil(epochs * per_epoch)), f"{epochs:g} x {per_epoch} steps ({why})")


def _learning_rate(spec: Spec, method: Method, update: Update) -> Choice[float]:
    if spec.learning_rate is not None:
        return Choice(spec.learning_rate, "asked for")
    rate = method.learning_rates[update.family] * update.rate_factor
    why = f"default of {method.name} with {update.family} updates"
    return Choice(
        rate, why if update.rate_factor == 1 else f"{why}, times {update.rate_factor:g} for {update.name}"
    )


def _warmup_steps(spec: Spec, steps: int) -> Choice[int]:
    ratio = _WARMUP_RATIO if spec.warmup_ratio is None else spec.warmup_ratio
    return Choice(round(ratio * steps), f"{ratio:.0%} of the steps")


def _optim(spec: Spec, update: Update, device: str) -> Choice[str]:
    if spec.optim is not None:
        return Choice(spec.optim, "asked for")
    if device == "cpu":
        return Choice("adamw_torch", "plain AdamW: paged and fused kernels are for GPUs")
    if update.bits:
        return Choice("paged_adamw_8bit", "QLoRA's optimizer: states leave the GPU under pressure")
    return Choice("adamw_torch_fused", "one kernel for all weights")


def _preflight(spec: Spec, backend: str, device: str) -> Choice[bool]:
    if backend not in _REHEARSED:
        if spec.preflight:
            raise SpecError(
                f"backend {backend} has no preflight: its first step is its own.", "Leave preflight out."
            )
        return Choice(False, f"backend {backend} has none")
    if spec.preflight is not None:
        return Choice(bool(spec.preflight), "asked for")
    if device == "cpu":
        return Choice(
            False, "a CPU's memory rarely ends; write preflight: true to try the longest rows first"
        )
    return Choice(True, "one step on the longest rows shows at once whether training fits")
