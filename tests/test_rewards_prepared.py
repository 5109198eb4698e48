import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from situations import situation

from ft_magic import rewards
from ft_magic.errors import RunError, SpecError
from ft_magic.planning import decide
from ft_magic.rewards import trial
from ft_magic.rewards.items import read
from ft_magic.run import Run
from ft_magic.spec import parse

ROWS = [
    {"prompt": "What is 2 + 2?", "answer": "4", "level": 1},
    {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of Peru?"}], "answer": "Lima", "level": 2},
]  # fmt: skip
COLUMNS = ["prompt", "answer", "level"]
BONUS = 0.5


def ends_right(completion, answer):
    return 1.0 if completion.strip().endswith(answer) else 0.0


def easy_first(completions, prompts, level):
    return [BONUS / n + len(p) / 100 for n, p in zip(level, prompts, strict=True)]


def always_one(completion):
    return 1


def picky(completion, answer):
    return completion[0] == answer[0]


def plan_of(tiny, **spec):
    made = decide.make(parse({"model": str(tiny), "data": "x", **spec}), situation())
    return replace(made, model_folder=str(tiny))


@pytest.fixture
def plan(tiny):
    return plan_of(tiny)


def loaded(value, tmp_path, plan, **more):
    rewards.prepare(value, COLUMNS, ROWS).write(tmp_path)
    return rewards.load(tmp_path, plan, **more)


# -- what can be given


def test_every_form_of_rewards_becomes_items_and_plain_words():
    value = [
        ends_right,
        "exact_answer",
        {"reward": "length", "weight": 0.5, "max": 10, "name": "brief"},
        {"reward": easy_first, "weight": 2},
    ]
    items = read(value)
    assert [(i.name, i.kind, i.weight) for i in items] == [
        ("ends_right", "function", 1.0),
        ("exact_answer", "builtin", 1.0),
        ("brief", "builtin", 0.5),
        ("easy_first", "function", 2.0),
    ]
    words = rewards.describe(value)
    assert words == [
        "ends_right",
        "exact_answer",
        {"reward": "length", "weight": 0.5, "max": 10, "name": "brief"},
        {"reward": "easy_first", "weight": 2},
    ]
    assert json.loads(json.dumps(words)) == words
    assert rewards.describe(ends_right) == ["ends_right"]


def test_a_built_in_that_stands_twice_is_numbered():
    two = [{"reward": "regex", "pattern": "a"}, {"reward": "regex", "pattern": "b"}]
    assert [item.name for item in read(two)] == ["regex", "regex_2"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "rewards is an empty list."),
        ("exact_anser", "reward 'exact_anser' does not exist. Did you mean 'exact_answer'?"),
        (5, "rewards: 5 (int) is no reward."),
        ([None], "rewards: None (NoneType) is no reward."),
        ({"weight": 2}, "rewards: {'weight': 2} does not say which reward."),
        ({"reward": "length", "max": 5, "weight": "two"}, "reward 'length': weight is 'two', which is no number."),
        ({"reward": "length", "max": 5, "weight": float("nan")}, "reward 'length': weight is nan, which is no number."),
        ({"reward": "length", "max": 5, "name": "a b"}, "reward 'length': name is 'a b', which is no word of letters, digits and _."),
        ({"reward": ends_right, "min": 5}, "reward 'ends_right' takes no parameters (a function's settings are its own constants), but has: min."),
        ([ends_right, ends_right], "rewards: two of them are called 'ends_right'."),
        ({"reward": "no_repetition", "weight": 0}, "rewards: every weight is 0, so every answer scores the same."),
    ],
)  # fmt: skip
def test_what_is_no_reward_is_named(value, problem):
    with pytest.raises(SpecError) as caught:
        read(value)
    assert caught.value.problem == problem


# -- trying out


def test_answers_are_tried_right_wrong_and_made_up():
    tried = trial.attempts(ROWS, COLUMNS)
    assert list(zip(tried.rows, tried.completions, tried.kinds, strict=True)) == [
        (0, "4", "its answer"),
        (0, "Lima", "another row's answer"),
        (0, "I do not know.", "made up"),
        (1, "Lima", "its answer"),
        (1, "4", "another row's answer"),
        (1, "The answer is 7.", "made up"),
    ]
    assert tried.columns == {"answer": ["4"] * 3 + ["Lima"] * 3, "level": [1] * 3 + [2] * 3}


def test_rows_without_an_answer_are_tried_with_made_up_ones():
    tried = trial.attempts([{"prompt": "Hi"}, {"prompt": "Ho"}, {"prompt": "He"}], ["prompt"])
    assert tried.completions == list(trial.MADE_UP)


