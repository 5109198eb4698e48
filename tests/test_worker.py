"""Real training in real worker processes, on a random Llama of 60 thousand weights."""

import hashlib
import os
import signal
import time

import pytest
from rows import demos, pairs, prompts, texts

import ft_magic as ft
from ft_magic import jobs
from ft_magic.axes import METHODS
from ft_magic.errors import RunError
from ft_magic.planning.plans import grid

SPEC = {
    "max_steps": 6,
    "batch_size": 4,
    "save_steps": 2,
    "eval_steps": 3,
    "learning_rate": 1e-2,
    "detach": True,
}


def train(tiny, rows=None, **more):
    run = ft.finetune(model=str(tiny), data=rows or demos(), **(SPEC | more))
    assert run.wait(120) == "finished", run.logs()
    return run


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def tensors(file):
    from safetensors.torch import load_file

    return load_file(file)


def until_step(run, step):
    deadline = time.monotonic() + 120
    while not any(e.kind == "step" and e["step"] >= step for e in run.events()):
        assert time.monotonic() < deadline, run.logs()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(tiny, module_runs):
    """One finished run, with dropout so that every random number counts."""
    return train(tiny, max_steps=12, lora_dropout=0.1)


def test_the_loss_falls_and_every_event_is_told(uninterrupted):
    kinds = {event.kind for event in uninterrupted.events()}
    assert {"planned", "started", "loaded", "step", "eval", "checkpoint", "finished"} <= kinds
    losses = [row["loss"] for row in uninterrupted.metrics()]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.1
    row = uninterrupted.metrics()[-1]
    assert row["tokens_per_s"] > 0
    assert row["memory_bytes"] > 1e8
    assert row["grad_norm"] > 0


def test_no_checkpoint_but_the_last_two_is_kept_and_none_is_partial(uninterrupted):
    names = sorted(path.name for path in uninterrupted.folder.checkpoints.glob("checkpoint-*"))
    assert names == ["checkpoint-10", "checkpoint-12"]


@pytest.mark.parametrize("step", [1, 5])
def test_a_run_killed_at_any_step_resumes_to_the_same_bits(tiny, runs_folder, uninterrupted, step):
    run = ft.finetune(model=str(tiny), data=demos(), **(SPEC | {"max_steps": 12, "lora_dropout": 0.1}))
    until_step(run, step)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait(20) == "failed"
    run.resume(detach=True)
    assert run.wait(120) == "finished", run.logs()
    assert digests(run.folder.adapter) == digests(uninterrupted.folder.adapter)


def test_a_stopped_run_resumes_to_the_same_bits(tiny, runs_folder, uninterrupted):
    run = ft.finetune(model=str(tiny), data=demos(), **(SPEC | {"max_steps": 12, "lora_dropout": 0.1}))
    until_step(run, 2)
    run.stop()
    assert run.wait(60) == "stopped"
    run.resume(detach=True)
    assert run.wait(120) == "finished", run.logs()
    assert digests(run.folder.adapter) == digests(uninterrupted.folder.adapter)


def test_accumulation_is_the_same_step_as_one_batch(tiny, runs_folder):
    whole = train(tiny, max_steps=2, save_steps=10, eval_fraction=0).metrics()
    parts = train(tiny, max_steps=2, save_steps=10, eval_fraction=0, micro_batch_size=1).metrics()
    for one, other in zip(whole, parts, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)


def test_full_training_changes_every_matrix_and_keeps_the_tokenizer(tiny, runs_folder):
    run = train(tiny, update="full", max_steps=2, learning_rate=1e-3)
    before, after = tensors(tiny / "model.safetensors"), tensors(run.folder.model / "model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in after.items():
        assert (weight.float() != before[name].float()).any(), name
    assert (run.folder.model / "tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()


# The other cells train in test_grid.py, in one process; Unsloth rewrites TRL when it is imported and needs its own.
ROWS = {"demo": demos, "pair": pairs, "text": texts}
UNSLOTH = [(c.method, c.update) for c in grid(cpu=True) if c.backend == "unsloth" and not c.reason]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "update"), UNSLOTH)
def test_every_cell_of_unsloths_grid_trains(tiny, runs_folder, method, update):
    pytest.importorskip("torchao", reason="Unsloth is not installed: make test does")
    rows = ROWS[METHODS[method].signal]()
    run = train(tiny, rows, method=method, update=update, backend="unsloth", max_steps=3, eval_steps=3)
    assert all(row["loss"] > 0 for row in run.metrics())
    if update == "full":
        assert (run.folder.model / "model.safetensors").exists()
    else:
        matrices = tensors(run.folder.adapter / "adapter_model.safetensors")
        changed = [name for name, value in matrices.items() if "lora_B" in name and value.abs().max() > 0]
        assert len(changed) == 2 * 7  # seven linear layers in each of two blocks, none of the head


