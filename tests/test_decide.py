import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import A100, GIB, LLAMA_8B, T4, situation

from ft_magic.axes import METHODS, UPDATES
from ft_magic.errors import SpecError
from ft_magic.planning import decide, padding, plans
from ft_magic.planning.plans import Lengths, Plan
from ft_magic.spec import parse

LEAST = {"model": "demo", "data": "rows.json"}


def plan(more=None, **where):
    return decide.make(parse(LEAST | (more or {})), situation(**where))


def test_every_setting_that_was_decided_has_a_reason():
    made = plan()
    unexplained = (
        set(made.settings.__dataclass_fields__)
        - set(made.reasons)
        - {"device", "weight_bytes", "padding_free"}
    )
    shortage = {"generation_batch_size"}  # decided by what happens, not by the plan
    assert unexplained == shortage | {"max_completion_length", "num_generations", "temperature", "iterations"}
    answering = plan({"method": "grpo", "rewards": ["length"]})
    assert set(answering.reasons) >= unexplained - shortage - {"iterations"}


def test_what_was_asked_is_what_is_planned():
    made = plan({"learning_rate": 3e-4, "max_steps": 17, "batch_size": 6, "max_length": 64, "optim": "sgd"})
    settings = made.settings
    assert (settings.learning_rate, settings.total_steps, settings.batch_size) == (3e-4, 17, 6)
    assert (settings.max_length, settings.optim) == (64, "sgd")


@given(batch=st.integers(1, 64), rows=st.integers(1, 3000), tokens=st.integers(8, 1000))
def test_micro_batches_always_multiply_to_the_batch(batch, rows, tokens):
    settings = plan({"batch_size": batch}, rows=rows, tokens=tokens).settings
    assert settings.micro_batch_size * settings.accumulation_steps == settings.batch_size == batch
    assert settings.max_length >= min(tokens, 1024)


def test_a_t4_gets_fp16_and_an_a100_bf16():
    assert plan(gpus=[T4]).settings.precision == "fp16"
    assert plan(gpus=[A100]).settings.precision == "bf16"
    assert plan().settings.precision == "fp32"


def test_a_large_model_on_a_t4_is_recomputed_and_split_until_it_fits():
    made = plan({"update": "qlora", "batch_size": 16}, facts=LLAMA_8B, gpus=[T4], tokens=1000)
    assert made.settings.gradient_checkpointing
    assert made.settings.micro_batch_size < 16
    assert made.memory.total_bytes < 15 * GIB
    assert made.settings.optim == "paged_adamw_8bit"


def test_a_model_that_cannot_fit_is_warned_about_with_figures():
    made = plan({"update": "full"}, facts=LLAMA_8B, gpus=[T4])
    assert any("GiB needed" in warning.message for warning in made.warnings)


def test_full_updates_get_a_lower_learning_rate_than_adapters():
    assert plan({"update": "full"}).settings.learning_rate < plan().settings.learning_rate / 5


def test_a_qlora_plan_holds_a_quarter_of_the_weights():
    facts = {"facts": LLAMA_8B, "gpus": [A100]}
    quantized = plan({"update": "qlora"}, **facts).memory.parts["weights"]
    plain = plan({"update": "lora"}, **facts).memory.parts["weights"]
    # 7.0 of 8.0 billion weights at 4.127 bits, 1.05 billion at 16.
    assert quantized == pytest.approx(6.979e9 * 4.127 / 8 + 2 * 1.0507e9, rel=0.01)
    assert plain == pytest.approx(2 * 8.03e9, rel=0.01)


@pytest.mark.parametrize(
    ("more", "where", "said"),
    [
        ({}, {"rows": 40}, "only 40 rows"),
        ({"learning_rate": 0.01}, {}, "learning rate 0.01 is high"),
        ({"learning_rate": 1e-8}, {}, "learning rate 1e-08 is low"),
        ({"num_train_epochs": 12}, {}, "passes over the data"),
        ({"max_length": 32}, {}, "longer than 32 tokens"),
        ({"update": "qlora"}, {}, "slow without a GPU"),
        ({}, {"heldout": 0}, "no rows are held out"),
    ],
)
def test_what_a_reader_can_act_on_is_warned_about_once(more, where, said):
    found = [warning for warning in plan(more, **where).warnings if said in warning.message]
    assert len(found) == 1
    assert found[0].fix


@pytest.mark.parametrize("update", sorted(UPDATES))
def test_the_rate_a_warning_names_as_highest_is_not_warned_about(update):
    found = plan({"update": update, "learning_rate": 1.0}).warnings
    (advice,) = [warning for warning in found if "is high" in warning.message]
    highest = float(advice.fix.removeprefix("Stay below ").removesuffix("."))
    again = plan({"update": update, "learning_rate": highest}).warnings
    assert not [warning for warning in again if "is high" in warning.message]