def test_prepare_tells_what_each_reward_did():
    prepared = rewards.prepare([ends_right, "exact_answer"], COLUMNS, ROWS)
    assert [made.scores for made in prepared.trials] == [(1.0, 0.0, 0.0, 1.0, 0.0, 0.0)] * 2
    assert prepared.trials[0].mean == pytest.approx(1 / 3)
    assert prepared.trials[0].variance == pytest.approx(2 / 9)
    assert prepared.cautions == ()


def test_a_reward_that_scores_everything_alike_is_a_caution():
    ((problem, fix),) = rewards.prepare(always_one, COLUMNS, ROWS).cautions
    assert problem == (
        "reward 'always_one' scores all 6 tried answers, right, wrong and empty ones, 1: training would learn "
        "nothing from it."
    )
    assert fix


def test_a_slow_reward_is_a_caution():
    tried = trial.attempts(ROWS, COLUMNS)
    slow = trial.Trial("slow", (0.0, 1.0, 0.0, 0.0, 0.0, 1.0), 0.6, tried)
    assert [problem for problem, _ in slow.cautions()] == [
        "reward 'slow' takes 0.1 s an answer: 6 s for a step of 64 answers."
    ]


def test_a_function_that_fails_is_named_with_row_prompt_and_answer():
    rows = [{"prompt": f"Question {i}?", "answer": "yes"} for i in range(3)]
    with pytest.raises(SpecError) as caught:
        rewards.prepare(picky, ["prompt", "answer"], rows)
    assert re.fullmatch(
        r"reward 'picky' failed with IndexError: string index out of range \(line \d+: return completion\[0\] == "
        r"answer\[0\]\) on sample row 2 \(prompt: 'Question 2\?', answer: ''\)\.",
        caught.value.problem,
    )


def test_a_function_whose_use_of_something_has_changed_is_refused(monkeypatch):
    monkeypatch.setattr(trial, "MADE_UP", ("a",))
    source = rewards.prepare(easy_first, COLUMNS, ROWS).source
    monkeypatch.setattr(
        "ft_magic.rewards.source.gather", lambda _: source.replace("BONUS = 0.5", "BONUS = 0.75")
    )
    with pytest.raises(SpecError, match=r"scores 0.64 here and 0.89 from its source alone \(sample row 0\)"):
        rewards.prepare(easy_first, COLUMNS, ROWS)


def test_a_random_reward_is_told_and_allowed():
    prepared = rewards.prepare(by_chance, COLUMNS, ROWS)
    assert prepared.notes == ("Reward 'by_chance' scores the same answer differently each time.",)


def by_chance(completion):
    import random

    return random.random()


# -- the run folder


def test_rewards_travel_through_the_run_folder(tmp_path, plan):
    value = [ends_right, {"reward": easy_first, "weight": 2}, {"reward": "length", "max": 2, "weight": -1}]
    found = loaded(value, tmp_path, plan)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rewards.json", "rewards.py"]
    assert (found.names, found.weights) == (["ends_right", "easy_first", "length"], [1.0, 2.0, -1.0])
    columns = {"answer": ["4", "Lima"], "level": [1, 2]}
    scores = found.scores(["ab", "abcd"], ["It is 4", "Lima"], columns)
    # 0.5/1 + 2/100, 0.5/2 + 4/100; three words against two allowed: 2 - 3/2
    assert scores == [[1.0, 1.0], [pytest.approx(0.52), pytest.approx(0.29)], [0.5, 1.0]]
    assert found.total(["ab", "abcd"], ["It is 4", "Lima"], columns) == pytest.approx([1.54, 0.58])
    assert rewards.load(tmp_path, plan, without=["easy_first"]).names == ["ends_right", "length"]
    assert [item.kind for item in rewards.read_items(tmp_path)] == ["function", "function", "builtin"]


def test_a_run_folder_without_rewards_is_told(tmp_path, plan):
    with pytest.raises(RunError, match="cannot be read: FileNotFoundError"):
        rewards.load(tmp_path, plan)
    (tmp_path / "rewards.json").write_text('{"rewards": [{"nonsense": 1}]}')
    with pytest.raises(RunError, match="cannot be read: TypeError"):
        rewards.read_items(tmp_path)


