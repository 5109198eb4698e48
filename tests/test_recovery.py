"""Where memory runs short, training goes on from the last completed step and ends with the same weights."""

import functools

import pytest
from cells import make, train
from tiny_llama import make_model

from ft_magic import events
from ft_magic.backends import Job, recovery
from ft_magic.backends.shortage import ShortageError, is_shortage
from ft_magic.planning.smaller import as_retried

torch = pytest.importorskip("torch", reason="training libraries are not installed")

# Plain gradient descent: Adam would divide a rounding error in a gradient near zero by itself.
DESCENT = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant"}
SAME = 5e-6
MOVED = 1e-2


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("teacher") / "teacher", seed=1)


class Device:
    """Memory of a device that holds so many sequences with gradients at once, from a step on."""

    def __init__(self, monkeypatch, folder):
        from transformers import LlamaModel

        self.folder, self.asked = folder, []
        self.training = self.reading = 10**6
        self.after_step = 0
        forward = LlamaModel.forward

        @functools.wraps(forward)  # trainers read the signature
        def limited(model, *args, **kwargs):
            ids = args[0] if args else kwargs["input_ids"]
            sequences, learning = ids.shape[0], torch.is_grad_enabled()
            limit = self.training if learning else self.reading
            if sequences > limit and self.steps() >= self.after_step:
                self.asked.append((self.steps(), sequences))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(model, *args, **kwargs)

        monkeypatch.setattr(LlamaModel, "forward", limited)

    def steps(self):
        return sum(event.kind == "step" for event in events.read(self.folder.events))


def recovered(cell, checkpoint=None):
    """Train a cell as the worker does."""
    writer = events.Writer(cell.folder.events)
    outcome = recovery.train(Job(cell.folder, cell.plan, checkpoint, detached=True), writer.emit)
    writer.close()
    assert outcome.status == "finished"
    return cell


def same(one, other):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.allclose(weight, other[name], rtol=0, atol=SAME), name


def moved(weights):
    return max(float(weight.abs().max()) for name, weight in weights.items() if "lora_B" in name)


SPEC = {"max_steps": 4, "batch_size": 4, "save_steps": 100, "eval_steps": 2}


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "orpo", "grpo", "online_dpo"])
def test_a_batch_that_no_longer_fits_is_split_and_the_run_ends_with_the_same_weights(
    tiny, teacher, tmp_path, monkeypatch, method
):
    answers = 2 if method == "grpo" else 1
    sides = 2 if method in ("dpo", "orpo", "online_dpo") else 1
    spec = SPEC | DESCENT | {"micro_batch_size": 4 * answers}
    plain = train(make(tmp_path / "plain", tiny, method, "lora", teacher, **spec))
    cell = make(tmp_path / "short", tiny, method, "lora", teacher, **spec)
    device = Device(monkeypatch, cell.folder)
    device.training, device.after_step = 2 * answers * sides, 2
    recovered(cell)

    (told,) = cell.events("oom_retry")
    assert (told["step"], told["micro_batch_size_before"], told["micro_batch_size"]) == (
        2,
        4 * answers,
        2 * answers,
    )
    assert device.asked == [(2, 4 * answers * sides)]
    steps = cell.events("step")
    assert [event["step"] for event in steps] == [1, 2, 3, 4]  # no step is done twice, none is left out
    for one, other in zip(plain.events("step"), steps, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4, abs=1e-6)
    same(plain.weights(), cell.weights())
    assert moved(cell.weights()) > MOVED


def test_settings_of_a_shortage_are_remembered_by_a_resumed_run(tiny, tmp_path, monkeypatch):
    cell = make(tmp_path / "short", tiny, "sft", "lora", micro_batch_size=4, **SPEC)
    Device(monkeypatch, cell.folder).training = 1
    recovered(cell)
    assert [event["micro_batch_size"] for event in cell.events("oom_retry")] == [2, 1]
    settings = as_retried(cell.plan, events.read(cell.folder.events)).settings
    assert (settings.micro_batch_size, settings.accumulation_steps) == (1, 4)


def test_when_one_example_is_too_much_activations_are_recomputed_and_then_the_error_says_what_to_change(
    tiny, tmp_path, monkeypatch
):
    cell = make(tmp_path / "short", tiny, "sft", "lora", micro_batch_size=2, **SPEC)
    Device(monkeypatch, cell.folder).training = 0
    with pytest.raises(ShortageError, match="step 1 does not fit in memory even with micro-batch 1") as found:
        recovered(cell)
    tried = [
        (event["settings"]["micro_batch_size"], event["settings"]["gradient_checkpointing"])
        for event in cell.events("oom_retry")
    ]
    assert tried == [(1, False), (1, True)]
    assert "max_length" in found.value.instead
    assert "qlora" in found.value.instead
    assert (
        found.value.__context__ is None or found.value.__context__.__traceback__ is None
    )  # nothing holds tensors


