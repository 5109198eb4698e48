"""What a finished run gives: evaluation, answers, merge, chain, script, report. Tiny model, real processes."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rows import demos, pairs
from test_worker import SPEC, tensors, train

import ft_magic as ft
from ft_magic import jobs
from ft_magic.errors import ExportError, RunError, SpecError
from ft_magic.export.script import script


@pytest.fixture(scope="module")
def run(tiny, module_runs):
    """A finished LoRA run whose adapter makes a difference."""
    yield train(tiny, max_steps=20, learning_rate=3e-2, save_steps=20, eval_steps=20, name="taught")
    jobs.unload()


def test_evaluation_agrees_with_the_loss_training_told(run):
    found = run.evaluate(samples=2, max_new_tokens=8)
    told = [event for event in run.events() if event.kind == "eval"][-1]
    assert found.loss_after == pytest.approx(told["loss"], rel=1e-3)
    assert found.loss_after < found.loss_before - 0.5
    assert found.verdict.startswith("better")
    assert len(found.samples) == 2
    assert "evaluated" in {event.kind for event in run.events()}


def test_a_score_function_judges_both_sides(run):
    seen = []

    def score(prompt, answer, expected):
        seen.append((prompt, answer, expected))
        return {"has colour": "colour" in expected, "half": 0.5}

    found = run.evaluate(samples=2, score=score, max_new_tokens=4)
    assert len(seen) == 1 + 4  # tried out once, then both answers to both prompts
    assert found.scores_before == found.scores_after == {"has colour": 1.0, "half": 0.5}
    with pytest.raises(SpecError, match="score returned str"):
        run.evaluate(samples=1, score=lambda *_: "good", max_new_tokens=2)
    with pytest.raises(SpecError, match="fails on the first held-out row: KeyError"):
        run.evaluate(samples=1, score=lambda *_: {}["x"], max_new_tokens=2)


def test_a_reward_run_scores_both_sides_and_answers_of_ones_own(run, tiny):
    judge = ft.finetune(
        model=str(tiny),
        data=pairs(),
        method="reward",
        max_steps=3,
        batch_size=4,
        eval_fraction=0.2,
        detach=True,
    )
    assert judge.wait(120) == "finished", judge.logs()
    found = run.evaluate(samples=2, score=judge, max_new_tokens=4)
    name = f"score by {judge.name}"
    before = judge.score([s.prompt for s in found.samples], [s.before for s in found.samples])
    assert found.scores_before[name] == pytest.approx(sum(before) / len(before), abs=1e-5)
    with pytest.raises(SpecError, match="trained with method sft, which gives no scores"):
        run.score(["a"], ["b"])
    with pytest.raises(SpecError, match="2 prompts and 1 answers do not pair up"):
        judge.score(["a", "b"], ["c"])


def test_the_base_answers_otherwise_than_the_trained_model_and_batches_like_singles(run):
    prompts = ["Name colour 3.", "Name colour 4, please, and be quick about it."]
    trained = run.generate(prompts, max_new_tokens=12)
    assert trained != run.generate(prompts, max_new_tokens=12, base=True)
    assert trained == [run.generate([prompt], max_new_tokens=12)[0] for prompt in prompts]


def test_the_warm_process_stays_for_the_next_question(run):
    run.generate(["a"], max_new_tokens=2)
    first = jobs._warm.pid
    run.generate(["b"], max_new_tokens=2)
    assert jobs._warm.pid == first
    jobs.unload()
    assert jobs._warm is None


def test_a_dead_warm_process_is_told_and_replaced(run):
    run.generate(["a"], max_new_tokens=2)
    jobs._warm._child.kill()
    jobs._warm._child.wait()
    assert len(run.generate(["a"], max_new_tokens=2)) == 1


def test_the_merged_model_is_base_plus_adapter(run, tiny):
    merged = run.merge()
    before, after = tensors(tiny / "model.safetensors"), tensors(merged / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    adapter = tensors(run.folder.adapter / "adapter_model.safetensors")
    low, high = (
        adapter[f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.weight"] for side in "AB"
    )
    expected = before[name].float() + 2.0 * high @ low  # alpha / r = 2
    assert (after[name].float() - expected).abs().max() < 2**-8 * expected.abs().max()
    assert run.merge() == merged
    assert sum(event.kind == "merged" for event in run.events()) == 1


def test_a_run_can_start_from_another_runs_result(run):
    second = ft.finetune(
        model=run, data=pairs(), method="dpo", **(SPEC | {"max_steps": 2, "eval_fraction": 0})
    )
    assert second.wait(120) == "finished", second.logs()
    assert second.plan.model_folder == str(run.folder.merged)
    assert any("taught" in note for note in second.plan.notes)


def test_the_report_is_one_page_without_network_or_script(run):
    text = run.report().read_text()
    assert "taught" in text
    assert "data:image/svg+xml;base64," in text
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_without_a_result_the_way_on_is_named(tiny, runs_folder):
    run = ft.finetune(
        model=str(tiny), data=demos(), backend="fake", **(SPEC | {"trainer": {"fake_fail_at": 1}})
    )
    run.wait(30)
    with pytest.raises(RunError, match="no trained model yet") as error:
        run.generate(["a"])
    assert f"%ft resume {run.name}" in error.value.instead
    with pytest.raises(ExportError):
        run.certificate()


def test_evaluating_without_held_out_rows_says_how_to_get_them(tiny, runs_folder):
    run = ft.finetune(model=str(tiny), data=demos(), backend="fake", **(SPEC | {"eval_fraction": 0}))
    run.wait(30)
    with pytest.raises(SpecError, match="held nothing out") as error:
        run.evaluate()
    assert "eval_fraction" in error.value.instead


def test_the_script_is_valid_python_with_the_plans_numbers(run):
    text = run.script()
    compile(text, "script.py", "exec")
    assert "ft_magic" not in text.split("\n", 6)[-1].replace(str(run.path), "")
    assert "learning_rate=0.03" in text
    assert "max_steps=20" in text


TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bad one?"},
    {"role": "assistant", "content": "Wrong.", "train": False},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]


@pytest.mark.parametrize(
    ("train_on", "answers"), [("answers", ["Hello.", "See you."]), ("last", ["See you."]), ("all", None)]
)
def test_the_script_trains_the_answers_the_run_trained(run, train_on, answers):
    plan = replace(run.plan, spec=run.plan.spec.model_copy(update={"train_on": train_on}))
    text = script(plan, run.path)
    made: list[dict] = []
    known = {"Dataset": SimpleNamespace(from_list=made.extend), "rows": [{"messages": TALK}]}
    exec(text[text.index("def turns") : text.index("trainer = ")], known)
    if answers is None:
        assert [turn["content"] for turn in made[0]["messages"]] == [turn["content"] for turn in TALK]
        return
    assert [row["completion"][0]["content"] for row in made] == answers
    assert all(row["prompt"][-1]["role"] == "user" for row in made)
    assert not any("train" in turn for row in made for turn in [*row["prompt"], *row["completion"]])


@pytest.mark.slow
def test_the_script_trains_to_the_runs_losses(run, tmp_path):
    (tmp_path / "script.py").write_text(run.script())
    code = (
        "import json, runpy; found = runpy.run_path('script.py');"
        "print(json.dumps([h['loss'] for h in found['trainer'].state.log_history if 'loss' in h]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    losses = json.loads(out.stdout.splitlines()[-1])
    # TRL trains the newline after the stop token too, so the losses agree only roughly.
    assert losses[0] == pytest.approx(run.metrics()[0]["loss"], rel=0.2)
    assert losses[-1] < losses[0]