def test_a_reward_that_fails_in_training_is_named_with_its_answer(tmp_path, plan):
    rewards.prepare(picky, ["prompt", "answer"], ROWS[:1]).write(tmp_path)
    found = rewards.load(tmp_path, plan)
    with pytest.raises(RunError) as caught:
        found.scores(["A?", "B?"], ["ab", ""], {"answer": ["a", "b"]})
    assert caught.value.problem.startswith(
        "reward 'picky' failed with IndexError: string index out of range (line "
    )
    assert caught.value.problem.endswith(" on answer 1 of 2 (prompt: 'B?', answer: '').")
    with pytest.raises(RunError, match="asks for 'answer', which is no column of these rows"):
        found.scores(["A?"], ["a"], {})


# -- reward models and judges


@pytest.fixture(scope="module")
def reward_run(tiny, tmp_path_factory):
    """A run folder with a random reward model: an adapter and a head over the tiny model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("runs") / "2026-reward"
    folder.mkdir()
    torch.manual_seed(3)
    base = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1, dtype=torch.float32)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "score" in name:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder / "adapter")
    plan = plan_of(tiny, method="reward")
    (folder / "plan.json").write_text(json.dumps(plan.to_dict()))
    (folder / "run.json").write_text(json.dumps({"name": folder.name, "status": "finished", "pid": None}))
    return Run(folder)


def stock_score(tiny, run, messages):
    """Score one conversation with the library's own model, unpadded: its pooling then takes the last token."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run.folder.adapter).eval()
    model.config.pad_token_id = base.config.pad_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    stop = text.rindex("<|im_end|>") + len("<|im_end|>")
    ids = tokenizer(text[:stop], add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        return float(model(input_ids=ids).logits[0, 0])


def test_a_reward_run_scores_prompt_and_answer_at_the_stop_token(tiny, reward_run, tmp_path, plan):
    found = loaded([reward_run, ends_right], tmp_path, plan)
    assert found.names == ["run_2026_reward", "ends_right"]
    long = "A colour is what light of a wave length looks like. " * 3
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    prompts, answers = ["Name a colour.", "Hi", chat], ["Blue.", long, "Hello!"]
    scores = found.scores(prompts, answers, {"answer": ["Blue.", "b", "c"], "level": [1, 1, 1]})
    user = {"role": "user"}
    talks = [[user | {"content": "Name a colour."}], [user | {"content": "Hi"}], chat]
    wanted = [
        stock_score(tiny, reward_run, [*talk, {"role": "assistant", "content": answer}])
        for talk, answer in zip(talks, answers, strict=True)
    ]
    assert scores[0] == pytest.approx(wanted, abs=1e-5)
    assert len({round(score, 4) for score in wanted}) == 3
    assert scores[1] == [1.0, 0.0, 0.0]


def test_a_run_that_gives_no_scores_is_refused(tiny, reward_run, tmp_path):
    folder = tmp_path / "chat"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"name": "chat", "status": "finished", "pid": None}))
    (folder / "plan.json").write_text(json.dumps(plan_of(tiny).to_dict()))
    with pytest.raises(SpecError, match="run chat trained with method sft, which gives no scores"):
        read(Run(folder))
    (folder / "plan.json").write_text(json.dumps(plan_of(tiny, method="reward").to_dict()))
    with pytest.raises(SpecError, match="run chat is finished, so it has no reward model yet"):
        read(str(folder))
    assert read(str(reward_run.path))[0].parameters == {"path": str(reward_run.path)}
    assert rewards.describe([reward_run]) == ["2026-reward"]


def test_a_judge_grades_answers(tmp_path, plan, monkeypatch, tiny):
    asked = []

    def score(judge, prompts, answers, *, folder, say=None):
        asked.append((judge, prompts, answers, folder))
        say("1 of 2 replies cannot be read")
        return [0.25, 0.75]

    monkeypatch.setattr("ft_magic.judging.score", score)
    with pytest.raises(SpecError, match="no judge is named"):
        rewards.prepare("judge", COLUMNS, ROWS)
    told = []
    found = loaded({"reward": "judge", "model": str(tiny), "weight": 2}, tmp_path, plan, say=told.append)
    assert found.total(["A?", "B?"], ["a", "b"], {}) == [0.5, 1.5]
    assert told == ["1 of 2 replies cannot be read"]
    assert asked == [({"model": str(tiny)}, ["A?", "B?"], ["a", "b"], tmp_path)]
    assert rewards.prepare("judge", COLUMNS, ROWS, judge=str(tiny)).items[0]["parameters"] == {
        "judge": str(tiny)
    }


def test_the_kernel_side_loads_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys; from ft_magic import rewards; rewards.prepare(['exact_answer', 'no_repetition'], ['answer'], "
        "[{'prompt': 'a', 'answer': '4'}]); print(sorted({'torch', 'transformers', 'trl', 'jsonschema', 'numpy'} "
        "& set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert out.stdout.strip() == "[]"
