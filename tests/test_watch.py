"""The watch over a training: budgets of time, on a clock that the test moves."""

from dataclasses import dataclass, field

import pytest
from cells import make

from ft_magic import events
from ft_magic.backends import Job

torch = pytest.importorskip("torch", reason="training libraries are not installed")


@dataclass
class Control:
    should_save: bool = False
    should_training_stop: bool = False


@dataclass
class State:
    global_step: int = 0
    is_world_process_zero: bool = True


@dataclass
class Session:
    """A run whose steps, evaluations and saves take the seconds the test says."""

    watch: object
    now: list
    state: State = field(default_factory=State)
    control: Control = field(default_factory=Control)

    def step(self, seconds):
        self.watch.on_step_begin(None, self.state, self.control)
        self.now[0] += seconds
        self.state.global_step += 1
        self.watch.on_step_end(None, self.state, self.control)
        return self.control.should_training_stop

    def wait(self, seconds):
        self.now[0] += seconds


@pytest.fixture
def session(tiny, tmp_path):
    from ft_magic.backends.watch import Watch

    def begin(**spec):
        cell = make(tmp_path / "run", tiny, "sft", "lora", **spec)
        now = [1000.0]
        writer = events.Writer(cell.folder.events)
        watch = Watch(Job(cell.folder, cell.plan, None, detached=True), writer.emit, clock=lambda: now[0])
        return Session(watch, now)

    return begin


def test_training_stops_and_saves_before_the_budget_is_over(session):
    run = session(time_budget=10)  # 600 s, of which 30 are kept for the end
    stopped = [run.step(100) for _ in range(5)]
    # After 400 s another 100 s end at 500 s; after 500 s they would end at 600 s.
    assert stopped == [False, False, False, False, True]
    assert run.now[0] - 1000 == 500
    assert run.control.should_save
    assert "time budget of 10 minutes" in run.watch.now.stop_reason


def test_an_evaluation_between_two_steps_counts_as_it_may_come_again(session):
    run = session(time_budget=10)
    assert not run.step(50)
    run.wait(200)
    # At 300 s: another round of evaluation and step ends at 550 s, within the 570 s that may be used; at 350 s not.
    assert not run.step(50)
    assert run.step(50)


def test_a_pause_is_no_long_step(session):
    run = session(time_budget=10)
    run.step(50)
    run.wait(300)
    run.watch.now.step_ended_t = run.now[0]  # as the pause leaves it
    assert not run.step(50)  # at 400 s; another 50 s end at 450 s


def test_loading_counts_from_the_start_of_the_session(tiny, tmp_path, monkeypatch):
    import time

    from ft_magic.backends.watch import Watch

    cell = make(tmp_path / "run", tiny, "sft", "lora", time_budget=10)
    writer = events.Writer(cell.folder.events)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    writer.emit("started", pid=1)
    now = [1000.0 + 500]  # 500 s of download and loading
    run = Session(
        Watch(Job(cell.folder, cell.plan, None, detached=True), writer.emit, clock=lambda: now[0]), now
    )
    assert run.step(80)


def test_without_a_budget_nothing_stops(session):
    run = session()
    assert not any(run.step(10_000) for _ in range(5))
