"""Workers that memory ended: told from other ends, and gone on with smaller parts of the same batch."""

import os
import signal
import time

import pytest
from cells import make, train
from rows import demos

import ft_magic as ft
from ft_magic import events, follow, hardware, killed
from ft_magic.errors import RunError


@pytest.fixture
def counts(monkeypatch):
    """The kernel's counts of out-of-memory kills, as the test sets them."""
    found = {"container": 3, "machine": 7}
    monkeypatch.setattr(hardware, "memory_kills", lambda: dict(found))
    return found


@pytest.fixture
def begin(tiny, runs_folder):
    started = []

    def begin(**more):
        options = {"fake_step_s": 0.01} | more.pop("trainer", {})
        spec = {
            "max_steps": 10,
            "save_steps": 4,
            "batch_size": 8,
            "micro_batch_size": 8,
            "audit": "off",
        } | more
        run = ft.finetune(model=str(tiny), data=demos(), backend="fake", detach=True, trainer=options, **spec)
        started.append(run)
        return run

    yield begin
    for run in started:
        if run.folder.worker_alive():
            follow.stop_now(run.folder)


def steps(run):
    return [event["step"] for event in run.events() if event.kind == "step"]


def retries(run):
    return [event for event in run.events() if event.kind == "oom_retry"]


def gone(run):
    deadline = time.monotonic() + 20
    while run.folder.worker_alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_follower_starts_again_with_half_the_micro_batch_where_the_kernel_ended_the_worker(begin, counts):
    run = begin(trainer={"fake_killed_at": 6, "fake_fits": 4})
    gone(run)
    counts["container"] += 1
    assert run.attach().status == "finished"
    (told,) = retries(run)
    assert (told["micro_batch_size_before"], told["micro_batch_size"], told["step"]) == (8, 4, 4)
    assert told["settings"]["accumulation_steps"] == 2
    assert "out-of-memory killer" in told["message"]
    assert "goes on from step 4" in told["fix"]
    assert steps(run) == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10]  # the fifth was lost with the worker


def test_after_two_restarts_the_run_fails_with_a_line_that_names_the_killer(begin, counts, monkeypatch):
    rising = iter(range(100, 200))
    monkeypatch.setattr(hardware, "memory_kills", lambda: {"container": next(rising)})
    run = begin(trainer={"fake_killed_at": 6})
    with pytest.raises(
        RunError,
        match=r"was killed by the out-of-memory killer \(the kernel counts .* checkpoint-4 is intact",
    ) as error:
        run.attach()
    assert [event["micro_batch_size"] for event in retries(run)] == [4, 2]
    assert f"%ft resume {run.name}, which takes smaller parts" in error.value.instead
    assert run.status == "failed"
    run.resume(detach=True)
    gone(run)
    assert [event["micro_batch_size"] for event in retries(run)] == [4, 2, 1]


def test_a_worker_that_somebody_else_killed_is_not_taken_for_one_that_took_too_much(begin, counts):
    run = begin(max_steps=300)
    while len(steps(run)) < 5:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    with pytest.raises(RunError, match="the kernel counts no out-of-memory kill since it started"):
        run.attach()
    run.resume(detach=True)
    assert not retries(run)
    run.stop()
    gone(run)


def test_a_crash_is_told_by_its_signal(begin, counts):
    run = begin(max_steps=300)
    while not steps(run):
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGSEGV)
    gone(run)
    counts["container"] += 1  # somebody else's
    for _ in range(2):  # also once this process has forgotten the worker
        with pytest.raises(RunError, match=r"ended without a word \(signal 11, SIGSEGV\)"):
            run.attach()
    assert not retries(run)


@pytest.fixture
def dead(tiny, tmp_path):
    cell = make(tmp_path / "run", tiny, "sft", "lora", batch_size=4, micro_batch_size=4)
    events.Writer(cell.folder.events).emit("started", pid=1)
    return cell.folder


@pytest.mark.parametrize(
    ("before", "after", "memory"),
    [
        ({"container": 1, "machine": 4}, {"container": 2, "machine": 5}, killed.SURE),
        ({"container": 1, "machine": 4}, {"container": 1, "machine": 5}, killed.LIKELY),
        ({"container": 1, "machine": 4}, {"container": 1, "machine": 4}, killed.NO),
        ({}, {}, killed.UNKNOWN),
    ],
)
def test_counts_tell_how_sure_it_is(dead, monkeypatch, before, after, memory):
    monkeypatch.setattr(hardware, "memory_kills", lambda: before)
    killed.note_counts(dead)
    monkeypatch.setattr(hardware, "memory_kills", lambda: after)
    found = killed.death(dead, -9)
    assert found is not None
    assert found.memory == memory
    events.Writer(dead.events).emit("loaded")
    assert killed.death(dead, -9).shrinks == (memory != killed.NO)


