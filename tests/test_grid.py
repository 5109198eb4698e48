"""Every combination of method and update trains, changes only what it should, saves, loads, resumes and answers."""

import shutil

import pytest
from cells import make, train
from tiny_llama import make_model

from ft_magic.planning.plans import grid

torch = pytest.importorskip("torch", reason="training libraries are not installed")

# Every method and every update once in the default run; the rest of the grid with the slow tests.
QUICK_UPDATES = ("sft", "dpo")
CELLS = [
    pytest.param(
        cell.method, cell.update, id=f"{cell.method}-{cell.update}",
        marks=[] if cell.update == "lora" or cell.method == "sft" else pytest.mark.slow,
    )
    for cell in grid(cpu=True)
    if not cell.reason and cell.backend != "unsloth"
]  # fmt: skip
STOP = 2  # of the tiny model, which pads with it too
RATE = 1e-2  # large enough for two steps to move every weight that trains


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("teacher") / "teacher", seed=1)


@pytest.fixture
def seen(monkeypatch):
    """The trainer of a cell and a copy of all its weights from before training."""
    from ft_magic.backends import trl

    kept = {}
    build = trl._trainer

    def remember(*args, **kwargs):
        trainer = build(*args, **kwargs)
        kept["trainer"] = trainer
        kept["before"] = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        return trainer

    monkeypatch.setattr(trl, "_trainer", remember)
    return kept


def different(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize(("method", "update"), CELLS)
def test_a_cell_trains_saves_loads_resumes_and_answers(tiny, teacher, tmp_path, seen, method, update):
    cell = train(make(tmp_path / "run", tiny, method, update, teacher, learning_rate=RATE))
    assert (cell.outcome.status, cell.outcome.step) == ("finished", 2)
    assert [event["step"] for event in cell.events("step")] == [1, 2]
    assert cell.events("eval")
    if "trainer" not in seen:  # ft_magic's own PPO loop; test_ppo.py looks into its roles
        model = _loaded(cell, tiny).model
    else:
        _only_what_trains_has_changed(seen)
        model = seen["trainer"].model
    _the_saved_result_is_the_trained_model(cell, model, tiny)
    first = _set_aside(cell)
    train(cell, cell.folder.checkpoints / "checkpoint-1")
    assert not different(cell.weights(), first), "a resumed run ended with other weights"


def _only_what_trains_has_changed(seen):
    trained = []
    for name, weight in seen["trainer"].model.named_parameters():
        same = torch.equal(weight, seen["before"][name])
        if weight.requires_grad:
            trained.append(not same)
        else:
            assert same, f"{name} is frozen and has changed"
    assert any(trained)


def _the_saved_result_is_the_trained_model(cell, model, tiny):
    ids = torch.tensor([[*range(3, 13), STOP]])
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
    if cell.plan.method.score_head:
        from ft_magic.rewards import model as reward_model

        found = reward_model.load(cell.folder.path, "cpu").scores([ids[0].tolist()])
        assert found == pytest.approx(expected[0].tolist(), abs=1e-4)
        return
    from ft_magic.evaluate.generate import answer, forget

    loaded = _loaded(cell, tiny)
    with torch.no_grad():
        logits = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
    assert torch.allclose(logits, expected, atol=1e-4)
    texts = answer(loaded, [ids[0].tolist()], max_new_tokens=4, progress=lambda *_: None)
    assert isinstance(texts[0], str)
    forget()


def _loaded(cell, tiny):
    from ft_magic.evaluate.generate import load

    adapter = str(cell.folder.adapter) if cell.folder.adapter.exists() else None
    return load(str(tiny if adapter else cell.folder.model), adapter, cell.plan.update.bits)


def _set_aside(cell):
    """Take the result and the last checkpoint away, as if the run had stopped after its first step."""
    weights = cell.weights()
    shutil.rmtree(cell.folder.adapter if cell.folder.adapter.exists() else cell.folder.model)
    shutil.rmtree(cell.folder.checkpoints / "checkpoint-2")
    return weights
