"""Unsloth's CPU backend, for real: LoRA and full weights."""

import importlib.util

import pytest
from rows import demos
from test_worker import tensors, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("unsloth") is None, reason="Unsloth is not installed: make test does"
    ),
]


def test_lora_through_unsloth_gives_the_losses_of_trl(tiny, runs_folder):
    settings = {"max_steps": 4, "learning_rate": 1e-3, "eval_fraction": 0}
    plain = train(tiny, demos(), backend="trl", **settings).metrics()
    fast = train(tiny, demos(), backend="unsloth", **settings).metrics()
    assert fast[0]["loss"] == pytest.approx(plain[0]["loss"], abs=1e-3)
    assert [row["loss"] for row in fast] == pytest.approx([row["loss"] for row in plain], abs=2e-2)


def test_full_training_through_unsloth_changes_the_weights(tiny, runs_folder):
    run = train(tiny, demos(), backend="unsloth", update="full", max_steps=2, eval_fraction=0)
    before, after = tensors(tiny / "model.safetensors"), tensors(run.folder.model / "model.safetensors")
    changed = [name for name in before if (after[name].float() != before[name].float()).any()]
    assert len(changed) == len(before)