def test_memory_that_runs_out_inside_the_optimizer_goes_on_from_the_last_checkpoint(
    tiny, tmp_path, monkeypatch
):
    spec = SPEC | DESCENT | {"micro_batch_size": 4, "save_steps": 2}
    plain = train(make(tmp_path / "plain", tiny, "sft", "lora", **spec))
    cell = make(tmp_path / "short", tiny, "sft", "lora", **spec)
    step, calls = torch.optim.SGD.step, []

    @functools.wraps(step)
    def half_moved(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1.0)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", half_moved)
    recovered(cell)
    (told,) = cell.events("oom_retry")
    assert told["step"] == 2  # three steps were whole, but only the second's checkpoint can be trusted
    same(plain.weights(), cell.weights())


def test_evaluation_that_does_not_fit_is_done_again_in_halves(tiny, tmp_path, monkeypatch):
    plain = train(make(tmp_path / "plain", tiny, "sft", "lora", micro_batch_size=4, **SPEC))
    cell = make(tmp_path / "short", tiny, "sft", "lora", micro_batch_size=4, **SPEC)
    device = Device(monkeypatch, cell.folder)
    device.reading = 2
    recovered(cell)
    (told,) = cell.events("oom_retry")
    assert (told["part"], told["step"], told["micro_batch_size"]) == ("eval", 2, 4)
    assert told["settings"]["eval_batch_size"] == 2
    whole, halves = plain.events("eval"), cell.events("eval")
    assert [event["step"] for event in halves] == [2, 4]
    for one, other in zip(whole, halves, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
    same(plain.weights(), cell.weights())


@pytest.mark.parametrize("method", ["grpo", "rloo", "online_dpo"])
def test_answers_that_do_not_fit_are_sampled_in_parts_of_whole_groups(
    tiny, teacher, tmp_path, monkeypatch, method
):
    group = 1 if method == "online_dpo" else 2
    cell = make(tmp_path / "short", tiny, method, "lora", teacher, micro_batch_size=group, **SPEC)
    from transformers import GenerationMixin

    generate, sizes = GenerationMixin.generate, []

    def limited(self, *args, **kwargs):
        size = kwargs["input_ids"].shape[0]
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(size)
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(GenerationMixin, "generate", limited)
    recovered(cell)
    (told,) = cell.events("oom_retry")
    assert (told["part"], told["settings"]["generation_batch_size"]) == ("generate", 4)
    assert all(size % group == 0 for size in sizes)
    assert [event["step"] for event in cell.events("step")] == [1, 2, 3, 4]


def test_other_errors_are_not_taken_for_a_shortage(tiny, tmp_path, monkeypatch):
    from transformers import LlamaModel

    cell = make(tmp_path / "wrong", tiny, "sft", "lora", **SPEC)
    forward = LlamaModel.forward

    @functools.wraps(forward)
    def wrong(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(LlamaModel, "forward", wrong)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        recovered(cell)
    assert not cell.events("oom_retry")


@pytest.mark.parametrize(
    ("words", "short"),
    [
        ("could not create a primitive", True),
        ("could not create a memory object", True),
        ("could not create a primitive descriptor for a matmul primitive", False),
        ("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory", True),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", True),
        ("CUBLAS_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_every_allocator_says_it_in_its_own_words(words, short):
    assert is_shortage(RuntimeError(words)) is short


def test_a_model_that_does_not_fit_is_told_at_once(tiny, tmp_path, monkeypatch):
    from ft_magic.backends import trl

    def too_large(_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    cell = make(tmp_path / "large", tiny, "sft", "lora", **SPEC)
    monkeypatch.setattr(trl, "load_model", too_large)
    with pytest.raises(ShortageError, match="the weights of x do not fit in memory"):
        recovered(cell)
    assert not cell.events("oom_retry")


def test_ppo_goes_on_from_its_last_checkpoint(tiny, teacher, tmp_path, monkeypatch):
    spec = SPEC | {"micro_batch_size": 4, "save_steps": 1, "max_steps": 3}
    plain = train(make(tmp_path / "plain", tiny, "ppo", "lora", teacher, **spec))
    cell = make(tmp_path / "short", tiny, "ppo", "lora", teacher, **spec)
    device = Device(monkeypatch, cell.folder)
    device.training, device.after_step = 2, 2
    recovered(cell)
    (told,) = cell.events("oom_retry")
    assert (told["step"], told["micro_batch_size"]) == (2, 2)
    for one, other in zip(plain.events("step"), cell.events("step"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo", "ppo"])
def test_nothing_of_the_attempt_that_failed_is_held_when_the_next_one_loads(
    tiny, teacher, tmp_path, monkeypatch, method
):
    import gc

    from ft_magic.backends import base_model

    spec = SPEC | {"max_steps": 2, "micro_batch_size": 4, "eval_steps": 1}
    cell = make(tmp_path / "short", tiny, method, "lora", teacher, **spec)
    device = Device(monkeypatch, cell.folder)
    device.training = 2 if method != "dpo" else 4

    def weights():
        return {id(thing) for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Parameter)}

    before = weights()
    left, load = [], base_model.load_model

    def counted(plan):
        left.append(len(weights() - before))
        return load(plan)

    for module in ("trl", "ppo_roles"):
        monkeypatch.setattr(f"ft_magic.backends.{module}.load_model", counted)
    recovered(cell)
    assert len(cell.events("oom_retry")) == 1
    assert len(left) >= 2
    assert not any(left), left


@pytest.mark.slow
@pytest.mark.parametrize("products", ["torch", "auto"])
def test_a_worker_whose_memory_really_ends_goes_on_with_half_the_micro_batch(
    tiny, runs_folder, monkeypatch, products
):
    import resource
    import time

    import ft_magic as ft

    monkeypatch.setenv("FT_MAGIC_MATMUL", products)
    text = "one two three four five six seven eight nine ten " * 5
    run = ft.finetune(
        model=str(tiny), data=[{"prompt": f"Count {i}.", "completion": text} for i in range(512)], max_steps=12,
        batch_size=256, micro_batch_size=256, max_length=256, save_steps=1000, eval_fraction=0, learning_rate=1e-3,
        detach=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(run.metrics()) < 3:
        assert time.monotonic() < deadline, run.logs()
        time.sleep(0.02)
    sizes = [_address_space_bytes(run.pid) for _ in range(150)]
    # Between what it holds and what a step of 256 takes: enough for threads and for a step of 128.
    limit = min(sizes) + (max(sizes) - min(sizes)) * 17 // 20
    resource.prlimit(run.pid, resource.RLIMIT_AS, (limit, limit))
    assert run.wait(120) == "finished", run.logs()
    (told,) = (event for event in run.events() if event.kind == "oom_retry")
    assert told["micro_batch_size"] == 128
    assert "allocate memory" in told["error"]
    steps = [event["step"] for event in run.events() if event.kind == "step"]
    assert steps == list(range(1, 13))


def _address_space_bytes(pid):
    import time
    from pathlib import Path

    time.sleep(0.005)
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize"))


def test_the_live_chart_shows_a_shortage_where_it_was():
    from ft_magic.events import Event
    from ft_magic.ui.history import History

    told = {
        "step": 2,
        "message": "out of memory after step 2: micro-batch 4 -> 2.",
        "fix": "The batch stays the same.",
    }
    history = History([Event("step", 1.0, {"step": 2, "loss": 1.0}), Event("oom_retry", 2.0, told)])
    (mark,) = (mark for mark in history.marks if mark.kind == "out of memory")
    assert (mark.step, mark.text) == (2, told["message"])
    assert history.warnings[0]["fix"] == told["fix"]


def test_ppos_answers_do_not_change_when_they_are_sampled_in_parts(tiny, teacher, tmp_path, monkeypatch):
    spec = SPEC | {"micro_batch_size": 4, "save_steps": 1, "max_steps": 2, "eval_steps": 5}
    plain = train(make(tmp_path / "plain", tiny, "ppo", "lora", teacher, **spec))
    cell = make(tmp_path / "short", tiny, "ppo", "lora", teacher, **spec)
    from ft_magic.backends import ppo

    sample, sizes = ppo.sample, []

    def limited(seat, prompts, *args, **kwargs):
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(len(prompts))
        return sample(seat, prompts, *args, **kwargs)

    monkeypatch.setattr(ppo, "sample", limited)
    recovered(cell)
    (told,) = cell.events("oom_retry")
    assert (told["part"], told["settings"]["generation_batch_size"]) == ("generate", 2)
    assert set(sizes) == {2}
    for one, other in zip(plain.events("step"), cell.events("step"), strict=True):
        assert other["metrics"]["reward"] == pytest.approx(one["metrics"]["reward"], rel=1e-5)