def test_preferences_start_at_the_reference_and_move_away_from_it(tiny, runs_folder):
    run = train(tiny, pairs(), method="dpo", max_steps=3, eval_steps=3)
    assert run.metrics()[0]["loss"] == pytest.approx(0.6931, abs=2e-3)  # ln 2: policy and reference are equal
    assert run.metrics()[-1]["rewards/margins"] > 0


def test_own_reward_functions_travel_to_the_worker(tiny, runs_folder):
    run = train(
        tiny, ft.load_data(prompts(), signal="prompt"), method="grpo", rewards=[says_colour, {"reward": "length", "max": 20, "weight": 0.1}],
        max_steps=2, num_generations=2, max_completion_length=8, eval_steps=2,
    )  # fmt: skip
    last = run.metrics()[-1]
    assert {"rewards/says_colour/mean", "rewards/length/mean", "eval_reward"} <= last.keys()
    expected = last["rewards/says_colour/mean"] + 0.1 * last["rewards/length/mean"]
    assert last["reward"] == pytest.approx(expected, abs=1e-5)


def says_colour(completion, answer):
    """Share of the answer's letters that the completion holds."""
    return sum(letter in completion for letter in answer) / len(answer)


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(tmp_path, runs_folder):
    import torch
    from safetensors.torch import save_file
    from tiny_llama import make_model

    broken = make_model(tmp_path / "broken")
    weights = tensors(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    run = ft.finetune(model=str(broken), data=demos(), **SPEC)
    assert run.wait(120) == "failed"
    with pytest.raises(RunError, match="the loss became nan at step 1") as error:
        run.attach()
    assert "learning rate" in error.value.instead
    assert not run.folder.adapter.exists()


def test_early_stopping_keeps_the_best_step(tiny, runs_folder):
    run = train(
        tiny, max_steps=60, eval_steps=1, save_steps=1, early_stopping=2, learning_rate=0.5, warmup_ratio=0,
        lr_scheduler_type="constant", eval_fraction=0.3,
    )  # fmt: skip
    evals = {e["step"]: e["loss"] for e in run.events() if e.kind == "eval"}
    best = min(evals, key=evals.get)
    assert max(evals) == best + 2 < 60
    best_weights = tensors(run.folder.checkpoints / f"checkpoint-{best}" / "adapter_model.safetensors")
    kept = tensors(run.folder.adapter / "adapter_model.safetensors")
    assert all((kept[name] == value).all() for name, value in best_weights.items())


def test_an_unknown_trainer_field_is_named_with_the_nearest(tiny, runs_folder):
    run = ft.finetune(model=str(tiny), data=demos(), trainer={"max_grad_nrom": 1.0}, **SPEC)
    assert run.wait(120) == "failed"
    with pytest.raises(RunError, match="Did you mean 'max_grad_norm'"):
        run.attach()


def test_pause_waits_and_sample_answers(tiny, runs_folder):
    run = ft.finetune(model=str(tiny), data=demos(), **(SPEC | {"max_steps": 400}))
    until_step(run, 1)
    run.sample()
    deadline = time.monotonic() + 60
    while not any(e.kind == "sample" for e in run.events()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.pause()
    while run.status != "paused":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = len(run.events())
    time.sleep(1.0)
    assert len(run.events()) == before
    run.resume(detach=True)
    while len(run.events()) == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.stop()
    assert run.wait(60) == "stopped"


@pytest.mark.parametrize("update", ["dora", "rslora"])
def test_relatives_of_lora_merge_to_the_same_model(tiny, runs_folder, update):
    run = train(tiny, update=update, max_steps=4, eval_fraction=0)
    run.merge()  # refuses by itself when base + adapter and merged model differ
    told = next(event for event in run.events() if event.kind == "merged")
    assert told["mean_kl"] < 0.002
    jobs.unload()
