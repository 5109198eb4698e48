"""What a trainer does when memory runs short: evaluate and answer in smaller parts, save the last whole step.

Worker only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ft_magic.backends import Emit, shortage
from ft_magic.backends.attributes import Attributes
from ft_magic.backends.random_state import RandomState
from ft_magic.backends.shortage import ShortageError
from ft_magic.backends.watch import Watch
from ft_magic.planning.plans import Plan
from ft_magic.planning.smaller import (
    EVAL,
    GENERATE,
    TRAIN,
    advice,
    change,
    eval_batch_size,
    given,
    smaller,
)

# How TRL's GRPO and RLOO sample: prompts as token ids in, answers as token ids out (GRPO: and log-probabilities).
_SAMPLE = "_generate_single_turn"
_WHAT = {EVAL: "evaluation", GENERATE: "answering"}


@dataclass
class Room:
    """The plan of an attempt, which shrinks where evaluation or answering does not fit.

    Attributes:
        plan: with the settings of now.
        emit: where events go.
    """

    plan: Plan
    emit: Emit

    def shrink(self, part: str, step: int, error: BaseException, at_once: int = 0) -> None:
        """Take the next smaller setting for a part, and tell of it.

        Raises:
            ShortageError: nothing smaller is left.
        """
        found, problem = smaller(self.plan, part, at_once), shortage.one_line(error)
        if found is None:
            way = "eval_fraction: 0, or " if part == EVAL else ""
            raise ShortageError(
                f"{_WHAT[part]} after step {step} does not fit in memory even in its smallest parts ({problem}).",
                f"Write {way}{advice(self.plan).removeprefix('Write ')}",
                step=step,
            )
        self.emit(
            "oom_retry",
            step=step,
            part=part,
            micro_batch_size_before=self.plan.settings.micro_batch_size,
            micro_batch_size=found.settings.micro_batch_size,
            settings=given(found),
            message=f"out of memory in {_WHAT[part]} after step {step}: {change(self.plan, found)}.",
            fix="Nothing is lost; it is done again in smaller parts.",
            error=problem,
        )
        self.plan = found


def guard(trainer: Any, room: Room) -> None:
    """Let a trainer evaluate and answer in smaller parts where the whole does not fit."""
    trainer.evaluate = _evaluating(trainer, room, trainer.evaluate)
    if hasattr(trainer, _SAMPLE):
        setattr(trainer, _SAMPLE, _generating(trainer, room, getattr(trainer, _SAMPLE)))
    elif hasattr(trainer, "answers"):  # our own on-policy trainers
        plain = trainer.answers

        def answers(prompts: Sequence[Any], temperature: float) -> list[Any]:
            return in_parts(
                room, lambda part: plain(prompts[part], temperature), len(prompts), _step(trainer)
            )

        trainer.answers = answers


def _step(trainer: Any) -> int:
    return int(trainer.state.global_step)


def _evaluating(trainer: Any, room: Room, plain: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        while True:
            trainer.args.per_device_eval_batch_size = eval_batch_size(room.plan)
            kept, chance = Attributes.of(trainer), RandomState.now()
            try:
                return plain(*args, **kwargs)
            except Exception as error:
                if isinstance(error, ShortageError) or not shortage.is_shortage(error):
                    raise
                short = error
            shortage.forget(short)
            kept.put_back()
            chance.put_back()
            room.shrink(EVAL, _step(trainer), short)

    return evaluate


def _generating(trainer: Any, room: Room, plain: Callable[..., Any]) -> Callable[..., Any]:
    def generate(prompt_ids: list[Any], *args: Any, **kwargs: Any) -> Any:
        pairs = False

        def ask(part: slice) -> list[Any]:
            nonlocal pairs
            found = plain(prompt_ids[part], *args, **kwargs)
            pairs = isinstance(found, tuple)
            return list(found[0] if pairs else found)

        found = in_parts(room, ask, len(prompt_ids), _step(trainer))
        return (found, None) if pairs else found

    return plain if getattr(trainer, "use_vllm", False) else generate


def in_parts(room: Room, ask: Callable[[slice], list[Any]], count: int, step: int) -> list[Any]:
    """Return the answers to ``count`` prompts, asked for in parts that fit."""
    while True:
        size, chance = room.plan.settings.generation_batch_size or count, RandomState.now()
        try:
            return [answer for start in range(0, count, size) for answer in ask(slice(start, start + size))]
        except Exception as error:
            if not shortage.is_shortage(error):
                raise
            short = error
        shortage.forget(short)
        chance.put_back()
        room.shrink(GENERATE, step, short, min(size, count))


def rescued(trainer: Any, watch: Watch, error: Exception) -> ShortageError:
    """Save the last completed step, where memory ran out after it, and return what to tell.

    A shortage inside the optimizer may leave weights half moved: then nothing is saved, and training goes on from
    the last checkpoint.
    """
    step, line, known = _step(trainer), shortage.one_line(error), isinstance(error, ShortageError)
    shortage.forget(error)
    trainer.model.zero_grad(set_to_none=True)
    shortage.free()
    folder = watch.job.folder.checkpoints / f"checkpoint-{step}"
    if step and watch.now.random is not None and not watch.now.in_optimizer and not folder.exists():
        watch.now.random.put_back()
        trainer._save_checkpoint(trainer.model, None)  # noqa: SLF001  the one way to a checkpoint it can resume
        watch.on_save(trainer.args, trainer.state, trainer.control)
    if known:
        return error  # type: ignore[return-value]  # as ``known`` says
    return ShortageError(line, part=TRAIN, step=step)
