"""Disks that are full or will be: refused before training, told in plain words when it happens, nothing lost."""

import os
import shutil
import subprocess
import time

import pytest
from cells import make, train
from rows import demos
from situations import GIB, LLAMA_8B, SMOL, situation

import ft_magic as ft
from ft_magic import follow, hardware, launch
from ft_magic.disk import is_disk_full, room_kept_back
from ft_magic.errors import RunError
from ft_magic.models import facts
from ft_magic.planning import decide
from ft_magic.planning.room import disk_needs
from ft_magic.run_folder import RunFolder
from ft_magic.spec import parse

LEAST = {"model": "demo", "data": "rows.json"}


def test_three_checkpoints_with_their_optimizer_and_the_result_are_counted():
    plan = decide.make(parse(LEAST | {"lora_r": 16}), situation())
    # SmolLM2-135M, r=16 on all seven matrices of 30 blocks: 16 x (576+576 + 2x(576+192) + 576+576 + 3x(576+1536)) x 30.
    weights = 16 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536)) * 30
    needed = disk_needs(plan, SMOL, 134_515_008)
    assert needed.result_bytes == 4 * weights
    assert needed.run_bytes == 4 * weights * (3 * 3 + 1)
    assert needed.merged_bytes == 2 * 134_515_008
    full = decide.make(parse(LEAST | {"update": "full"}), situation())
    assert disk_needs(full, SMOL, 134_515_008).merged_bytes == 0  # the result is the model


@pytest.mark.parametrize(
    ("update", "more"),
    [
        ("lora", {}),
        ("full", {}),
        ("freeze", {}),
        ("lora", {"optim": "sgd"}),
        ("lora", {"modules_to_save": ["embed_tokens"]}),
        ("lora", {"early_stopping": 9}),
    ],
)
def test_what_is_counted_is_what_a_run_writes(tiny, tmp_path, update, more):
    pytest.importorskip("torch", reason="training libraries are not installed")
    cell = train(make(tmp_path / "run", tiny, "sft", update, eval_steps=1, max_steps=4, **more))
    needed = disk_needs(cell.plan, facts(tiny))
    checkpoints = list(cell.folder.checkpoints.glob("checkpoint-*"))
    assert 2 <= len(checkpoints) <= needed.checkpoints - 1  # one more while it is written
    for checkpoint in checkpoints:
        written = _size(checkpoint, ".safetensors", "optimizer.pt")
        # Frozen layers are in the model that is saved, not in its optimizer; the rest is within a tenth.
        assert written == pytest.approx(needed.checkpoint_bytes, rel=0.1)


def _size(folder, *ends):
    return sum(file.stat().st_size for file in folder.iterdir() if file.name.endswith(ends))


def test_a_run_that_would_not_fit_is_refused_with_figures(tiny, runs_folder, monkeypatch):
    monkeypatch.setattr(hardware, "disk_free_bytes", lambda _: 1000)
    with pytest.raises(RunError, match=r"3 checkpoints of 0\.0 GiB, optimizer states included"):
        ft.finetune(model=str(tiny), data=demos(), max_steps=1, detach=True)
    assert not runs_folder.exists()


def test_merging_that_would_not_fit_is_warned_of_before_training(monkeypatch):
    plan = decide.make(parse(LEAST), situation(facts=LLAMA_8B))
    training = disk_needs(plan, LLAMA_8B).run_bytes
    monkeypatch.setattr(hardware, "disk_free_bytes", lambda _: training + 10 * GIB)
    (caution,) = launch._room_cautions(plan, LLAMA_8B)
    assert "merging this run will need 15.0 GiB more disk" in caution.message  # 8.03e9 weights of 2 bytes
    monkeypatch.setattr(hardware, "disk_free_bytes", lambda _: training + 16 * GIB)
    assert not launch._room_cautions(plan, LLAMA_8B)


def test_a_mirror_that_is_too_small_is_warned_of(monkeypatch):
    plan = decide.make(parse(LEAST | {"mirror": "/drive"}), situation())
    monkeypatch.setattr(hardware, "disk_free_bytes", lambda path: 10**6 if path == "/drive" else 10**15)
    (caution,) = launch._room_cautions(plan, LLAMA_8B)
    assert "/drive has 0.0 GiB free" in caution.message


def test_a_full_disk_is_known_by_every_writer_that_meets_it():
    from_rust = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    from_torch = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
    from_torch.__context__ = OSError(28, "No space left on device")
    assert is_disk_full(OSError(28, "No space left on device"))
    assert is_disk_full(from_rust)
    assert is_disk_full(from_torch)
    assert not is_disk_full(OSError(13, "Permission denied"))


def test_room_is_kept_back_for_the_last_words(tmp_path):
    with room_kept_back(tmp_path) as room:
        assert room.stat().st_blocks * 512 >= 65536
        room.unlink()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12M", "tmpfs", place], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no right to mount a small disk")
    monkeypatch.setenv("FT_MAGIC_RUNS", str(place / "runs"))
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "cache"))
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_ends_training_with_words_and_the_run_goes_on_once_there_is_room(
    tiny, small_disk
):
    run = ft.finetune(
        model=str(tiny), data=demos(), max_steps=400, batch_size=4, save_steps=5, eval_steps=400, eval_fraction=0,
        learning_rate=1e-3, detach=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not run.folder.latest_checkpoint():
        assert time.monotonic() < deadline, run.logs()
        time.sleep(0.01)
    _fill(small_disk / "filler")
    assert run.wait(60) == "failed"
    with pytest.raises(RunError, match=r"the disk of .* is full") as found:
        run.attach()
    kept = run.folder.latest_checkpoint()
    assert f"the checkpoint of step {kept.name.removeprefix('checkpoint-')} is intact" in found.value.instead
    assert {"trainer_state.json", "optimizer.pt", "adapter_model.safetensors"} <= {
        file.name for file in kept.iterdir()
    }
    assert not (run.folder.checkpoints / ".partial").exists()

    (small_disk / "filler").unlink()
    run.resume(detach=True)
    steps = len(run.metrics())
    deadline = time.monotonic() + 60
    while len(run.metrics()) <= steps:
        assert time.monotonic() < deadline, run.logs()
        time.sleep(0.05)
    run.stop()
    assert run.wait(60) == "stopped"


def _fill(path):
    """Take all that is free, and nothing that gets free later."""
    with path.open("wb") as file:
        while True:
            try:
                return os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(path.parent).free)
            except OSError:
                continue  # the run took some of it in between


def test_a_worker_that_could_not_even_say_so_is_not_taken_for_one_that_was_killed(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "one")
    folder.path.mkdir()
    folder.checkpoints.mkdir()
    folder.update_state(name="one", status="running")
    monkeypatch.setattr(hardware, "disk_free_bytes", lambda _: 0)
    error = follow.failure(folder)
    assert "the disk is full" in error.problem
    assert "killed" not in error.problem
