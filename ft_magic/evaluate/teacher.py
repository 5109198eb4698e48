"""How far a student is from its teacher, on the teacher's own answers. Runs in the warm process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ft_magic.backends.answering import answer_ids
from ft_magic.evaluate.figures import Figure
from ft_magic.evaluate.losses import answer_logits, labelled

if TYPE_CHECKING:
    from ft_magic.evaluate.generate import Loaded
    from ft_magic.evaluate.heldout import Task


def distance(task: Task) -> list[Figure]:
    """Return the mean KL(teacher || student) a token on the teacher's likeliest answers, before and after.

    The teacher is loaded beside the student and freed at the end.
    """
    from ft_magic.backends.base_model import load_teacher

    model = load_teacher(task.plan)
    task.progress("the teacher answers", 0, 0)
    prompts = [row["prompt_ids"] for row in task.fed]
    answers = answer_ids(model, task.light, prompts, max_new_tokens=task.max_new_tokens)
    shown = [labelled(prompt, ids) for prompt, ids in zip(prompts, answers, strict=True)]

    def measure(loaded: Loaded, when: str) -> float:
        total, tokens = 0.0, 0
        for done, row in enumerate(shown):
            task.progress(f"distance to the teacher, {when} training", done, len(shown))
            found = _kl(model, loaded.model, row)
            total, tokens = total + float(found.sum()), tokens + len(found)
        return total / max(1, tokens)

    return [Figure("KL to the teacher (nats a token)", *task.both(measure))]


def _kl(teacher: Any, student: Any, row: dict[str, list[int]]) -> Any:
    """Return KL(teacher || student) at each answer token: (tokens,), in nats."""
    import torch

    ids = torch.tensor([row["input_ids"]])
    keep = torch.tensor([row["labels"][1:]]) >= 0
    with torch.no_grad():
        p, q = (
            torch.log_softmax(answer_logits(model, ids, torch.ones_like(ids), keep).double(), -1)
            for model in (teacher, student)
        )
    return (p.exp() * (p - q)).sum(-1)
