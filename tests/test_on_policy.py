"""Online DPO and self-play: which answer is chosen, what a tie does, what a round keeps, when self-play stops."""

import json
import math
import shutil

import pytest
from cells import make, train

from ft_magic import events
from ft_magic.backends import Job, adapters, trl
from ft_magic.backends.base_model import load_model
from ft_magic.backends.on_policy import OnlineDPOTrainer, OnPolicyTrainer
from ft_magic.backends.scoring import A_TIE, Scorer
from ft_magic.rewards.loaded import Reward, Rewards
from ft_magic.template import Tokenizer

torch = pytest.importorskip("torch", reason="training libraries are not installed")

LN2 = math.log(2)
RATE = 1e-2


def trainer_of(cell):
    """Return the trainer of a cell, as the backend builds it, before its first step."""
    writer = events.Writer(cell.folder.events)
    torch.manual_seed(cell.plan.spec.seed)
    model, adapter = adapters.prepare(load_model(cell.plan), cell.plan)
    job = Job(cell.folder, cell.plan, None, detached=True)
    return trl._trainer(job, writer.emit, model, adapter, Tokenizer.load(cell.plan.model_folder))


def by(score):
    """Return a scorer that rewards answers by a function of their text."""

    def scores(_prompts, completions, _columns):
        return [float(score(text)) for text in completions]

    return Scorer(Rewards((Reward("hand_made", 1.0, scores),)))


def letters(text):
    """Number of letters and digits: seldom equal for two answers of eight random tokens."""
    return sum(letter.isalnum() for letter in text)


# -- online DPO


@pytest.fixture(scope="module")
def online(tiny, tmp_path_factory):
    return trainer_of(make(tmp_path_factory.mktemp("online") / "run", tiny, "online_dpo", "lora"))


def test_online_dpo_chooses_the_answer_of_the_higher_reward(online):
    places = range(16)
    online.scorer = by(letters)
    pairs = online.pairs(places)
    prompts = [online.rows[place]["prompt_ids"] for place in places]
    sampled = online.sample([*prompts, *prompts])
    seconds = 0
    for index, pair in enumerate(pairs):
        first, second = sampled[index], sampled[16 + index]
        one, other = letters(online.text(first)), letters(online.text(second))
        assert pair["prompt_ids"] == prompts[index]
        if one == other:
            assert pair["chosen_ids"] == pair["rejected_ids"] == first
            continue
        expected = (first, second) if one > other else (second, first)
        assert (pair["chosen_ids"], pair["rejected_ids"]) == expected
        seconds += other > one
    assert 0 < seconds < 16  # both places have won


def test_a_judge_is_shown_the_question_and_both_texts_and_its_verdicts_decide(online):
    asked = []

    def judge(prompts, first, second):
        asked.extend(zip(prompts, first, second, strict=True))
        return [1, 0, A_TIE]

    online.scorer = Scorer(judge=judge)
    pairs = online.pairs([0, 1, 2])
    prompts = [online.rows[place]["prompt_ids"] for place in range(3)]
    sampled = online.sample([*prompts, *prompts])
    first, second = sampled[:3], sampled[3:]
    assert asked == [
        (online.rows[i]["prompt_text"], online.text(first[i]), online.text(second[i])) for i in range(3)
    ]
    assert asked[0][0].startswith("Name colour")  # the last user turn, without the template's marks
    assert [(p["chosen_ids"], p["rejected_ids"]) for p in pairs] == [
        (second[0], first[0]),
        (first[1], second[1]),
        (first[2], first[2]),
    ]


def test_answers_depend_on_seed_and_step_alone(online):
    prompts = [row["prompt_ids"] for row in online.rows[:4]]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = online.sample(prompts)
    assert torch.equal(torch.get_rng_state(), state)  # the order of rows and dropout go on as they would have
    torch.manual_seed(2)
    assert online.sample(prompts) == first
    online.state.global_step = 1
    assert online.sample(prompts) != first
    online.state.global_step = 0
    online.args.seed += 1
    assert online.sample(prompts) != first
    online.args.seed -= 1
    assert online.sample(prompts) == first