def test_memory_that_ends_while_the_model_is_loaded_asks_for_another_model_not_for_smaller_parts(
    dead, counts
):
    killed.note_counts(dead)
    counts["container"] += 1
    found = killed.death(dead, -9)
    assert found.loading
    assert not found.shrinks
    follow.prepare_resume(dead)
    assert "oom_retry" not in dead.events.read_text()
    error = follow.failure(dead)
    assert "before the model was loaded" in error.problem
    assert "qlora" in error.instead


@pytest.mark.parametrize(
    ("record", "memory"),
    [
        (
            "3,900,200000000,-;Memory cgroup out of memory: Killed process 4321 (python) total-vm:1kB",
            killed.SURE,
        ),
        ("3,900,200000000,-;Out of memory: Killed process 43210 (python) total-vm:1kB", killed.NO),
        ("3,900,50000000,-;Out of memory: Killed process 4321 (other) total-vm:1kB", killed.NO),
        ("", killed.NO),
    ],
)
def test_the_kernels_log_tells_by_number_and_time(dead, counts, monkeypatch, tmp_path, record, memory):
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    killed.note_counts(dead)
    dead.update_state(pid=4321)
    (tmp_path / "kmsg").write_text(record)
    monkeypatch.setattr(killed, "_KERNEL_LOG", str(tmp_path / "kmsg"))
    assert killed.death(dead, -9).memory == memory


def test_counts_of_another_start_of_the_machine_say_nothing(dead, counts, monkeypatch):
    killed.note_counts(dead)
    monkeypatch.setattr(hardware, "boot_id", lambda: "another")
    counts["container"] += 1
    assert killed.death(dead, None).memory == killed.NO


def test_a_run_that_told_its_end_was_not_killed(dead, counts):
    events.Writer(dead.events).emit("failed", message="no", advice="")
    assert killed.death(dead, -9) is None


def test_both_versions_of_control_groups_count(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/vmstat").write_text("oom_kill 12\n")
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/box\n")
    old = tmp_path / "sys/fs/cgroup/memory/box"
    old.mkdir(parents=True)
    (old / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert hardware.memory_kills(tmp_path) == {"container": 5, "machine": 12}
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    new = tmp_path / "sys/fs/cgroup/box"
    new.mkdir()
    (new / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n")
    assert hardware.memory_kills(tmp_path) == {"container": 1, "machine": 12}
    assert hardware.memory_kills(tmp_path / "elsewhere") == {}


@pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning"
)  # Python 3.12: other threads hold no lock here
def test_a_killed_training_resumes_in_halves_and_ends_with_the_same_weights(tiny, tmp_path, counts):
    torch = pytest.importorskip("torch", reason="training libraries are not installed")
    from ft_magic.backends import Job, recovery

    spec = {
        "max_steps": 4, "batch_size": 4, "micro_batch_size": 4, "save_steps": 2, "optim": "sgd", "learning_rate": 0.5,
    }  # fmt: skip
    plain = train(make(tmp_path / "plain", tiny, "sft", "lora", **spec))
    cell = make(tmp_path / "short", tiny, "sft", "lora", **spec)
    pid = os.fork()
    if not pid:  # a worker whose kernel ends it in the middle of the fourth step
        torch.set_num_threads(1)  # a team of threads does not survive a fork
        _die_in_step(4, torch)
        train(cell)
        os._exit(1)
    killed.note_counts(cell.folder)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -9
    writer = events.Writer(cell.folder.events)
    writer.emit("started", pid=pid)
    writer.emit("loaded")
    counts["container"] += 1
    follow.prepare_resume(cell.folder)

    (told,) = cell.events("oom_retry")
    assert (told["step"], told["micro_batch_size"]) == (2, 2)
    from ft_magic.planning.smaller import as_retried

    plan = as_retried(cell.plan, events.read(cell.folder.events))
    recovery.train(Job(cell.folder, plan, cell.folder.latest_checkpoint(), detached=True), writer.emit)
    for name, weight in plain.weights().items():
        assert torch.allclose(weight, cell.weights()[name], rtol=0, atol=5e-6), name


def _die_in_step(number, torch):
    step, calls = torch.optim.SGD.step, []

    def dying(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args, **kwargs)

    torch.optim.SGD.step = dying
