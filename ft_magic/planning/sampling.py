"""How a model answers while it trains: how many answers, how long, how varied."""

from __future__ import annotations

from ft_magic.axes import Method
from ft_magic.errors import SpecError
from ft_magic.planning.fit import Choice
from ft_magic.planning.plans import Situation
from ft_magic.spec import Spec

# TRL's default is 512 tokens and 8 answers a prompt; on a CPU every answered token costs a pass over the model.
_LONGEST_ANSWER_TOKENS = {"cpu": 128, "cuda": 512}
_ANSWERS = {"cpu": 4, "cuda": 8}
_ITERATIONS = 3  # SPIN paper, section 6: gains flatten after iterations 0 to 3


def sampling(
    spec: Spec, method: Method, situation: Situation, device: str, positions: int
) -> dict[str, Choice[object]]:
    """Decide how answers are sampled; everything is 0 for methods that only read.

    Args:
        spec: what was asked.
        method: row of the method axis.
        situation: model, data and machine.
        device: ``cpu`` or ``cuda``.
        positions: tokens the model can read at most.

    Raises:
        SpecError: prompts and answers together do not fit into the model.
    """
    if not method.generates:
        return {}
    return {
        "max_completion_length": _longest_answer(spec, situation, device, positions),
        "num_generations": _answers(spec, method, device),
        "temperature": Choice(spec.temperature, "asked for")
        if spec.temperature is not None
        else Choice(1.0, "the model's own spread (TRL's default)"),
        "iterations": _iterations(spec, method),
    }


def _longest_answer(spec: Spec, situation: Situation, device: str, positions: int) -> Choice[int]:
    shortest = min(situation.lengths.tokens, default=1)
    if spec.max_completion_length is not None:
        if shortest + spec.max_completion_length > positions:
            raise SpecError(
                f"max_completion_length {spec.max_completion_length} leaves no room for a prompt: this model "
                f"reads {positions} tokens, the shortest prompt has {shortest}.",
                f"Write max_completion_length: {max(1, positions - shortest)} or less.",
            )
        return Choice(spec.max_completion_length, "asked for")
    room = positions - max(situation.lengths.tokens, default=0)
    most = _LONGEST_ANSWER_TOKENS[device]
    if 0 < room < most:
        return Choice(room, f"what the longest prompt leaves of {positions} tokens")
    return Choice(most, "enough for a short answer; each token costs a pass over the model")


def _answers(spec: Spec, method: Method, device: str) -> Choice[int]:
    if "num_generations" not in method.options:
        return Choice(0, "")
    if spec.num_generations is not None:
        return Choice(spec.num_generations, "asked for")
    return Choice(_ANSWERS[device], "answers a prompt that are compared (TRL's default is 8)")


def _iterations(spec: Spec, method: Method) -> Choice[int]:
    if "iterations" not in method.options:
        return Choice(0, "")
    if spec.iterations is not None:
        return Choice(spec.iterations, "asked for")
    return Choice(_ITERATIONS, "rounds of self-play; the paper's gains come from the first ones")
