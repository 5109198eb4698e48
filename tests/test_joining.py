"""Rows without padding on a GPU: proposed where it pays and is sound, refused with its reason elsewhere."""

import json
from dataclasses import replace

import pytest
from cells import make, train
from situations import A100, T4, situation

from ft_magic.backends.arguments import training_arguments
from ft_magic.errors import SpecError
from ft_magic.planning import decide
from ft_magic.planning.joining import padding_share
from ft_magic.planning.plans import Lengths, Settings
from ft_magic.spec import parse

LEAST = {"model": "demo", "data": "rows.json"}
UNEVEN = Lengths(tokens=(60, 900) * 200, trained=(50, 800) * 200)
EVEN = Lengths(tokens=(100,) * 400, trained=(50,) * 400)


def plan(more=None, *, gpu=A100, flash=True, lengths=UNEVEN):
    where = replace(situation(gpus=[gpu] if gpu else []), lengths=lengths, flash_attention_installed=flash)
    return decide.make(parse(LEAST | (more or {})), where)


def test_padding_is_what_the_longest_row_leaves_empty():
    # Two rows of 1 and 3 tokens, two at a time: a pair of 1s, two mixed pairs, a pair of 3s -> longest 2.5 on average.
    assert padding_share((1, 3), 2) == pytest.approx(1 - 2 / 2.5)
    assert padding_share((5, 5, 5), 8) == 0


def test_uneven_rows_go_without_padding_where_flash_attention_keeps_them_apart():
    made = plan()
    assert made.settings.padding_free
    # 60 and 900 alike often, eight at a time: the longest is nearly always 900, the mean 480.
    assert "46% of a micro-batch would be padding" in made.reasons["padding_free"]
    assert made.settings.attention == "flash_attention_2"
    found = training_arguments(made)
    assert (found["padding_free"], found["max_length"]) == (True, None)
    assert training_arguments(made)["packing"] is False


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"flash": False}, "FlashAttention is not installed (pip install flash-attn)"),
        ({"gpu": T4}, "compute capability 8.0"),
        ({"more": {"precision": "fp32"}}, "precision is fp32"),
        ({"more": {"update": "prompt"}}, "learned tokens in front"),
        ({"lengths": EVEN}, "not worth it"),
    ],
)
def test_elsewhere_the_plan_says_why_not(change, why):
    made = plan(**change)
    assert not made.settings.padding_free
    assert why in made.reasons["padding_free"]
    assert made.settings.attention == "sdpa"
    assert "padding_free" not in training_arguments(made)


def test_methods_that_train_pairs_are_not_joined():
    made = plan({"method": "dpo"})
    assert not made.settings.padding_free
    assert not made.settings.packing


@pytest.mark.parametrize(
    ("change", "why"),
    [({"flash": False}, "not installed"), ({"gpu": T4}, "8.0"), ({"gpu": None}, "CPUs do not have")],
)
def test_packing_that_would_let_rows_see_each_other_is_refused(change, why):
    with pytest.raises(SpecError, match=why):
        plan({"packing": True}, **change)


def test_a_packed_step_still_holds_about_the_examples_of_a_step():
    short = plan({"packing": True, "batch_size": 16}, lengths=EVEN).settings
    # 16 rows of 100 tokens fill one sequence of 1,600; steps count examples as they did.
    assert (short.max_length, short.micro_batch_size * short.accumulation_steps) == (1600, 1)
    assert short.total_steps == plan({"batch_size": 16}, lengths=EVEN).settings.total_steps
    long = plan({"packing": True, "batch_size": 64}, lengths=EVEN).settings
    # 6,400 tokens in sequences of 2,048: three of them.
    assert (long.max_length, long.micro_batch_size * long.accumulation_steps) == (2048, 3)
    asked = plan({"packing": True, "batch_size": 64, "max_length": 800}, lengths=EVEN).settings
    assert (asked.max_length, asked.micro_batch_size * asked.accumulation_steps) == (800, 8)


def test_packing_shows_its_reason():
    assert "changes which examples share a step" in plan().reasons["packing"]
    assert "CPUs do not have" in plan(gpu=None).reasons["packing"]
    assert plan({"packing": True}).reasons["packing"] == "asked for"


def test_a_micro_batch_without_padding_teaches_the_same(tiny, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="training libraries are not installed")
    # FlashAttention needs a GPU; with sdpa transformers keeps a Llama's rows apart by their positions.
    monkeypatch.setattr(Settings, "attention", property(lambda _: "sdpa"))
    found = {}
    for free in (False, True):
        cell = make(
            tmp_path / str(free), tiny, "sft", "lora", micro_batch_size=4, max_length=200, learning_rate=1e-2
        )
        rows = [{"prompt": "Count.", "completion": "one two " * (1 + 5 * place % 13)} for place in range(20)]
        cell.folder.train_rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
        plan = replace(cell.plan, settings=replace(cell.plan.settings, padding_free=free))
        done = train(replace(cell, plan=plan))
        found[free] = [event["loss"] for kind in ("step", "eval") for event in done.events(kind)]
    assert found[True] == pytest.approx(found[False], rel=1e-5)
    assert len(found[True]) == 3
