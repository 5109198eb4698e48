"""What methods need and cannot get is answered in one clear error; rows that cannot be used are counted and told."""

import json
import math
import re

import pytest
from cells import make, train
from judge_server import longer, serving
from rows import demos, labels, pairs, prompts, texts

import ft_magic as ft
from ft_magic.axes import METHODS
from ft_magic.errors import DataError, RunError, SpecError
from ft_magic.judging import preferences
from ft_magic.rewards.loaded import ITEMS_FILE

BRIEF = {"reward": "length", "max": 3}


def asked(tiny, data, **more):
    return ft.finetune(model=str(tiny), data=data, **({"backend": "fake", "max_steps": 1} | more))


def only_prompts(rows=None):
    return ft.load_data(rows or prompts(), signal="prompt")


def refused(kind, tiny, data, **more):
    """Return the error of a call that must fail before anything is made."""
    with pytest.raises(kind) as error:
        asked(tiny, data, **more)
    assert len(ft.runs()) == 0
    assert error.value.instead
    return error.value


# -- another signal


@pytest.mark.parametrize(
    ("method", "rows", "found", "needed", "conversion"),
    [
        ("kto", pairs(), "'pair' rows (prompt, chosen and rejected)", "'label'", "each pair becomes a good and a bad answer"),
        ("grpo", demos(), "'demo' rows (prompt and completion)", "'prompt'", "the answer leaves the prompt"),
        ("sft", labels(), "'label' rows (prompt and completion, with label)", "'demo'", "the good answers are kept"),
    ],
)  # fmt: skip
def test_another_signal_is_named_with_what_is_needed_and_the_conversion_that_works(
    tiny, runs_folder, method, rows, found, needed, conversion
):
    error = refused(DataError, tiny, rows, method=method)
    assert found in error.problem
    assert f"method '{method}' learns from {needed} rows" in error.problem
    assert f"data.to({needed}) ({conversion}" in error.instead
    converted = ft.load_data(rows).to(needed.strip("'"))
    rewards = {"rewards": BRIEF} if METHODS[method].needs else {}
    assert asked(tiny, converted, method=method, **rewards).status == "finished"
    assert any("converted" in line or "from" in line for line in converted.lineage)


def test_where_there_is_no_conversion_the_methods_that_fit_are_named(tiny, runs_folder):
    error = refused(DataError, tiny, texts(), method="dpo")
    assert "carries 'text' rows" in error.problem
    assert "data.to" not in error.instead
    assert error.instead.startswith("Use method: cpt")


# -- what a method cannot do without


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.needs])
def test_what_a_method_needs_is_named_with_what_to_write(tiny, runs_folder, method):
    (need,) = METHODS[method].needs
    error = refused(SpecError, tiny, only_prompts(), method=method)
    assert error.problem == f"method '{method}' needs {need.replace('|', ' or ')}, and none is given."
    assert all(f"{word}:" in error.instead for word in need.split("|"))


@pytest.mark.parametrize(
    ("data", "more", "said", "instead"),
    [
        (pairs(), {"method": "dpo", "loss_type": "sigmod"}, "Did you mean 'sigmoid'?", "sigmoid, hinge, ipo"),
        (pairs(), {"method": "orpo", "loss_type": "hinge"}, "loss_type has no meaning for method 'orpo'", "dpo"),
        (demos(), {"num_generations": 4}, "num_generations has no meaning for method 'sft'", "grpo, rloo"),
        (demos(), {"stages": {"reward": {"max_steps": 2}}}, "stages has no meaning for method 'sft'", "rlhf, rlaif"),
        (demos(), {"rewards": BRIEF}, "rewards has no meaning for method 'sft'", "grpo, rloo, ppo, online_dpo"),
        (labels(), {"method": "kto", "batch_size": 1}, "batch_size 1 is too small: method 'kto' needs 2", "batch_size: 4"),
        (labels(), {"method": "kto", "batch_size": 4, "micro_batch_size": 1}, "micro_batch_size 1", "4, 2"),
        (
            demos(), {"update": "prefix", "gradient_checkpointing": True},
            "gradient_checkpointing and update 'prefix' do not go together", "Leave gradient_checkpointing out",
        ),
    ],
)  # fmt: skip
def test_a_key_without_a_meaning_is_refused_with_what_reads_it(tiny, runs_folder, data, more, said, instead):
    error = refused(SpecError, tiny, data, **more)
    assert said in error.problem
    assert instead in error.instead


def test_a_teacher_is_refused_by_a_method_that_learns_from_none(tiny, runs_folder):
    error = refused(SpecError, tiny, pairs(), method="dpo", teacher=str(tiny))
    assert "teacher has no meaning for method 'dpo'" in error.problem
    assert "distill" in error.instead


