"""A mirror is a run folder like any other: it follows as the run goes, and one can go on from it."""

import json
import shutil
import time

import pytest
from rows import demos

import ft_magic as ft
from ft_magic import events
from ft_magic.errors import RunError
from ft_magic.mirror import Mirror
from ft_magic.run_folder import RunFolder

SPEC = {
    "max_steps": 12,
    "batch_size": 4,
    "save_steps": 2,
    "eval_steps": 6,
    "learning_rate": 1e-2,
    "detach": True,
}


@pytest.fixture
def folder(tmp_path):
    found = RunFolder(tmp_path / "runs" / "one")
    (found.path / "data").mkdir(parents=True)
    found.train_rows.write_text('{"text": "a"}\n')
    found.checkpoints.mkdir()
    found.plan.write_text("{}")
    found.update_state(name="one", status="running")
    return found


@pytest.fixture
def mirror(folder, tmp_path):
    writer = events.Writer(folder.events)
    return Mirror.of(folder, str(tmp_path / "drive"), writer.emit)


def checkpoint(folder, step, text="weights"):
    made = folder.checkpoints / f"checkpoint-{step}"
    (made / "value").mkdir(parents=True)
    (made / "value" / "weights.bin").write_text(text)


def names(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_only_complete_checkpoints_of_now_lie_in_the_mirror(folder, mirror, tmp_path):
    there = tmp_path / "drive" / "one"
    checkpoint(folder, 2)
    (folder.checkpoints / ".partial").mkdir()
    (folder.checkpoints / ".partial" / "half.bin").write_text("half")
    mirror.update()
    checkpoint(folder, 4)
    shutil.rmtree(folder.checkpoints / "checkpoint-2")
    mirror.update()
    assert names(there) == [
        "checkpoints/checkpoint-4/value/weights.bin", "data/train.jsonl", "events.jsonl", "plan.json", "run.json",
    ]  # fmt: skip


def test_what_has_not_changed_is_not_written_again(folder, mirror, tmp_path, monkeypatch):
    checkpoint(folder, 2)
    mirror.update()
    copied, copyfile = [], shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda a, b: copied.append(a.name) or copyfile(a, b))
    mirror.update()
    assert copied == []
    events.Writer(folder.events).emit("step", step=1, loss=1.0)
    mirror.update()
    assert copied == ["events.jsonl"]


def test_a_drive_that_fails_is_told_once_and_used_again_when_it_works(folder, mirror, tmp_path, monkeypatch):
    checkpoint(folder, 2)
    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", _full)
    mirror.update()
    mirror.update()
    warnings = list(events.of_kind(events.read(folder.events), "warning"))
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]["message"]
    there = tmp_path / "drive" / "one"
    assert not [name for name in names(there) if "checkpoint" in name]  # nothing half-written
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    mirror.update()
    assert "checkpoints/checkpoint-2/value/weights.bin" in names(there)


def _full(*_):
    raise OSError(28, "No space left on device")


def test_steps_copy_the_small_files_once_a_minute(folder, tmp_path):
    now = [0.0]
    mirror = Mirror.of(folder, str(tmp_path / "drive"), events.Writer(folder.events).emit)
    mirror.clock = lambda: now[0]
    copies = []
    mirror._copy = lambda *, small: copies.append((now[0], small))
    for second in range(0, 130, 10):
        now[0] = float(second)
        mirror.told("step")
    mirror.told("checkpoint")
    assert copies == [(0.0, True), (60.0, True), (120.0, True), (120.0, False)]


def test_a_run_that_lies_in_its_mirror_has_none(folder):
    assert Mirror.of(folder, str(folder.path.parent), print) is None


def test_a_run_whose_folder_is_gone_goes_on_from_its_mirror_to_the_same_bits(tiny, runs_folder, tmp_path):
    plain = ft.finetune(model=str(tiny), data=demos(), **SPEC)
    assert plain.wait(120) == "finished", plain.logs()
    drive = tmp_path / "drive"
    run = ft.finetune(model=str(tiny), data=demos(), name="lost", mirror=str(drive), **SPEC)
    deadline = time.monotonic() + 120
    while not list(drive.glob("lost/checkpoints/checkpoint-*")):
        assert time.monotonic() < deadline, run.logs()
        time.sleep(0.01)
    run.stop(now=True)
    run.wait(30)
    shutil.rmtree(run.path)

    found = ft.open_run(drive)
    assert found.name == "lost"
    assert found.metrics()
    plan = json.loads(found.folder.plan.read_text())
    found.folder.plan.write_text(json.dumps(plan | {"model_folder": "/root/.cache/of/a/lost/machine"}))
    found.resume(detach=True)
    assert found.wait(120) == "finished", found.logs()
    weights = (found.folder.adapter / "adapter_model.safetensors").read_bytes()
    assert weights == (plain.folder.adapter / "adapter_model.safetensors").read_bytes()


def test_a_finished_run_is_in_its_mirror_whole(tiny, runs_folder, tmp_path):
    run = ft.finetune(
        model=str(tiny), data=demos(), name="done", mirror=str(tmp_path / "drive"), **SPEC | {"max_steps": 2}
    )
    assert run.wait(120) == "finished", run.logs()
    found = ft.open_run(tmp_path / "drive" / "done")
    assert found.status == "finished"
    assert found.metrics() == run.metrics()
    assert names(found.folder.adapter) == names(run.folder.adapter)


def test_a_folder_of_several_mirrors_asks_which(tmp_path, runs_folder):
    for name in ("a", "b"):
        (tmp_path / "drive" / name).mkdir(parents=True)
        RunFolder(tmp_path / "drive" / name).update_state(name=name)
    with pytest.raises(RunError, match="holds 2 runs"):
        ft.open_run(tmp_path / "drive")
