"""What a row of each axis says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Signal:
    """What one normalised example carries.

    Attributes:
        name: the word users write.
        title: one sentence for tables and help.
        fields: the shapes a row may have, each a tuple of keys that must all be present.
        example: a small row of this signal.
        converts_to: signals its rows can be turned into (``Data.to``), each with how.
    """

    name: str
    title: str
    fields: tuple[tuple[str, ...], ...]
    example: Mapping[str, Any]
    converts_to: Mapping[str, str] = field(default_factory=lambda: _NONE)


@dataclass(frozen=True)
class Method:
    """Which loss is minimised.

    Attributes:
        name: the word users write and the name of its magic (``%%name``).
        title: one sentence for tables and help.
        signals: names of the signals it reads, the usual one first.
        trainer: ``module:Class`` of the trainer, resolved in the worker.
        config: ``module:Class`` of its arguments.
        feed: what the trainer is fed: ``labels`` (tokens with labels), ``pairs``, ``judged`` (label rows),
            ``whole_pairs`` (prompt and answer as one sequence, twice), ``prompts``.
        learning_rates: default learning rate for ``adapter`` and for ``full`` updates.
        source: where the loss and the defaults come from.
        backends: names of the backends that run it.
        settings: trainer arguments fixed by this method.
        options: spec keys only this kind of method reads (``beta``, ``loss_type``).
        needs: spec keys that must be given, or one of several joined by ``|`` (``rewards|judge``).
        losses: values of ``loss_type`` it takes, by the trainer's names; empty where it has one loss only.
        reference: how the policy it is held close to is kept: empty for none, ``precomputed`` (log-probabilities
            of full updates are computed before training) or ``live`` (full updates keep a second copy).
        score_head: whether the model gets a scalar head instead of its language head.
        sides: sequences one example sends through the model at once: 2 for pairs.
        least_micro_batch: examples that must go through the model together at least.
        generates: whether the model answers prompts while it trains.
        goal: held-out metric that tells a better model, higher being better; empty: the held-out loss.
        refuses: field of an update that is set -> why this method cannot train such updates.
        metrics: trainer metrics worth a chart, in display order.
    """

    name: str
    title: str
    signals: tuple[str, ...]
    trainer: str
    config: str
    feed: str
    learning_rates: Mapping[str, float]
    source: str
    backends: tuple[str, ...] = ("trl",)
    settings: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    reference: str = ""
    score_head: bool = False
    sides: int = 1
    least_micro_batch: int = 1
    generates: bool = False
    goal: str = ""
    refuses: Mapping[str, str] = field(default_factory=lambda: _NONE)
    metrics: tuple[str, ...] = ()

    @property
    def signal(self) -> str:
        """The usual signal."""
        return self.signals[0]


@dataclass(frozen=True)
class Update:
    """Which weights change.

    Attributes:
        name: the word users write.
        title: one sentence for tables and help.
        family: ``full`` or ``adapter``: picks the method's default learning rate.
        backends: names of the backends that run it.
        source: paper or library it comes from.
        peft: name of the PEFT configuration class, or empty when no adapter is used.
        arguments: argument of the PEFT class -> key of the spec that fills it.
        settings: arguments of the PEFT class fixed by this update.
        bits: bits of a frozen, quantized base, or 0 when the base is not quantized.
        options: spec keys only this kind of update reads.
        rate_factor: its default learning rate as a multiple of LoRA's.
        merges: whether its result can be folded into the weights, and so become a GGUF file.
        hot_swaps: whether runtimes that load LoRA adapters beside a base (vLLM, llama.cpp) take it as it is.
        virtual_tokens: whether it learns tokens in front of the text instead of weights.
        in_cache: whether those stand in the key-value cache of every layer.
    """

    name: str
    title: str
    family: str
    backends: tuple[str, ...]
    source: str
    peft: str = ""
    arguments: Mapping[str, str] = field(default_factory=lambda: _NONE)
    settings: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    bits: int = 0
    options: tuple[str, ...] = ()
    rate_factor: float = 1.0
    merges: bool = True
    hot_swaps: bool = False
    virtual_tokens: bool = False
    in_cache: bool = False