@pytest.mark.parametrize("update", ["lora", "qlora", "prompt", "full"])
def test_checkpointing_is_refused_for_no_other_update(tiny, runs_folder, update):
    plan = ft.plan(model=str(tiny), data=demos(), update=update, gradient_checkpointing=True)
    assert plan.settings.gradient_checkpointing


# -- rewards that fail


def raises(completion, answer):
    raise KeyError(answer)


def one_for_all(completions):
    return [1.0]


def not_a_number(completion):
    return math.nan


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raises, r"reward 'raises' failed with KeyError: 'red' .* on sample row 0 \(prompt: 'Name colour 0.', answer: 'red'\)"),
        (one_for_all, r"reward 'one_for_all' returned 1 scores for 12 answers"),
        (not_a_number, r"reward 'not_a_number' returned nan, which is no finite number on sample row 0 \(prompt: 'Name"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["grpo", "ppo", "online_dpo"])
def test_a_reward_that_fails_is_named_before_anything_starts(tiny, runs_folder, method, function, said):
    error = refused(SpecError, tiny, only_prompts(), method=method, rewards=function, eval_fraction=0)
    assert re.search(said, error.problem)
    assert f"%%reward_fn {function.__name__}" in error.instead


def raises_late(completion, prompt):
    number = int(prompt.split()[-1].strip("."))
    return 1.0 / (number < 4)


def short_late(completions, prompts):
    return [1.0] * (len(completions) - any(int(prompt.split()[-1].strip(".")) >= 4 for prompt in prompts))


def nan_late(completion, prompt):
    return math.nan if int(prompt.split()[-1].strip(".")) >= 4 else 1.0


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raises_late, r"reward 'raises_late' failed with ZeroDivisionError: .* on answer 0 of \d+ \(prompt: 'Name colour \d+.', answer: "),
        (short_late, r"reward 'short_late' returned 7 scores for 8 answers"),
        (nan_late, r"reward 'nan_late' returned nan, which is no finite number on answer 0 of \d+ \(prompt: 'Name colour \d+.', ans"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["grpo", "rloo", "online_dpo"])
def test_a_reward_that_fails_on_a_later_row_is_named_with_it(tiny, tmp_path, method, function, said):
    cell = make(
        tmp_path / "run", tiny, method, "lora", rewards=function
    )  # tried on rows 0 to 3, trained on the others
    with pytest.raises(RunError, match=said) as error:
        train(cell)
    assert f"%%reward_fn {function.__name__}" in error.value.instead
    assert not cell.folder.adapter.exists()


def test_a_ppo_reward_that_fails_on_a_later_row_is_named_with_it(tiny, tmp_path):
    cell = make(tmp_path / "run", tiny, "ppo", "lora", rewards=nan_late)
    with pytest.raises(
        RunError, match=r"reward 'nan_late' returned nan, which is no finite number on answer 0 of 4"
    ):
        train(cell)


def test_a_run_whose_reward_fails_later_ends_failed_with_that_message(tiny, runs_folder):
    run = asked(
        tiny, only_prompts(), method="grpo", backend="trl", rewards=nan_late, eval_fraction=0, detach=True, batch_size=8,
        max_steps=4, num_generations=2, max_completion_length=4,
    )  # fmt: skip
    assert run.wait(120) == "failed"
    with pytest.raises(RunError, match="reward 'nan_late' returned nan") as error:
        run.attach()
    assert "prompt: 'Name colour" in error.value.problem
    (failed,) = [event for event in run.events() if event.kind == "failed"]
    assert "reward 'nan_late' returned nan" in failed["message"]


# -- a judge that cannot be reached


def test_nothing_is_lost_when_the_judge_goes_away_and_the_run_goes_on_when_it_is_back(
    tiny, tmp_path, runs_folder, monkeypatch
):
    slept = []
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: slept.append)
    preferences._bench.cache_clear()
    answered, out = [], []

    def answer(text):
        if out:
            return 503, "down for repair", {}
        answered.append(text)
        if len(answered) == 11:
            out.append(True)
        return longer(text)

    with serving(answer) as server:
        judge = {"base_url": server.url, "model": "wise", "parallel": 1}
        cell = judged_by(judge, tmp_path / "run", tiny)
        with pytest.raises(
            RunError, match=r"judge wise at .* did not answer in 6 tries: 503 down for repair"
        ) as error:
            train(cell)
        verdicts = cell.folder.path / "verdicts.jsonl"
        assert len(verdicts.read_text().splitlines()) == len(answered) == 11
        assert "replies are stored in" in error.value.problem
        assert (
            "run the same again: it goes on where it stopped, nothing is asked twice" in error.value.instead
        )
        assert (cell.folder.checkpoints / "checkpoint-1").exists()
        assert not cell.folder.adapter.exists()

        out.clear()
        preferences._bench.cache_clear()  # as a new worker
        resumed = train(cell, cell.folder.checkpoints / "checkpoint-1")
        assert resumed.outcome.status == "finished"
        assert len(answered) == len(set(answered)) == len(verdicts.read_text().splitlines())
        never_out = train(judged_by(judge, tmp_path / "never_out", tiny))
    weights = never_out.weights()
    assert all((weights[name] == value).all() for name, value in resumed.weights().items())


