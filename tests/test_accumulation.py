"""How a batch is split into forward passes changes nothing: the same losses, gradients and weights for every method."""

import pytest
from cells import make, train
from tiny_llama import make_model

from ft_magic.axes import METHODS

torch = pytest.importorskip("torch", reason="training libraries are not installed")

# Plain gradient descent moves a weight by its gradient; Adam would divide a rounding error in a gradient near zero by
# itself, and hide a gradient that is too large by a factor. Measured: weights move by 4e-2 to 6e-2 and differ by less
# than 3e-7, the norms of gradients by less than 2e-6 of themselves.
DESCENT = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant"}
BATCH_EXAMPLES = 4
STEPS = 2
SAME = 5e-6
MOVED = 1e-2


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("teacher") / "teacher", seed=1)


@pytest.mark.parametrize("method", METHODS)
def test_one_forward_pass_and_the_smallest_ones_take_the_same_steps(tiny, teacher, tmp_path, method):
    # Methods that compare several answers to a prompt split answers, the others examples.
    answers = 2 if "num_generations" in METHODS[method].options else 1
    whole_size, least = BATCH_EXAMPLES * answers, METHODS[method].least_micro_batch
    whole = _trained(tmp_path / "whole", tiny, method, teacher, whole_size)
    parts = _trained(tmp_path / "parts", tiny, method, teacher, least)
    assert whole.plan.settings.accumulation_steps == 1
    assert parts.plan.settings.accumulation_steps == whole_size // least

    steps, in_parts = whole.events("step"), parts.events("step")
    assert len(steps) == len(in_parts) == STEPS
    for one, other in zip(steps, in_parts, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4, abs=1e-6)  # GRPO's and RLOO's are zero
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)

    weights, weights_of_parts = whole.weights(), parts.weights()
    assert weights.keys() == weights_of_parts.keys()
    for name, weight in weights.items():
        assert torch.allclose(weight, weights_of_parts[name], rtol=0, atol=SAME), name
    assert _moved(weights) > MOVED


def _trained(folder, model, method, teacher, micro_batch_size):
    cell = make(
        folder, model, method, "lora", teacher, micro_batch_size=micro_batch_size, max_steps=STEPS,
        batch_size=BATCH_EXAMPLES, eval_steps=STEPS, save_steps=STEPS, **DESCENT,
    )  # fmt: skip
    found = train(cell)
    assert found.outcome.status == "finished"
    return found


def _moved(weights):
    """Return the largest entry of LoRA's second matrices, which start as zeros."""
    return max(float(weight.abs().max()) for name, weight in weights.items() if "lora_B" in name)
