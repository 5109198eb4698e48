"""How long a run takes: learned from earlier runs of its kind on this machine, else said to be a guess."""

import re
from dataclasses import replace

import pytest
from situations import A100, LLAMA_8B, situation

from ft_magic import events, speeds
from ft_magic.events import Event
from ft_magic.planning import decide
from ft_magic.planning.eta import Speed, learned
from ft_magic.planning.measured import as_measured
from ft_magic.run_folder import RunFolder
from ft_magic.spec import parse
from ft_magic.ui.plan import plan_text

LEAST = {
    "model": "demo",
    "data": "rows.json",
    "max_steps": 12,
    "batch_size": 8,
    "eval_steps": 6,
    "save_steps": 6,
}


def plan(more=None, **where):
    return decide.make(parse(LEAST | (more or {})), situation(**where))


def session(start=100.0, steps=12, step_s=2.0, *, eval_s=3.0, save_s=1.0, pause_s=0.0):
    """Events of a run that loads 10 s, takes 6 s for its first step and evaluates and saves every sixth."""
    t = start
    found = [Event("started", t, {})]
    t += 10
    found.append(Event("loaded", t, {}))
    for step in range(1, steps + 1):
        took = 6.0 if step == 1 else step_s
        t += took + (pause_s if step == 4 else 0)
        found.append(Event("step", t, {"step": step, "step_s": took, "memory_bytes": 10**9}))
        if step % 6 == 0:
            t += eval_s
            found.append(Event("eval", t, {"step": step, "loss": 1.0}))
            t += save_s
            found.append(Event("checkpoint", t, {"step": step}))
    return found


def test_a_run_teaches_its_steps_evaluations_checkpoints_and_start():
    made = plan()
    assert made.tokens_a_step == 8 * 100  # rows of 100 tokens
    found = learned(made, "one", session())
    assert found.steps == 11
    assert found.token_s == pytest.approx(2.0 / 800)
    assert found.eval_row_s == pytest.approx(3.0 / made.settings.eval_examples)
    assert found.save_s == pytest.approx(1.0)
    assert found.start_s == pytest.approx(10 + 6 - 2)  # loading, and what the first step took longer


def test_a_pause_is_no_step_and_an_earlier_session_does_not_count():
    twice = [*session(step_s=50.0), *session(start=10_000.0, pause_s=3600.0)]
    assert learned(plan(), "one", twice).token_s == pytest.approx(2.0 / 800)


def test_few_steps_and_runs_that_memory_changed_teach_nothing():
    assert learned(plan(), "one", session(steps=2)) is None
    assert learned(plan(), "one", [*session(), Event("oom_retry", 1.0, {})]) is None


def test_the_next_plan_of_the_kind_says_where_its_time_is_from():
    first = plan()
    assert first.eta_source.startswith("a guess")
    assert first.eta_steps == 0
    known = {first.speed_key: Speed("colours", 12, 0.0025, eval_row_s=0.1, save_s=1.5, start_s=14.0)}
    made = decide.make(parse(LEAST | {"max_steps": 24}), replace(situation(), speeds=known))
    # 24 steps of 800 tokens at 2.5 ms, four evaluations, four checkpoints, and the start.
    evaluation = 0.1 * made.settings.eval_examples
    assert made.eta_s == pytest.approx(14 + 24 * 800 * 0.0025 + 4 * evaluation + 4 * 1.5)
    assert made.eta_source == "from 12 steps of run colours on this machine, 2.5 ms a token"
    assert "2.5 ms a token" in plan_text(made)


@pytest.mark.parametrize("other", [{"update": "full"}, {"method": "cpt"}, {"gradient_checkpointing": True}])
def test_another_kind_of_run_is_not_told_by_it(other):
    known = {plan().speed_key: Speed("colours", 12, 0.0025)}
    made = decide.make(parse(LEAST | other), replace(situation(), speeds=known))
    assert made.eta_steps == 0


def test_a_gpu_without_an_earlier_run_gives_no_figure_and_says_so():
    made = plan(gpus=[A100], facts=LLAMA_8B)
    assert made.eta_s == 0
    assert "unknown until its first steps" in plan_text(made)


def test_speeds_are_kept_in_the_cache_and_a_damaged_file_is_no_reason_to_fail(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "cache"))
    assert speeds.read() == {}
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    made = plan()
    folder.plan.write_text(__import__("json").dumps(made.to_dict()))
    folder.events.write_text("".join(event.to_json() + "\n" for event in session()))
    speeds.learn(folder)
    assert speeds.read()[made.speed_key].run == "run"
    (tmp_path / "cache" / "speeds.json").write_text("{broken")
    assert speeds.read() == {}
    speeds.learn(folder)
    assert speeds.read()[made.speed_key].steps == 11


def test_a_run_that_ended_is_read_by_the_next_plan(tiny, runs_folder):
    from rows import demos

    import ft_magic as ft

    spec = {"model": str(tiny), "data": demos(), "backend": "fake", "audit": "off", "max_steps": 8}
    assert ft.plan(**spec).eta_source.startswith("a guess")
    run = ft.finetune(**spec, detach=True, trainer={"fake_step_s": 0.02})
    run.wait(30)
    source = ft.plan(**spec).eta_source
    # Seven of eight, as the first warms up; a busy machine may make another look like a pause.
    assert re.match(rf"from [4-7] steps of run {run.name} on this machine", source)
    assert run.plan.eta_source == "from 8 steps of this run"


def test_what_was_measured_takes_the_place_of_what_was_guessed():
    made = plan({"micro_batch_size": 8})
    began = Event("started", 1.0, {})
    tried = Event(
        "preflight", 9.0, {"measured_bytes": 3 * 10**9, "eta_s": 77.0, "step_bytes": 1, "eval_bytes": 1}
    )
    seen = as_measured(made, [began, tried])
    assert (seen.measured_bytes, seen.eta_s) == (3 * 10**9, 8 + 77.0)
    assert seen.eta_source.startswith("from the preflight's one step")
    text = plan_text(seen)
    assert "measured" in text
    assert "the preflight on the longest rows" in text
    measured_before = replace(made, eta_s=50.0, eta_steps=12)
    assert as_measured(measured_before, [tried]).eta_s == 50.0  # eleven steps tell more than one
    short = Event("oom_retry", 2.0, {"settings": {"micro_batch_size": 4, "accumulation_steps": 2}, "step": 0})
    after = as_measured(made, [tried, short])
    assert after.settings.micro_batch_size == 4
    assert after.reasons["micro_batch_size"] == "memory ran short; 8 was planned"


def test_time_left_counts_evaluations_and_checkpoints_to_come():
    from ft_magic.backends.pace import Pace

    settings = plan().settings  # 12 steps, evaluations and checkpoints after the sixth and the twelfth
    now = Pace(started_t=0.0, last_saved_t=0.0, eval_s=3.0, save_s=1.0)
    now.step_s.extend([2.0, 2.0, 2.0])
    assert now.left_s(settings, 3) == pytest.approx(9 * 2 + 2 * 3 + 2 * 1)
    assert now.left_s(settings, 6) == pytest.approx(6 * 2 + 3 + 1)
    assert now.left_s(settings, 12) == 0
    assert now.left_s(replace(settings, eval_examples=0), 6) == pytest.approx(6 * 2 + 1)


def test_events_file_of_a_preflight_survives_reading(tmp_path):
    writer = events.Writer(tmp_path / "events.jsonl")
    writer.emit("preflight", measured_bytes=5, eta_s=1.0)
    assert as_measured(plan(), events.read(tmp_path / "events.jsonl")).measured_bytes == 5