def test_a_resumed_run_is_given_the_pairs_it_would_have_had(tiny, tmp_path, monkeypatch):
    made = []
    build = OnlineDPOTrainer.pairs
    monkeypatch.setattr(
        OnlineDPOTrainer, "pairs", lambda self, places: made.append(build(self, places)) or made[-1]
    )
    cell = train(make(tmp_path / "run", tiny, "online_dpo", "lora", learning_rate=RATE))
    shutil.rmtree(cell.folder.adapter)
    shutil.rmtree(cell.folder.checkpoints / "checkpoint-2")
    train(cell, cell.folder.checkpoints / "checkpoint-1")
    assert len(made) == 3
    assert made[2] == made[1] != made[0]


def test_ties_move_no_weight(tiny, tmp_path, monkeypatch):
    cell = make(tmp_path / "run", tiny, "online_dpo", "lora", learning_rate=RATE)
    monkeypatch.setattr(trl, "load_scorer", lambda *_: by(lambda _: 1.0))
    cell = train(cell)
    for event in cell.events("step"):
        assert event["metrics"]["ties"] == 1.0
        assert event["loss"] == pytest.approx(LN2, abs=1e-6)
        assert event["grad_norm"] == 0
    seconds = [weight for name, weight in cell.weights().items() if "lora_B" in name]
    assert seconds  # they start as zeros
    assert all(not weight.any() for weight in seconds)


# -- self-play


@pytest.fixture(scope="module")
def played(tiny, tmp_path_factory):
    """Two rounds of two steps each: the plan's four steps over two iterations."""
    folder = tmp_path_factory.mktemp("spin") / "run"
    return train(
        make(folder, tiny, "spin", "lora", learning_rate=RATE, max_steps=4, save_steps=2, max_length=64)
    )


def round_of(cell, number):
    path = cell.folder.path / "data" / f"spin-{number}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_round_keeps_human_and_own_answers_of_as_many_rows_as_it_trains(played):
    assert played.outcome.step == 4
    light = Tokenizer.load(played.plan.model_folder)
    rows = [json.loads(line) for line in played.folder.train_rows.read_text().splitlines()]
    human = {f"{row['prompt']} {row['completion']}" for row in rows}
    for number in (0, 1):
        made = round_of(played, number)
        assert len(made) == 2 * 4  # steps a round times batch
        for pair in made:
            shown = light.decode(pair["prompt_ids"] + pair["chosen_ids"])
            words = shown.replace("<|im_start|>user\n", "").replace(
                "<|im_end|>\n<|im_start|>assistant\n", " "
            )
            assert words.removesuffix("<|im_end|>") in human
            assert 0 < len(pair["rejected_ids"]) <= 8  # max_completion_length
    assert not (played.folder.path / "data" / "spin-2.jsonl").exists()
    assert round_of(played, 0) != round_of(played, 1)


@pytest.mark.parametrize("number", [0, 1])
def test_the_reference_of_a_round_is_the_policy_that_began_it(played, tiny, number):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    if number:  # the second round begins after the second step
        model = PeftModel.from_pretrained(model, str(played.folder.checkpoints / "checkpoint-2")).eval()
    for pair in round_of(played, number):
        for side in ("chosen", "rejected"):
            assert pair[f"ref_{side}_logps"] == pytest.approx(
                log_probability(model, pair["prompt_ids"], pair[f"{side}_ids"]), abs=2e-3
            )


def log_probability(model, prompt, answer):
    """Return the log-probability of an answer, in nats: one row, no padding, token by token."""
    with torch.no_grad():
        chances = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(-1)
    return sum(float(chances[len(prompt) + i - 1, token]) for i, token in enumerate(answer))


def test_each_round_starts_at_its_own_reference(played):
    losses = [event["loss"] for event in played.events("step")]
    assert losses[0] == pytest.approx(LN2, abs=1e-4)
    assert losses[2] == pytest.approx(LN2, abs=1e-4)
    assert losses[1] < LN2 - 1e-3
    assert losses[3] < LN2 - 1e-3


