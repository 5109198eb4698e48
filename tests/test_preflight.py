"""One step on the longest rows before training: it leaves no trace, and what does not fit is changed before it starts."""

import functools
from dataclasses import replace

import pytest
from cells import make, train
from rows import demos
from situations import A100, situation
from tiny_llama import make_model

from ft_magic import events
from ft_magic.backends import Job, recovery
from ft_magic.errors import SpecError
from ft_magic.planning import decide
from ft_magic.spec import parse

torch = pytest.importorskip("torch", reason="training libraries are not installed")

SPEC = {"max_steps": 3, "batch_size": 4, "save_steps": 100, "eval_steps": 2, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("teacher") / "teacher", seed=1)


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "reward", "grpo", "online_dpo", "spin", "ppo"])
def test_the_try_changes_no_bit_of_the_run(tiny, teacher, tmp_path, method):
    found = {}
    for preflight in (False, True):
        cell = make(tmp_path / str(preflight), tiny, method, "lora", teacher, preflight=preflight, **SPEC)
        found[preflight] = train(cell)
    plain, tried = found[False], found[True]
    assert not plain.events("preflight")
    (told,) = tried.events("preflight")
    assert told["measured_bytes"] > 1e8
    assert told["eval_bytes"] > 1e8
    one, other = plain.weights(), tried.weights()
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    timings = {"step_s", "memory_bytes", "eta_s", "tokens_per_s", "metrics"}
    for a, b in zip(plain.events("step"), tried.events("step"), strict=True):
        assert {k: v for k, v in a.data.items() if k not in timings} == {
            k: v for k, v in b.data.items() if k not in timings
        }
    assert not tried.events("warning")


def test_the_longest_rows_are_what_is_tried(tiny, tmp_path, monkeypatch):
    from transformers import LlamaModel

    cell = make(tmp_path / "run", tiny, "sft", "lora", preflight=True, micro_batch_size=2, **SPEC)
    rows = [
        *demos(12),
        {"prompt": "Count.", "completion": "one two three four five six seven eight nine ten " * 2},
    ]
    _write(cell.folder.train_rows, rows)
    forward, seen = LlamaModel.forward, []

    @functools.wraps(forward)
    def watched(self, *args, **kwargs):
        ids = args[0] if args else kwargs["input_ids"]
        seen.append((tuple(ids.shape), cell.folder.events.read_text().count('"preflight"')))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", watched)
    train(cell)
    first = seen[0][0]
    assert first[0] == 2
    assert first[1] == max(shape[1] for shape, _ in seen)


def _write(path, rows):
    import json

    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_does_not_fit_is_changed_before_the_first_step(tiny, tmp_path, monkeypatch):
    from transformers import LlamaModel

    cell = make(tmp_path / "run", tiny, "sft", "lora", preflight=True, micro_batch_size=4, **SPEC)
    forward = LlamaModel.forward

    @functools.wraps(forward)
    def limited(self, *args, **kwargs):
        ids = args[0] if args else kwargs["input_ids"]
        if ids.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", limited)
    writer = events.Writer(cell.folder.events)
    assert recovery.train(Job(cell.folder, cell.plan, None, detached=True), writer.emit).status == "finished"
    told = [(e["step"], e["part"], e["micro_batch_size"]) for e in cell.events("oom_retry")]
    assert told == [(0, "train", 2), (0, "eval", 2)]
    (tried,) = cell.events("preflight")
    assert tried["micro_batch_size"] == 2
    order = [e.kind for e in events.read(cell.folder.events) if e.kind in ("oom_retry", "preflight", "step")]
    assert order == ["oom_retry", "oom_retry", "preflight", "step", "step", "step"]


@pytest.mark.parametrize(("room", "warned"), [(1.05, True), (3.0, False)])
def test_little_room_beside_the_longest_rows_is_warned_of(tiny, tmp_path, room, warned):
    from ft_magic.backends.preflight import Peaks, told

    cell = make(tmp_path / "run", tiny, "sft", "lora", micro_batch_size=4, **SPEC)
    plan = replace(cell.plan, memory_limit_bytes=int(room * 10**9))
    writer = events.Writer(cell.folder.events)

    def measure(peaks: Peaks) -> None:
        peaks.step_bytes, peaks.step_s = 10**9, 2.0

    told(plan, writer.emit, measure)
    (tried,) = cell.events("preflight")
    assert tried["step_s"] == 2.0
    assert tried["eta_s"] == plan.settings.total_steps * 2.0
    found = cell.events("warning")
    assert bool(found) == warned
    if warned:
        assert "micro-batch 4 -> 2" in found[0]["fix"]


def test_a_gpu_tries_by_default_and_a_cpu_when_asked():
    least = {"model": "demo", "data": "rows.json"}
    assert decide.make(parse(least), situation(gpus=[A100])).settings.preflight
    assert not decide.make(parse(least | {"preflight": "no"}), situation(gpus=[A100])).settings.preflight
    assert not decide.make(parse(least), situation()).settings.preflight
    assert decide.make(parse(least | {"preflight": True}), situation()).settings.preflight


def test_a_backend_without_a_first_step_to_try_says_so():
    with pytest.raises(SpecError, match="backend fake has no preflight"):
        decide.make(
            parse({"model": "demo", "data": "rows.json", "backend": "fake", "preflight": True}), situation()
        )
