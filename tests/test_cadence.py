"""When a run saves and evaluates, and how much at once."""

from dataclasses import replace

import pytest
from situations import A100, LLAMA_8B, T4, situation

from ft_magic.errors import SpecError
from ft_magic.planning import decide
from ft_magic.planning.cadence import eval_bytes
from ft_magic.planning.plans import Lengths
from ft_magic.spec import parse

LEAST = {"model": "demo", "data": "rows.json"}


def plan(more=None, **where):
    return decide.make(parse(LEAST | (more or {})), situation(**where))


def pace(**more):
    from ft_magic.backends.pace import Pace

    return Pace(**({"started_t": 0.0, "last_saved_t": 0.0} | more))


def test_ten_minutes_are_the_most_that_is_lost_unless_steps_or_minutes_are_asked_for():
    made = plan()
    assert made.settings.save_every == 10
    assert "at most 10 minutes are lost" in made.reasons["save_every"]
    assert plan({"save_every": 3}).settings.save_every == 3
    assert plan({"save_steps": 7}).settings.save_every == 0
    both = plan({"save_steps": 7, "save_every": 3}).settings
    assert (both.save_steps, both.save_every) == (7, 3)


def test_a_checkpoint_is_due_by_the_clock_between_two_of_the_steps():
    made = plan({"max_steps": 1000})
    assert pace(step_ended_t=601.0).saves(made, 50, due=False)
    assert not pace(step_ended_t=599.0).saves(made, 50, due=False)
    assert not pace(step_ended_t=6000.0).saves(plan({"save_steps": 200}), 50, due=False)


def test_checkpoints_take_no_more_than_a_twentieth_of_the_time():
    made = plan({"max_steps": 1000})
    dear = {"save_s": 60.0, "saving_s": 60.0}
    # A second one would make 120 s of 1,000; of 2,400 it is just a twentieth.
    assert not pace(step_ended_t=1000.0, last_saved_t=900.0, **dear).saves(made, 200, due=True)
    assert pace(step_ended_t=2400.0, last_saved_t=2300.0, **dear).saves(made, 200, due=True)
    # By the clock one is due every 20 minutes then, as a save of a minute is a twentieth of that.
    assert not pace(step_ended_t=1500.0, last_saved_t=400.0, **dear).saves(made, 201, due=False)
    assert pace(step_ended_t=1700.0, last_saved_t=400.0, **dear).saves(made, 201, due=False)


@pytest.mark.parametrize("more", [{"save_steps": 200}, {"save_every": 5}, {"trainer": {"save_steps": 200}}])
def test_what_was_asked_for_is_never_put_off(more):
    made = plan({"max_steps": 1000} | more)
    late = pace(step_ended_t=1000.0, last_saved_t=900.0, save_s=60.0, saving_s=600.0)
    assert late.saves(made, 200, due=True)


def test_the_first_and_the_last_checkpoint_are_always_written():
    made = plan({"max_steps": 1000})
    assert pace(step_ended_t=1.0).saves(made, 200, due=True)
    assert pace(step_ended_t=1.0, save_s=60.0, saving_s=600.0).saves(made, 1000, due=True)


def test_even_rows_are_evaluated_together_and_uneven_ones_alone_on_a_cpu():
    made = plan(heldout=64)
    assert made.settings.eval_batch_size > made.settings.micro_batch_size
    assert "no activations" in made.reasons["eval_batch_size"] or "fits" in made.reasons["eval_batch_size"]
    uneven = replace(situation(heldout=64), lengths=Lengths((60, 900) * 200, (50, 800) * 200))
    alone = decide.make(parse(LEAST), uneven)
    assert alone.settings.eval_batch_size == 1
    assert "padding" in alone.reasons["eval_batch_size"]
    on_gpu = decide.make(parse(LEAST), replace(uneven, hardware=replace(uneven.hardware, gpus=(A100,))))
    assert on_gpu.settings.eval_batch_size > 1


def test_logits_bound_what_is_evaluated_at_once():
    # 128,256 tokens of vocabulary x 2,048 positions x 4 bytes: a GiB a sequence in fp32, and DPO holds two an example.
    few = plan({"method": "dpo", "update": "qlora"}, facts=LLAMA_8B, gpus=[T4], tokens=2000, heldout=64)
    many = plan({"method": "sft", "update": "qlora"}, facts=LLAMA_8B, gpus=[T4], tokens=2000, heldout=64)
    assert few.settings.eval_batch_size < many.settings.eval_batch_size
    assert few.settings.eval_batch_size <= 2
    assert "logits counted" in few.reasons["eval_batch_size"]


def test_evaluating_more_at_once_takes_more_memory_and_no_more_than_training():
    from ft_magic.axes import find_update
    from ft_magic.memory import Workload, estimate

    found = situation()
    work = Workload(update=find_update("lora"), micro_batch_examples=8, length_tokens=104)
    memory = estimate(found.facts, work)
    sizes = [eval_bytes(found, work, memory, size) for size in (1, 2, 4, 8)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < memory.total_bytes


def test_the_size_can_be_asked_for_and_nonsense_is_refused():
    made = plan({"trainer": {"per_device_eval_batch_size": 3}})
    assert (made.settings.eval_batch_size, made.reasons["eval_batch_size"]) == (3, "asked for")
    with pytest.raises(SpecError, match="per_device_eval_batch_size 0 is no number of rows"):
        plan({"trainer": {"per_device_eval_batch_size": 0}})


def test_groups_of_answers_stay_whole():
    made = plan(
        {
            "method": "grpo",
            "rewards": ["length"],
            "num_generations": 6,
            "micro_batch_size": 4,
            "batch_size": 2,
        }
    )
    assert made.settings.eval_batch_size == 6


def test_the_trainer_obeys_when_a_checkpoint_is_put_off(tiny, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="training libraries are not installed")
    from cells import make, train

    from ft_magic.backends.pace import Pace

    due, plain = [], Pace.saves

    def dear(self, plan, step, **given):
        due.append((step, given["due"]))
        self.save_s = self.saving_s = 1e6  # as if the last one had taken so long
        return plain(self, plan, step, **given)

    monkeypatch.setattr(Pace, "saves", dear)
    cell = train(make(tmp_path / "run", tiny, "sft", "lora", save_steps=None, max_steps=5))
    assert due == [(1, True), (2, True), (3, True), (4, True), (5, True)]
    assert [event["step"] for event in cell.events("checkpoint")] == [5]