def human_answers(monkeypatch, first):
    """Let the model say the human answer to the first prompts of a round, and something else to the others."""

    def answers(self, prompts, temperature):
        known = {tuple(row["prompt_ids"]): row["completion_ids"] for row in self.rows}
        return [known[tuple(ids)] if i < first else [50 + i, 2] for i, ids in enumerate(prompts)]

    monkeypatch.setattr(OnPolicyTrainer, "answers", answers)


def test_answers_equal_to_the_human_ones_are_left_out_and_counted(tiny, tmp_path, monkeypatch):
    human_answers(monkeypatch, 3)
    cell = train(make(tmp_path / "run", tiny, "spin", "lora", max_steps=2, iterations=1))
    assert [event["message"] for event in cell.events("warning")] == [
        "round 1: 3 of 8 answers are the human ones."
    ]
    made = round_of(cell, 0)
    assert [pair["rejected_ids"] for pair in made] == [[50 + i, 2] for i in range(3, 8)]
    assert cell.outcome.step == 2


def test_a_round_of_human_answers_alone_says_that_it_learns_nothing(tiny, tmp_path, monkeypatch):
    human_answers(monkeypatch, 8)
    cell = train(make(tmp_path / "run", tiny, "spin", "lora", max_steps=4, max_length=64))
    equal, stopped = cell.events("warning")
    assert equal["message"] == "round 1: 8 of 8 answers are the human ones."
    assert "learns nothing" in equal["fix"]
    assert "Self-play stops here" in stopped["fix"]
    assert {event["grad_norm"] for event in cell.events("step")} == {0}


def test_a_policy_equal_to_its_reference_stops_the_play(tiny, tmp_path):
    cell = make(tmp_path / "run", tiny, "spin", "lora", learning_rate=1e-15, max_steps=6, iterations=3)
    cell = train(cell)
    (warning,) = cell.events("warning")
    assert (
        warning["message"] == "after 1 rounds the model can no longer tell its answers from the human ones."
    )
    assert cell.outcome.step < 6
    assert cell.outcome.status == "finished"  # its result is kept
    assert cell.folder.adapter.exists()
    assert not (cell.folder.path / "data" / "spin-1.jsonl").exists()


def test_a_run_resumed_between_two_rounds_is_judged_like_one_that_went_on(tiny, tmp_path):
    cell = make(tmp_path / "run", tiny, "spin", "lora", learning_rate=1e-15, max_steps=6, iterations=3)
    cell = train(cell)
    assert cell.outcome.step == 3
    shutil.rmtree(cell.folder.adapter)
    shutil.rmtree(cell.folder.checkpoints / "checkpoint-3")
    again = train(cell, cell.folder.checkpoints / "checkpoint-2")
    assert again.outcome == cell.outcome
    assert len(again.events("warning")) == 2


def test_too_few_pairs_to_tell_anything_do_not_stop_the_play(tiny, tmp_path):
    # Three of three is 1.0, and clearly more than half would be 0.5 + 1.96 * 0.5 / sqrt(3) = 1.07.
    cell = train(make(tmp_path / "run", tiny, "spin", "lora", max_steps=2, batch_size=3, learning_rate=RATE))
    assert not cell.events("warning")
    assert len(round_of(cell, 1)) == 3


def test_a_resumed_run_reads_its_rounds_answers_instead_of_writing_new_ones(tiny, tmp_path, monkeypatch):
    cell = make(tmp_path / "run", tiny, "spin", "lora", learning_rate=RATE, max_steps=4)
    cell = train(cell)
    first = cell.weights()
    shutil.rmtree(cell.folder.adapter)
    shutil.rmtree(cell.folder.checkpoints / "checkpoint-4")

    def sampled(*_):
        raise AssertionError("the answers of this round are there already")

    monkeypatch.setattr(OnPolicyTrainer, "sample", sampled)
    again = train(cell, cell.folder.checkpoints / "checkpoint-3")
    assert again.outcome.status == "finished"
    assert all(torch.equal(weight, first[name]) for name, weight in again.weights().items())
