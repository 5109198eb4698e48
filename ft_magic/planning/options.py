"""Do the keys of a spec belong to its method and update, and are all there that they need?"""

from __future__ import annotations

from collections.abc import Mapping

from ft_magic.axes import METHODS, UPDATES, Method, Update
from ft_magic.axes.pipelines import PIPELINES
from ft_magic.errors import SpecError, nearest
from ft_magic.spec import Spec

# What to write where a method needs something to judge or to learn from.
_NEEDED = {
    "rewards": "Write rewards: $function (see %%reward_fn), a built-in such as exact_answer, or $reward_run.",
    "rewards|judge": "Write rewards: $function or a built-in, or judge: with a model that compares two answers.",
    "teacher": "Write teacher: with a hub id, a folder or a run; its vocabulary must be the model's.",
}


def check_options(spec: Spec, method: Method, update: Update) -> None:
    """Refuse keys that the method or the update would silently ignore.

    Raises:
        SpecError: says which key, and what to write instead.
    """
    given = _given(spec)
    _check_axis(given, "method", method, METHODS)
    _check_axis(given, "update", update, UPDATES)
    if spec.stages:
        raise SpecError(
            f"stages has no meaning for method '{method.name}', which has one stage.",
            f"Leave stages out, or use a pipeline: {', '.join(PIPELINES)}.",
        )
    if spec.loss_type is not None and spec.loss_type not in method.losses:
        raise SpecError(
            f"loss_type '{spec.loss_type}' is no loss of method '{method.name}'."
            f"{nearest(spec.loss_type, method.losses)}",
            f"Choose one of: {', '.join(method.losses)}.",
        )


def check_needs(spec: Spec, method: Method) -> None:
    """Ask for the keys a method cannot do without.

    Raises:
        SpecError: says which, and what to write.
    """
    for need in method.needs:
        if not _given(spec) & set(need.split("|")):
            wanted = need.replace("|", " or ")
            raise SpecError(f"method '{method.name}' needs {wanted}, and none is given.", _NEEDED[need])


def _given(spec: Spec) -> set[str]:
    return {key for key in spec.model_fields_set if getattr(spec, key) is not None}


def _check_axis(
    given: set[str], axis: str, row: Method | Update, table: Mapping[str, Method | Update]
) -> None:
    for option in sorted(
        given & {key for other in table.values() for key in other.options} - set(row.options)
    ):
        users = [other.name for other in table.values() if option in other.options]
        raise SpecError(
            f"{option} has no meaning for {axis} '{row.name}'.",
            f"Leave {option} out, or use one that reads it: {', '.join(users)}.",
        )
