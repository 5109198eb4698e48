"""Workers that import before they have a run: taken where they suit, ended where they do not."""

import sys
import time

import pytest
from rows import demos

import ft_magic as ft
from ft_magic import ahead, hardware
from ft_magic.errors import SpecError
from ft_magic.run_folder import process_alive


@pytest.fixture
def begun(monkeypatch):
    """Every worker that was started ahead."""
    found = []
    begin = ahead._begin

    def noted(*given):
        found.append(begin(*given))
        return found[-1]

    monkeypatch.setattr(ahead, "_begin", noted)
    return found


def test_a_run_is_trained_by_the_worker_that_was_started_ahead(tiny, runs_folder, begun):
    run = ft.finetune(model=str(tiny), data=demos(), max_steps=2, eval_fraction=0.0, backend="trl")
    assert [worker.process.pid for worker in begun] == [run.pid]
    assert run.status == "finished"
    assert "train_runtime" in run.folder.log.read_text()  # what it printed is in the run's log


def test_a_worker_ahead_can_be_stopped_while_it_imports(tiny, runs_folder, begun):
    run = ft.finetune(
        model=str(tiny), data=demos(), max_steps=500, eval_fraction=0.0, backend="trl", detach=True
    )
    run.stop(now=True)
    assert run.status == "stopped"
    begun[0].process.wait(30)
    assert not process_alive(begun[0].process.pid)


def test_a_refused_plan_leaves_no_process_behind(tiny, runs_folder, begun):
    with pytest.raises(SpecError, match="micro_batch_size"):
        ft.finetune(model=str(tiny), data=demos(), batch_size=4, micro_batch_size=3)
    assert [process_alive(worker.process.pid) for worker in begun] == [False]


def test_another_environment_gets_a_worker_of_its_own(tiny, runs_folder, begun, monkeypatch):
    monkeypatch.setattr(ahead, "process_environment", lambda *_: {"OMP_NUM_THREADS": "7"})
    run = ft.finetune(model=str(tiny), data=demos(), max_steps=1, eval_fraction=0.0, backend="trl")
    assert run.status == "finished"
    assert run.pid != begun[0].process.pid
    assert not process_alive(begun[0].process.pid)


def test_nothing_is_started_ahead_for_a_backend_without_libraries(tiny, runs_folder, begun):
    ft.finetune(model=str(tiny), data=demos(), max_steps=1, backend="fake", audit="off")
    assert begun == []


def test_a_worker_ends_when_the_kernel_that_started_it_goes(tiny):
    worker = ahead._begin(sys.executable, "json", hardware.read())
    worker.line.close()
    assert worker.process.wait(20) == 0


def test_an_interpreter_that_does_not_exist_is_told_by_the_run(tiny, runs_folder):
    assert ahead._begin("/nowhere/python", "json", hardware.read()) is None


def test_a_worker_that_died_is_not_handed_a_run(tmp_path):
    worker = ahead._begin(sys.executable, "json", hardware.read())
    worker.process.kill()
    while worker.process.poll() is None:
        time.sleep(0.01)
    assert worker.hand_over(tmp_path, 0, worker.python, worker.environment) is None
    worker.line.close()
