"""Following, stopping and losing a worker, with the fake backend: real processes, no torch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rows import demos

import ft_magic as ft
from ft_magic import follow
from ft_magic.errors import RunError
from ft_magic.run_folder import RunFolder, process_alive


@pytest.fixture
def start(tiny, runs_folder):
    started = []

    def start(**more):
        options = {"fake_step_s": 0.02} | more.pop("trainer", {})
        spec = {"max_steps": 10, "save_steps": 4, "detach": True, "audit": "off", "trainer": options} | more
        run = ft.finetune(model=str(tiny), data=demos(), backend="fake", **spec)
        started.append(run)
        return run

    yield start
    for run in started:
        if run.folder.worker_alive():
            follow.stop_now(run.folder)


def until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def steps(run):
    return [event["step"] for event in run.events() if event.kind == "step"]


def test_a_detached_run_finishes_by_itself_and_can_be_attached_afterwards(start):
    run = start()
    assert run.wait(20) == "finished"
    assert run.attach().status == "finished"
    assert steps(run) == list(range(1, 11))


def test_the_call_follows_until_the_end_by_default(start):
    assert start(detach=False).status == "finished"


def test_the_run_folder_says_what_was_asked_planned_and_used(start):
    run = start(learning_rate=1e-3, name="colours")
    run.wait(20)
    state = json.loads((run.path / "run.json").read_text())
    assert run.path.name == "colours"
    assert state["status"] == "finished"
    assert state["pid"] == run.pid
    assert state["versions"]["python"]
    assert "learning_rate: 0.001" in (run.path / "spec.yaml").read_text()
    assert run.plan.settings.learning_rate == 1e-3
    assert len((run.path / "data" / "train.jsonl").read_text().splitlines()) == run.plan.examples
    assert [e.kind for e in run.events()][:2] == ["planned", "warning"]


def test_stop_saves_and_resume_goes_on_from_there(start):
    run = start(max_steps=200)
    until(lambda: len(steps(run)) >= 3)
    run.stop()
    assert run.wait(20) == "stopped"
    last = steps(run)[-1]
    assert run.folder.latest_checkpoint().name == f"checkpoint-{last}"
    assert last < 200
    run.resume(detach=True)
    until(lambda: len(steps(run)) > last)
    assert steps(run)[last] == last + 1
    run.stop(now=True)
    assert run.status == "stopped"


def test_a_killed_worker_is_told_with_the_way_on(start):
    run = start(max_steps=200)
    until(lambda: len(steps(run)) >= 5)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait(20) == "failed"
    with pytest.raises(RunError, match=r"worker of run .* was killed .* checkpoint-4 is intact") as error:
        run.attach()
    assert f"%ft resume {run.name}" in error.value.instead


def test_a_failed_run_gives_its_own_words_and_the_log(start):
    run = start(trainer={"fake_fail_at": 3})
    with pytest.raises(RunError, match="the loss became nan at step 3") as error:
        run.attach()
    assert "Lower the learning rate" in error.value.instead
    assert str(run.folder.log) in error.value.instead
    assert "Traceback" in run.logs()


def test_two_workers_never_hold_one_run(start):
    run = start(max_steps=500)
    with pytest.raises(RunError, match="already training in process"):
        run.resume(detach=True)


def test_a_second_run_on_the_device_waits_and_says_so(start):
    first = start(max_steps=150)
    until(lambda: steps(first))
    second = start(max_steps=3)
    until(lambda: any("trains on this" in str(e.get("message")) for e in second.events()))
    assert not steps(second)
    first.stop()
    assert second.wait(20) == "finished"


def test_a_worker_whose_follower_died_saves_and_stops(start, tiny, runs_folder):
    code = (
        "import ft_magic as ft; from rows import demos;"
        f"ft.finetune(model={str(tiny)!r}, data=demos(), backend='fake', max_steps=2000, audit='off',"
        "trainer={'fake_step_s': 0.02})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    kernel = subprocess.Popen([sys.executable, "-c", code], env=environment)
    until(lambda: len(ft.runs()) == 1 and len(steps(ft.runs()[0])) > 2)
    run = ft.runs()[0]
    kernel.kill()
    kernel.wait()
    assert run.wait(20) == "stopped"
    assert "is gone" in run.events()[-1]["reason"]
    assert run.folder.latest_checkpoint() is not None


def test_an_interrupt_stops_once_and_kills_at_the_second(start, monkeypatch):
    run = start(max_steps=2000, trainer={"fake_step_s": 0.05})
    said, shown = [], []

    class Impatient:
        def update(self, events):
            shown.extend(events)
            if len(said) < 1 and shown:
                raise KeyboardInterrupt

        def close(self, problem=""):
            pass

    assert follow.follow(run.folder, Impatient(), say=said.append) == "stopped"
    assert "Interrupt again" in said[0]
    assert run.folder.latest_checkpoint() is not None


def test_an_interrupt_shows_no_event_twice_and_loses_none(start):
    run = start(max_steps=2000, trainer={"fake_step_s": 0.05})
    said, shown, closed = [], [], []

    class Interrupted:
        def update(self, events):
            if events and not said:
                raise KeyboardInterrupt
            shown.extend(events)

        def close(self, problem=""):
            closed.append(problem)

    follow.follow(run.folder, Interrupted(), say=said.append)
    assert shown == run.events()
    assert closed == [""]


def test_a_control_file_written_by_hand_is_understood(start):
    run = start(max_steps=2000)
    until(lambda: steps(run))
    (run.path / "control.json").write_text('{"stop": true}')
    assert run.wait(20) == "stopped"


def test_runs_are_listed_newest_first_and_opened_by_the_beginning_of_their_name(start):
    first, second = start(name="alpha"), start(name="beta")
    first.wait(20), second.wait(20)
    assert [run.name for run in ft.runs()] == ["beta", "alpha"]
    assert ft.open_run("al").name == "alpha"
    with pytest.raises(RunError, match="Did you mean 'alpha'"):
        ft.open_run("alpa")


def test_a_taken_name_is_numbered_or_refused(start):
    start(name="same").wait(20)
    assert start(name="same").name == "same-2"
    with pytest.raises(RunError, match="exists already"):
        start(name="same", if_exists="error")


def test_metrics_keep_the_last_word_on_a_repeated_step(tmp_path):
    folder = RunFolder(tmp_path)
    folder.update_state(status="finished")
    from ft_magic.events import Writer

    writer = Writer(folder.events)
    for step, loss in [(1, 2.0), (2, 1.5), (2, 1.4), (3, 1.3)]:
        writer.emit("step", step=step, loss=loss, metrics={})
    writer.emit("eval", step=2, loss=1.8, metrics={})
    rows = ft.Run(tmp_path).metrics()
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 2.0), (2, 1.4), (3, 1.3)]
    assert rows[1]["eval_loss"] == 1.8


def test_a_zombie_counts_as_dead():
    child = subprocess.Popen([sys.executable, "-c", ""])
    until(lambda: not process_alive(child.pid))
    child.wait()
