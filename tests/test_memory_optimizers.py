"""What optimizers hold, against the states real ones make on a CPU, and against the names transformers knows."""

from __future__ import annotations

import pytest

import ft_magic as ft
from ft_magic.errors import SpecError
from ft_magic.memory.optimizers import OPTIMIZERS, state_bytes, step_bytes

torch = pytest.importorskip("torch")

SHAPES = [(96, 64), (64, 300), (500, 1), (300, 500)]
TENSORS = [(rows, columns, 1) for rows, columns in SHAPES]
VALUES = sum(rows * columns for rows, columns in SHAPES)
SEVEN = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "intermediate_size": 11008, "vocab_size": 32000,
}  # fmt: skip
SEVEN_WEIGHTS = 6_738_415_616


def made(dtype):
    parameters = [
        torch.nn.Parameter(
            torch.ones(rows, columns, dtype=dtype) if columns > 1 else torch.ones(rows, dtype=dtype)
        )
        for rows, columns in SHAPES
    ]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.01)
    return parameters


def held(optimizer):
    """Return the bytes of all states of a real optimizer, but for its counters of steps."""
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in states if isinstance(value, torch.Tensor) and value.numel() > 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("adamw_torch", "AdamW", {}),
        ("sgd", "SGD", {"lr": 0.1}),
        ("sgd_momentum", "SGD", {"lr": 0.1, "momentum": 0.9}),
        ("adagrad", "Adagrad", {}),
        ("rmsprop", "RMSprop", {}),
    ],
)
def test_torch_optimizers_hold_what_they_are_said_to(name, kind, options, dtype):
    real = held(getattr(torch.optim, kind)(made(dtype), **options))
    assert state_bytes(OPTIMIZERS[name], TENSORS, dtype.itemsize) == real


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adafactor_holds_a_row_and_a_column_of_a_matrix(dtype):
    optimization = pytest.importorskip("transformers.optimization")
    real = held(optimization.Adafactor(made(dtype), lr=1e-3, scale_parameter=False, relative_step=False))
    assert state_bytes(OPTIMIZERS["adafactor"], TENSORS, dtype.itemsize) == real
    # 4 bytes of rows and columns each, and a vector whole.
    assert real == 4 * (96 + 64 + 64 + 300 + 500 + 300 + 500)


@pytest.mark.parametrize(
    ("name", "kind", "eight"),
    [
        ("adamw_bnb_8bit", "AdamW", True),
        ("lion_8bit", "Lion", True),
        ("lion_32bit", "Lion", False),
        ("rmsprop_bnb_32bit", "RMSprop", False),
    ],
)
def test_bitsandbytes_optimizers_hold_what_they_are_said_to(name, kind, eight):
    bnb = pytest.importorskip("bitsandbytes")
    optimizer = getattr(bnb.optim, kind)(made(torch.float32), lr=1e-3, optim_bits=8 if eight else 32)
    try:
        optimizer.step()
    except (NotImplementedError, RuntimeError, ValueError) as refusal:
        pytest.skip(f"this bitsandbytes has no such step on a CPU: {refusal}")
    names = ("state1", "state2", "absmax1", "absmax2")
    real = sum(
        value.nbytes
        for state in optimizer.state.values()
        for key, value in state.items()
        if key in names and value.numel() > 0
    )
    # 500 values are fewer than 4,096: fp32.
    assert state_bytes(OPTIMIZERS[name], TENSORS, 4) == pytest.approx(real, rel=0.002)


def test_every_optimizer_of_the_installed_transformers_has_a_row():
    arguments = pytest.importorskip("transformers.training_args")
    assert {name.value for name in arguments.OptimizerNames} <= set(OPTIMIZERS)


def test_paged_states_of_small_tensors_stay_on_the_card():
    row = OPTIMIZERS["paged_adamw_32bit"]
    assert state_bytes(row, [(300, 300, 2), (400, 400, 3)], 4) == 2 * 300 * 300 * 8


def test_projected_gradients_have_states_of_their_rank():
    # 128 of 4096: two moments of 11008 x 128, and a projection of 128 x 4096, all in 16 bit.
    found = state_bytes(OPTIMIZERS["galore_adamw"], [(11008, 4096, 1)], 2)
    assert found == 2 * 2 * 11008 * 128 + 2 * 128 * 4096
    assert state_bytes(OPTIMIZERS["galore_adamw"], [(4096, 1, 1)], 2) == 2 * 2 * 4096


def test_adafactor_needs_its_update_for_a_moment():
    # Of 16-bit weights: gradient, weight, update and its square in fp32, of the largest tensor alone.
    assert step_bytes(OPTIMIZERS["adafactor"], TENSORS, 2) == 16 * 300 * 500
    assert step_bytes(OPTIMIZERS["adafactor"], TENSORS, 4) == 8 * 300 * 500


@pytest.mark.parametrize(
    ("name", "a_weight"),
    [
        ("adamw_torch_fused", 4),
        ("sgd", 0),
        ("lion_32bit", 4),
        ("lion_8bit", 1 + 4 / 256),
        ("ademamix_8bit", 3 * (1 + 4 / 256)),
    ],
)
def test_full_fine_tuning_counts_the_states_of_its_optimizer(name, a_weight):
    found = ft.estimate_memory(SEVEN, update="full", precision="pure", optim=name)
    assert found.parts["optimizer"] == pytest.approx(a_weight * SEVEN_WEIGHTS, rel=0.001)


def test_optimizers_that_step_in_the_backward_pass_hold_one_gradient():
    kept = ft.estimate_memory(SEVEN, update="full", precision="pure", optim="sgd").parts["gradients"]
    gone = ft.estimate_memory(SEVEN, update="full", precision="pure", optim="lomo", accumulation=False).parts[
        "gradients"
    ]
    assert kept == 2 * SEVEN_WEIGHTS
    assert gone < kept / 20


def test_an_optimizer_nobody_knows_is_refused_with_the_nearest():
    with pytest.raises(SpecError, match="adafactor"):
        ft.estimate_memory(SEVEN, optim="adafactr")