def test_a_sound_plan_warns_of_nothing():
    assert plan().warnings == ()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"beta": 0.1}, "beta has no meaning for method 'sft'"),
        ({"update": "full", "lora_r": 8}, "lora_r has no meaning for update 'full'"),
        ({"batch_size": 8, "micro_batch_size": 3}, "does not fit a batch of 8"),
        ({"max_length": 9000}, "8192 positions"),
        ({"packing": True}, "FlashAttention"),
        ({"backend": "unsloth", "update": "qlora"}, "CUDA kernels"),
        ({"backend": "unsloth", "method": "dpo"}, "supervised text"),
    ],
)
def test_a_combination_that_cannot_run_is_refused_with_a_way_on(more, said):
    with pytest.raises(SpecError) as error:
        plan(more)
    assert said in error.value.problem
    assert error.value.instead


def test_a_plan_survives_its_file():
    made = plan({"method": "dpo", "beta": 0.2, "target_modules": ["q_proj"]})
    again = Plan.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made


def test_unsloth_is_chosen_where_it_is_installed_and_runs_the_cell():
    assert plan(gpus=[A100], unsloth=True).settings.backend == "unsloth"
    assert plan(unsloth=True).settings.backend == "trl"


def test_every_method_and_every_update_works_somewhere_and_each_refusal_says_why():
    works = {(cell.method, cell.update) for cell in plans.grid() if not cell.reason}
    assert {method for method, _ in works} == set(METHODS)
    assert {update for _, update in works} == set(UPDATES)
    for cell in plans.grid():
        if (cell.method, cell.update) in works or cell.backend == "unsloth":
            continue
        needs = {key.split("|")[0]: "demo" for key in METHODS[cell.method].needs}
        with pytest.raises(SpecError) as error:
            plan({"method": cell.method, "update": cell.update, **needs})
        assert cell.reason in error.value.problem
        assert "Choose another update" in error.value.instead


def test_what_a_method_needs_is_asked_for_with_a_way_on():
    with pytest.raises(SpecError, match="method 'grpo' needs rewards, and none is given") as error:
        plan({"method": "grpo"})
    assert "exact_answer" in error.value.instead
    with pytest.raises(SpecError, match="'online_dpo' needs rewards or judge"):
        plan({"method": "online_dpo"})
    with pytest.raises(SpecError, match="needs teacher"):
        plan({"method": "distill"})


def test_a_wrong_loss_is_answered_with_the_nearest():
    with pytest.raises(
        SpecError, match=r"loss_type 'sigmod' is no loss of method 'dpo'. Did you mean 'sigmoid'"
    ):
        plan({"method": "dpo", "loss_type": "sigmod"})


def test_answers_of_a_group_are_counted_in_micro_batches():
    made = plan({"method": "grpo", "rewards": ["length"], "batch_size": 4, "num_generations": 6}).settings
    assert made.micro_batch_size * made.accumulation_steps == 4 * 6
    assert made.max_completion_length > 0
    assert made.temperature == 1.0


def test_prompts_and_answers_share_the_models_positions():
    with pytest.raises(SpecError, match="leaves no room for a prompt"):
        plan({"method": "grpo", "rewards": ["length"], "max_completion_length": 8190}, tokens=100)


def test_kto_never_gets_single_rows():
    assert plan({"method": "kto"}).settings.micro_batch_size >= 2
    with pytest.raises(SpecError, match="batch_size 1 is too small"):
        plan({"method": "kto", "batch_size": 1})


def test_a_rate_of_another_update_is_a_multiple_of_loras():
    lora, ia3 = (plan({"update": update}).settings.learning_rate for update in ("lora", "ia3"))
    assert ia3 == pytest.approx(lora * UPDATES["ia3"].rate_factor)


def test_the_longest_of_some_rows_is_found_by_drawing_them_all():
    lengths, size = (3, 5, 8, 9), 3
    draws = list(itertools.product(lengths, repeat=size))
    assert padding.expected_longest_tokens(lengths, size) == pytest.approx(sum(map(max, draws)) / len(draws))


def test_uneven_rows_get_small_micro_batches_on_a_cpu_and_even_ones_large():
    uneven = replace(situation(), lengths=Lengths(tokens=(60, 900) * 200, trained=(50, 800) * 200))
    assert decide.make(parse(LEAST), uneven).settings.micro_batch_size == 1
    assert plan(tokens=100).settings.micro_batch_size == 8
    on_gpu = replace(uneven, hardware=replace(uneven.hardware, gpus=(A100,)))
    assert decide.make(parse(LEAST), on_gpu).settings.micro_batch_size == 8