def judged_by(judge, path, tiny):
    cell = make(path, tiny, "online_dpo", "lora", judge=judge, learning_rate=1e-2)
    (path / ITEMS_FILE).unlink()  # the judge alone
    return cell


# -- rows that cannot be used

LONG = "word " * 300


def fed(cell, rows):
    cell.folder.train_rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cell


def left_out(cell):
    return [event["message"] for event in cell.events("warning") if "left out" in event["message"]]


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.signal == "pair"])
def test_pairs_that_teach_nothing_are_left_out_and_counted(tiny, tmp_path, method):
    rows = pairs(16)
    for at in (3, 5):
        rows[at]["rejected"] = rows[at]["chosen"]
    rows[7]["chosen"] = " "
    rows[9]["prompt"] = LONG
    cell = train(fed(make(tmp_path / "run", tiny, method, "lora"), rows))
    assert cell.outcome.status == "finished"
    (told,) = left_out(cell)
    assert told.startswith("4 training rows are left out: ")
    assert "2 x chosen and rejected are equal within max_length" in told
    assert "1 x an answer is empty" in told
    assert "1 x the prompt leaves no room for an answer within max_length" in told


@pytest.mark.parametrize(
    ("method", "rows"),
    [("kto", labels(16)), ("spin", demos(16)), ("grpo", prompts(16)), ("distill", prompts(16))],
)
def test_other_rows_that_cannot_be_used_are_left_out_and_counted(tiny, tmp_path, method, rows):
    rows = [dict(row) for row in rows]
    rows[2]["prompt"] = LONG
    said = ["1 x the prompt leaves no room for an answer within max_length"]
    if "completion" in rows[0]:
        rows[4]["completion"] = ""
        said.append("1 x an answer is empty")
    cell = train(fed(make(tmp_path / "run", tiny, method, "lora", tiny), rows))
    (told,) = left_out(cell)
    assert told.startswith(f"{len(said)} training rows are left out: ")
    assert all(words in told for words in said)


def test_long_prompts_of_ppo_are_left_out_and_counted(tiny, tmp_path):
    rows = prompts(16)
    rows[2]["prompt"] = LONG
    cell = train(fed(make(tmp_path / "run", tiny, "ppo", "lora"), rows))
    (told,) = left_out(cell)
    assert told.startswith("1 training prompts are left out: 1 x ")


def test_a_longer_row_is_told_in_the_plan(tiny, runs_folder):
    rows = pairs()
    rows[9]["prompt"] = LONG
    plan = ft.plan(model=str(tiny), data=rows, method="dpo", eval_fraction=0)
    assert any("1 of 24 rows are longer than 256 tokens" in warning.message for warning in plan.warnings)


def test_empty_answers_are_kept_out_when_read_and_said_in_the_plan(tiny, runs_folder):
    rows = pairs()
    rows[5]["chosen"] = ""
    plan = ft.plan(model=str(tiny), data=rows, method="dpo", eval_fraction=0)
    assert plan.examples == 23
    assert "1 rows kept out: 1 x empty chosen answer" in plan.notes


def test_equal_answers_are_a_problem_in_the_data_report():
    rows = pairs()
    rows[3]["rejected"] = rows[3]["chosen"]
    assert "1 row with equal chosen and rejected answers: nothing to learn" in str(
        ft.load_data(rows).report()
    )


@pytest.mark.parametrize("method", METHODS)
def test_where_no_row_can_be_used_one_error_says_why(tiny, tmp_path, method):
    cell = make(tmp_path / "run", tiny, method, "lora", tiny)
    unusable = {"text": ""} if METHODS[method].signal == "text" else {"prompt": LONG}
    rows = [json.loads(line) | unusable for line in cell.folder.train_rows.read_text().splitlines()]
    with pytest.raises(DataError, match=r"none of the training (rows|prompts) can be used: 20 x") as error:
        train(fed(cell, rows))
    assert "%ft template" in error.value.instead
    assert not cell.folder.adapter.exists()
