"""PPO: its arithmetic by hand-worked numbers, its roles on one base, its loop on a random Llama."""

import json
import math
from dataclasses import fields, replace

import pytest
import torch
from tiny_llama import make_adapter, make_model

from ft_magic.backends import Job, ppo
from ft_magic.backends import ppo_math as maths
from ft_magic.backends.ppo_answers import Answers, Vocabulary, log_probs, sample, values
from ft_magic.backends.ppo_config import PPOConfig, config_of
from ft_magic.backends.ppo_learning import Learner, experience_of, learn
from ft_magic.backends.ppo_roles import roles_of
from ft_magic.backends.ppo_rows import fed_rows, rows_of_step
from ft_magic.backends.ppo_scores import Panel, SharedReward, judged, model_scores, panel_of, why_apart
from ft_magic.errors import DataError, RunError, SpecError
from ft_magic.events import Event
from ft_magic.memory import Memory
from ft_magic.planning.plans import Plan, Settings
from ft_magic.run_folder import RunFolder
from ft_magic.spec import Spec
from ft_magic.template import Tokenizer

SETTINGS = {
    "backend": "ppo", "device": "cpu", "precision": "fp32", "learning_rate": 1e-2, "total_steps": 4,
    "batch_size": 4, "micro_batch_size": 4, "accumulation_steps": 1, "max_length": 128, "weight_bytes": 4,
    "warmup_steps": 0, "eval_steps": 2, "eval_examples": 3, "save_steps": 2, "optim": "adamw_torch",
    "gradient_checkpointing": False, "packing": False, "lora_alpha": 16, "threads": 1,
    "max_completion_length": 6, "num_generations": 0, "temperature": 1.0, "iterations": 0,
}  # fmt: skip
VOCABULARY = Vocabulary(frozenset({2}), 2)


def plan_of(model, method="ppo", update="lora", trainer=None, settings=None, **spec):
    found = SETTINGS | (settings or {})
    words = {"lora_r": 8, "lr_scheduler_type": "constant", "save_steps": found["save_steps"]} | spec
    return Plan(
        spec=Spec(model=str(model), data="made here", method=method, update=update, trainer=trainer or {}, **words),
        model_folder=str(model), model_name="tiny", settings=Settings(**{f.name: found[f.name] for f in fields(Settings) if f.name in found}),
        reasons={}, memory=Memory({}), memory_limit_bytes=0, examples=8, heldout_examples=3, epochs=1.0, eta_s=0.0,
        environment={},
    )  # fmt: skip


def job_of(folder, plan, *, checkpoint=None, prompts=8):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, count in (("train", prompts), ("heldout", 3)):
        rows = [{"prompt": f"Name colour {i}.", "answer": str(i)} for i in range(count)]
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Job(RunFolder(folder), plan, checkpoint, detached=True)


class Told(list):
    """Keeps events instead of writing them."""

    def __call__(self, kind, **data):
        self.append(Event(kind=kind, t=0.0, data=data))
        return self[-1]

    def steps(self):
        return [event for event in self if event.kind == "step"]

    def metric(self, name):
        return [event["metrics"][name] for event in self.steps()]


class Function:
    """Rewards made of plain functions of the answer's text."""

    def __init__(self, *functions, weights=None):
        self.functions, self.names = functions, tuple(f.__name__ for f in functions)
        self.weights = weights or (1.0,) * len(functions)
        self.seen = []

    def scores(self, prompts, completions, columns):
        self.seen.append((list(prompts), list(completions), dict(columns)))
        return [[float(function(text)) for text in completions] for function in self.functions]


def spaces(text):
    """Share of spaces among the characters."""
    return text.count(" ") / max(1, len(text))


def trained(folder, plan, reward=spaces, **more):
    told = Told()
    job = job_of(folder, plan, **more)
    torch.manual_seed(plan.spec.seed)
    roles = roles_of(plan, None, job.checkpoint)
    outcome = ppo.run(job, told, roles, Panel(None, Function(reward)), began_s=0.0)
    return outcome, told, roles


def tensors(file):
    from safetensors.torch import load_file

    return load_file(file)


def random_reward(base, folder, *, seed=3):
    """Write an adapter over a sequence classifier as a reward run does, with nothing left at zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    classifier = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    config = LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules="all-linear", modules_to_save=["score"]
    )
    model = get_peft_model(classifier, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reward_adapter(tiny, tmp_path_factory):
    return random_reward(tiny, tmp_path_factory.mktemp("reward") / "adapter")


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return Tokenizer.load(tiny)


def some_answers(prompts=((1, 85, 10), (1, 90, 91, 92, 93)), answers=((20, 21, 22, 2), (30, 31))):
    return Answers(tuple(map(tuple, prompts)), tuple(map(tuple, answers)), VOCABULARY)


def row(*numbers):
    return torch.tensor([list(map(float, numbers))])


ALL = torch.ones(1, 3, dtype=torch.bool)

# -- arithmetic


def test_advantages_follow_the_recursion():
    # gamma 0.9, lambda 0.5. From the end: d3 = 3 - 0.4 = 2.6, A3 = 2.6; d2 = 2 + 0.9*0.4 - 0.3 = 2.06,
    # A2 = 2.06 + 0.45*2.6 = 3.23; d1 = 1 + 0.9*0.3 - 0.2 = 1.07, A1 = 1.07 + 0.45*3.23 = 2.5235.
    found, returns = maths.advantages(row(1, 2, 3), row(0.2, 0.3, 0.4), ALL, 0.9, 0.5)
    assert found[0].tolist() == pytest.approx([2.5235, 3.23, 2.6])
    assert returns[0].tolist() == pytest.approx([2.7235, 3.53, 3.0])


def test_advantages_without_discount_are_the_rest_of_the_reward_less_the_value():
    found, returns = maths.advantages(row(1, 2, 3), row(0.2, 0.3, 0.4), ALL, 1.0, 1.0)
    assert returns[0].tolist() == pytest.approx([6, 5, 3])
    assert found[0].tolist() == pytest.approx([5.8, 4.7, 2.6])


def test_what_stands_after_an_answer_never_counts():
    mask = torch.tensor([[True, True, False]])
    rubbish = row(1, 2, float("nan")), row(0.2, 0.3, 1e9)
    found, returns = maths.advantages(*rubbish, mask, 0.9, 0.5)
    short, short_returns = maths.advantages(row(1, 2), row(0.2, 0.3), ALL[:, :2], 0.9, 0.5)
    assert found[0].tolist() == pytest.approx([*short[0].tolist(), 0])
    assert returns[0].tolist() == pytest.approx([*short_returns[0].tolist(), 0])
    assert maths.masked_mean(rubbish[0], mask) == 1.5
    assert maths.masked_variance(rubbish[0], mask) == 0.5
    assert torch.isfinite(maths.whiten(rubbish[0], mask)).all()
    rewards = maths.token_rewards(torch.tensor([5.0]), rubbish[0], mask, 0.1)
    assert rewards[0].tolist() == pytest.approx([-0.1, 4.8, 0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.1, 2.0, -2.2, -2.2),  # inside: -ratio A, and d/dlogp of it is the same number
        (1.5, 2.0, -2.4, 0.0),  # better and already likelier by more than 20 %: held at 1.2 A
        (0.5, 2.0, -1.0, -1.0),  # better but less likely than before: free to come back
        (0.5, -2.0, 1.6, 0.0),  # worse and already less likely: held at 0.8 A
        (1.5, -2.0, 3.0, 3.0),  # worse but likelier than before: free to come back
    ],
)
def test_the_policy_loss_is_clipped_only_where_it_would_go_too_far(ratio, advantage, loss, gradient):
    new = torch.tensor([math.log(ratio) - 1.0], requires_grad=True)
    losses, clipped = maths.policy_losses(new, torch.tensor([-1.0]), torch.tensor([advantage]), 0.2)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert new.grad.item() == pytest.approx(gradient, abs=1e-6)
    assert bool(clipped) == (gradient == 0)


@pytest.mark.parametrize(
    ("value", "loss", "gradient"),
    [
        (0.6, 0.5 * 0.4**2, -0.4),  # moved by 0.1 from 0.5 towards 1: a plain squared error
        (0.9, 0.5 * 0.3**2, 0.0),  # moved by 0.4, held at 0.7: no further gain
        (0.1, 0.5 * 0.9**2, -0.9),  # moved away: the plain error is the larger one
    ],
)
def test_the_value_loss_is_clipped_around_the_old_value(value, loss, gradient):
    new = torch.tensor([value], requires_grad=True)
    losses, clipped = maths.value_losses(new, torch.tensor([0.5]), torch.tensor([1.0]), 0.2)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert new.grad.item() == pytest.approx(gradient, abs=1e-6)
    assert bool(clipped) == (gradient == 0)


def test_the_score_stands_on_the_last_token_and_every_token_pays_for_its_kl():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    kl = torch.tensor([[0.5, -1.0, 2.0], [3.0, 9.0, 9.0]])
    found = maths.token_rewards(torch.tensor([10.0, 20.0]), kl, mask, 0.1)
    assert found.flatten().tolist() == pytest.approx([-0.05, 0.1, 9.8, 19.7, 0, 0])


def test_kl_estimators_have_their_formulas_and_agree_in_the_mean():
    old, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])  # r = 0.5
    assert maths.kl_estimate(old, reference, "k1").item() == pytest.approx(math.log(2))
    assert maths.kl_estimate(old, reference, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert maths.kl_estimate(old, reference, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))
    policy, other = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.5, 0.3, 0.2]).log()
    exact = (policy.exp() * (policy - other)).sum()
    for unbiased in ("k1", "k3"):
        assert (policy.exp() * maths.kl_estimate(policy, other, unbiased)).sum() == pytest.approx(
            exact.item()
        )


def test_whitening_gives_mean_0_and_variance_1_of_the_real_tokens():
    mask = torch.tensor([[True, True], [True, False]])
    found = maths.whiten(torch.tensor([[1.0, 2.0], [3.0, 99.0]]), mask)
    assert found.flatten().tolist() == pytest.approx([-1, 0, 1, 0])  # variance of 1, 2, 3 is 1
    kept = maths.whiten(torch.tensor([[1.0, 2.0], [3.0, 99.0]]), mask, shift_mean=False)
    assert kept.flatten().tolist() == pytest.approx([1, 2, 3, 0])
    assert maths.whiten(torch.tensor([[4.0]]), torch.tensor([[True]])).item() == 0


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.1),
        (6.6, 0.1 * (1 + 0.1 * 0.02)),
        (60.0, 0.1 * (1 + 0.2 * 0.02)),
        (0.0, 0.1 * (1 - 0.2 * 0.02)),
    ],
)
def test_the_kl_price_moves_towards_its_target_by_at_most_a_fifth_of_its_speed(kl, expected):
    assert maths.adapted_kl_coef(0.1, kl, 6.0, 10_000, 200) == pytest.approx(expected)


def test_an_answer_without_a_stop_pays():
    scores = maths.penalised_scores(torch.tensor([1.0, 1.0]), torch.tensor([True, False]), 1.5)
    assert scores.tolist() == [1.0, -0.5]


def test_log_probabilities_and_entropy_are_those_of_the_tempered_distribution():
    logits = torch.tensor([[[2.0, 0.0, -2.0]]])
    chances = torch.tensor([1.0, 0.0, -1.0]).softmax(0)
    assert maths.token_log_probs(logits, torch.tensor([[0]]), 2.0).item() == pytest.approx(
        chances[0].log().item()
    )
    assert maths.entropy(logits, 2.0).item() == pytest.approx(-(chances * chances.log()).sum().item())


def test_explained_variance_is_1_for_perfect_and_0_for_constant_values():
    returns = row(1, 2, 3)
    assert maths.explained_variance(returns, returns, ALL) == 1
    assert maths.explained_variance(row(5, 5, 5), returns, ALL).item() == pytest.approx(0)


# -- numbers


def test_trainer_fields_become_numbers_and_beta_is_the_kl_price(tiny):
    config = config_of(plan_of(tiny, beta=0.2, trainer={"num_ppo_epochs": 2, "kl_target": 6}))
    assert config == replace(PPOConfig(), kl_coef=0.2, num_ppo_epochs=2, kl_target=6)


@pytest.mark.parametrize(
    ("trainer", "spec", "message"),
    [
        ({"cliprang": 0.1}, {}, "trainer.cliprang is no field of PPOConfig. Did you mean 'cliprange'"),
        ({"cliprange": 0}, {}, "out of range"),
        ({"gamma": 1.5}, {}, "out of range"),
        ({"num_ppo_epochs": 1.5}, {}, "no whole number"),
        ({"cliprange": "wide"}, {}, "no number"),
        ({"whiten_rewards": 1}, {}, "no true or false"),
        ({"kl_estimator": "k4"}, {}, "Choose one of: k1, k2, k3"),
        ({"num_mini_batches": 3}, {}, "batch_size 4 cannot be split"),
        ({"kl_coef": 0.1}, {"beta": 0.2}, "given twice"),
    ],
)
def test_impossible_numbers_are_refused(tiny, trainer, spec, message):
    with pytest.raises(SpecError, match=message):
        config_of(plan_of(tiny, trainer=trainer, **spec))


def test_every_prompt_comes_once_a_pass_in_an_order_the_seed_and_step_alone_decide():
    rows = [{"n": n} for n in range(6)]
    passes = [
        [r["n"] for step in (3 * p, 3 * p + 1, 3 * p + 2) for r in rows_of_step(rows, step, 2, 7)]
        for p in range(2)
    ]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(6))
    assert passes[0] != passes[1]
    across = [
        r["n"] for r in rows_of_step(rows, 1, 4, 7)
    ]  # places 4 to 7: the end of one pass, the start of the next
    assert across == passes[0][4:] + passes[1][:2]
    assert len(rows_of_step(rows[:2], 0, 5, 7)) == 5


def test_prompts_without_room_for_an_answer_are_left_out_and_counted(tiny, tmp_path, tokenizer):
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"prompt": text}) for text in ("Hi.", "Name a colour. " * 8)), encoding="utf-8"
    )
    plan = plan_of(tiny, settings={"max_length": 40, "max_completion_length": 12})
    told = Told()
    kept = fed_rows(tmp_path / "rows.jsonl", tokenizer, plan, told, "training")
    assert [row["prompt_text"] for row in kept] == ["Hi."]
    assert told[0]["message"].startswith("1 training prompts are left out: 1 x ")
    cramped = replace(plan, settings=replace(plan.settings, max_length=16))
    with pytest.raises(DataError, match="none of the training prompts"):
        fed_rows(tmp_path / "rows.jsonl", tokenizer, cramped, told, "training")


# -- answers


def test_answers_are_drawn_from_the_tempered_softmax(tiny):
    roles = roles_of(plan_of(tiny), None, None)
    prompt = [1, 85, 86]
    with roles.policy.taken() as seat:
        logits = seat.causal(input_ids=torch.tensor([prompt])).logits[0, -1]
        chances = (logits / 2.0).softmax(0)
        drawn = sample(seat, [prompt] * 4000, VOCABULARY, longest=1, temperature=2.0, seeds=range(4000))
    counts = (
        torch.bincount(torch.tensor([answer[0] for answer in drawn.answers]), minlength=len(chances)) / 4000
    )
    # Half the summed difference of 4000 draws over 320 tokens from the truth is about 0.1 by chance.
    assert (counts - chances).abs().sum() / 2 < 0.13
    top = chances.argmax()
    assert counts[top].item() == pytest.approx(chances[top].item(), abs=4 * math.sqrt(chances[top] / 4000))


def test_an_answer_does_not_depend_on_its_neighbours_and_is_the_models_own_greedy_one(tiny):
    roles = roles_of(plan_of(tiny), None, None)
    prompts = [[1, 85, 86], [1, 90, 91, 92, 93, 94], [1]]
    with roles.policy.taken() as seat:
        together = sample(seat, prompts, VOCABULARY, longest=8, seeds=[5, 6, 7])
        alone = sample(seat, prompts[1:2], VOCABULARY, longest=8, seeds=[6])
        greedy = sample(seat, prompts, VOCABULARY, longest=8)
        expected = seat.causal.generate(
            input_ids=torch.tensor([prompts[1]]),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=2,
        )
    assert alone.answers[0] == together.answers[1]
    assert list(greedy.answers[1]) == expected[0, 6:].tolist()


def test_an_answer_ends_with_its_stop(tiny):
    roles = roles_of(plan_of(tiny), None, None)
    with roles.policy.taken() as seat:
        free = sample(seat, [[1, 85], [1, 90]], VOCABULARY, longest=6)
        stops = Vocabulary(frozenset({free.answers[0][2]}), 2)  # a token that comes third in the first answer
        cut = sample(seat, [[1, 85], [1, 90]], stops, longest=6)
    first = free.answers[0]
    end = first.index(first[2])
    assert cut.answers[0] == first[: end + 1]
    assert cut.stopped[0]


def test_padding_never_reaches_a_number(tiny, reward_adapter, tokenizer):
    roles = roles_of(plan_of(tiny), reward_adapter, None)
    both = some_answers()
    for role, numbers in ((roles.policy, lambda s, b: log_probs(s, b, 1.0)), (roles.value, values)):
        with role.taken() as seat:
            together = numbers(seat, both.batch("cpu"))
            for place in range(2):
                alone = numbers(seat, both.rows([place]).batch("cpu"))[0]
                assert torch.allclose(together[place, : len(alone)], alone, atol=1e-5)
    scores = model_scores(roles.reward, both, micro_batch_size=2)
    assert scores == pytest.approx(model_scores(roles.reward, both, micro_batch_size=1), abs=1e-5)


# -- roles


def test_one_base_serves_all_roles(tiny, reward_adapter):
    roles = roles_of(plan_of(tiny), reward_adapter, None)
    seats = (roles.policy, roles.reference, roles.value, roles.reward)
    assert len({id(seat.causal) for seat in seats}) == 1
    whole = torch.nn.Module()
    whole.parts = torch.nn.ModuleList(seat.model for seat in seats)
    weights = {p.data_ptr(): p.numel() for p in whole.parameters()}
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny).num_parameters()
    added = sum(weights.values()) - base
    # Per block and unit of rank: q 64+64, k and v 64+32 each, o 64+64, gate and up 64+128 each, down 128+64 = 1024.
    assert added == 2 * 1024 * (8 + 4 + 4)  # policy r=8; reward r=4; values begin as the reward's copy
    assert sum(p.numel() for p in roles.trained().values()) == 2 * 1024 * (8 + 4) + 64 + 1


def test_a_shared_reward_model_scores_as_the_classifier_loaded_by_itself(tiny, reward_adapter, tokenizer):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from ft_magic.rewards.model import RewardModel

    classifier = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1, dtype=torch.float32)
    alone = PeftModel.from_pretrained(classifier, reward_adapter).eval()
    alone.config.pad_token_id = None  # one text at a time, read at its last token, which is the stop token
    both = some_answers()
    found = model_scores(roles_of(plan_of(tiny), reward_adapter, None).reward, both, micro_batch_size=2)
    texts = [[*prompt, *answer] for prompt, answer in zip(both.prompts, both.answers, strict=True)]
    with torch.no_grad():
        expected = [alone(input_ids=torch.tensor([ids])).logits.item() for ids in texts]
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3
    assert found == pytest.approx(RewardModel(alone, tokenizer).scores(texts), abs=1e-5)


def test_values_begin_as_the_reward_model_where_one_shares_the_base(tiny, reward_adapter, tokenizer):
    roles = roles_of(plan_of(tiny), reward_adapter, None)
    unstopped = some_answers(answers=((20, 21, 22, 23), (30, 31)))
    with roles.value.taken() as seat:
        ahead = values(seat, some_answers(answers=((20, 21, 22, 23, 9), (30, 31, 9))).batch("cpu"))
    scores = model_scores(roles.reward, unstopped, micro_batch_size=2)
    assert [ahead[0, 4].item(), ahead[1, 2].item()] == pytest.approx(scores, abs=1e-5)
    fresh = roles_of(plan_of(tiny), None, None)
    with fresh.value.taken() as seat:
        assert (values(seat, unstopped.batch("cpu")) == 0).all()


def test_a_reward_adapter_of_another_shape_is_refused(tiny, tmp_path):
    odd = make_adapter(tiny, tmp_path / "odd")
    weights = tensors(odd / "adapter_model.safetensors")
    from safetensors.torch import save_file

    weights["base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 64)
    save_file(weights, odd / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="does not fit this model"):
        roles_of(plan_of(tiny), odd, None)


def reward_run(folder, plan, adapter="adapter"):
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(plan.to_dict()), encoding="utf-8")
    (folder / adapter).mkdir()
    return folder


def test_a_reward_run_shares_the_base_only_where_it_had_the_same(tiny, tmp_path):
    own = plan_of(tiny)
    same = reward_run(tmp_path / "same", plan_of(tiny, method="reward"))
    assert why_apart(own, same) == ""
    other = reward_run(
        tmp_path / "other", replace(plan_of(tiny, method="reward"), model_folder="/x", model_name="x")
    )
    assert "its base is x" in why_apart(own, other)
    bits = reward_run(tmp_path / "bits", plan_of(tiny, method="reward", update="qlora"))
    assert "4 bits" in why_apart(own, bits)
    full = reward_run(tmp_path / "full", plan_of(tiny, method="reward", update="full"), "model")
    assert "every weight" in why_apart(own, full)
    assert "changes every weight" in why_apart(plan_of(tiny, update="full"), same)


# -- learning


def learner_of(plan, roles, **config):
    weights = list(roles.trained().values())
    return Learner(
        roles, replace(PPOConfig(), **config), torch.optim.SGD(weights, lr=0.1), torch.amp.GradScaler(enabled=False),
        temperature=1.0, micro_batch_size=plan.settings.micro_batch_size,
    )  # fmt: skip


def one_step(plan, reward_adapter=None, **config):
    torch.manual_seed(0)
    roles = roles_of(plan, reward_adapter, None)
    learner = learner_of(plan, roles, **config)
    answers = some_answers(
        prompts=((1, 85), (1, 90, 91, 92), (1, 87, 88), (1,)),
        answers=((20, 21, 2), (30,), (40, 41, 42, 43, 2), (50, 51)),
    )
    experience = experience_of(learner, answers, torch.tensor([1.0, -1.0, 0.5, 2.0]), 0.1)
    metrics = learn(learner, answers, experience, seed=1)
    return learner, answers, experience, metrics


def test_a_step_does_not_depend_on_the_micro_batch(tiny, reward_adapter):
    results = [
        one_step(plan_of(tiny, settings={"micro_batch_size": size}), reward_adapter, num_mini_batches=2)
        for size in (1, 2, 4)
    ]
    whole, *others = ({n: p.detach() for n, p in r[0].roles.trained().items()} for r in results)
    for other in others:
        for name, weight in whole.items():
            assert torch.allclose(weight, other[name], atol=2e-6), name
    for _, _, _, metrics in results[1:]:
        assert metrics == pytest.approx(results[0][3], rel=1e-4, abs=1e-6)


def test_the_first_pass_starts_where_the_rollout_was(tiny):
    _, _, _, metrics = one_step(plan_of(tiny), num_ppo_epochs=1)
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-6)
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-8)
    assert metrics["clip_fraction"] == 0
    assert metrics["policy_loss"] == pytest.approx(0, abs=1e-5)  # minus the mean of whitened advantages
    assert metrics["grad_norm"] > 0


def test_a_better_answer_becomes_likelier_and_a_worse_one_less(tiny):
    learner, answers, experience, _ = one_step(plan_of(tiny), num_ppo_epochs=4, max_grad_norm=10.0)
    with learner.roles.policy.taken() as seat:
        now = log_probs(seat, answers.batch("cpu"), 1.0)
    moved = torch.where(experience.mask, now - experience.log_probs, 0.0)
    gain = (moved * experience.advantages).sum()
    assert gain > 0


def test_learning_touches_nothing_frozen(tiny, reward_adapter):
    torch.manual_seed(0)
    plan = plan_of(tiny)
    roles = roles_of(plan, reward_adapter, None)
    names = set(roles.trained())
    shell = roles.policy.model
    before = {name: weight.detach().clone() for name, weight in shell.named_parameters()}
    answers = some_answers()
    with roles.reference.taken() as seat:
        reference = log_probs(seat, answers.batch("cpu"), 1.0)
    learner = learner_of(plan, roles)
    experience = experience_of(learner, answers, torch.tensor([1.0, -1.0]), 0.1)
    learn(learner, answers, experience, seed=1)
    after = dict(shell.named_parameters())
    changed = {name for name, weight in after.items() if (weight != before[name]).any()}
    assert changed
    assert all(".default." in name or ".value." in name for name in changed)
    assert {f"{'policy' if '.default.' in name else 'value'}.{name}" for name in changed} <= names
    assert {".default." in name for name in changed} == {True, False}
    with roles.reference.taken() as seat:
        assert (log_probs(seat, answers.batch("cpu"), 1.0) == reference).all()
    assert (
        roles.reward.head.weight
        == tensors(reward_adapter / "adapter_model.safetensors")["base_model.model.score.weight"]
    ).all()


def test_recomputed_activations_give_the_same_step(tiny, reward_adapter):
    plain = one_step(plan_of(tiny), reward_adapter)
    again = one_step(plan_of(tiny, settings={"gradient_checkpointing": True}), reward_adapter)
    for (name, one), other in zip(
        plain[0].roles.trained().items(), again[0].roles.trained().values(), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-7), name


def test_a_score_that_is_no_number_is_named(tiny, tokenizer):
    def broken(text):
        return float("nan")

    rows = [{"prompt_ids": [1], "prompt": "a"}, {"prompt_ids": [1], "prompt": "b"}]
    with pytest.raises(RunError, match="reward broken gave a score that is no finite number"):
        judged(Panel(None, Function(broken)), None, some_answers(), rows, tokenizer, micro_batch_size=1)


def test_rewards_read_texts_and_columns_and_are_weighted(tiny, tokenizer, reward_adapter):
    def length(text):
        return len(text)

    def one(text):
        return 1

    functions = Function(length, one, weights=(2.0, -1.0))
    panel = Panel(SharedReward("model", 0.5, reward_adapter), functions)
    rows = [
        {"prompt_ids": [1], "prompt": "a", "prompt_text": "a", "answer": 4},
        {"prompt_ids": [1], "prompt": "b", "prompt_text": "b", "answer": 5},
    ]
    seat = roles_of(plan_of(tiny), reward_adapter, None).reward
    answers = some_answers(answers=((*tokenizer.encode("red"), 2), tokenizer.encode("blue")))
    scores = judged(panel, seat, answers, rows, tokenizer, micro_batch_size=2)
    assert functions.seen == [(["a", "b"], ["red", "blue"], {"answer": [4, 5]})]
    assert panel.names == ("model", "length", "one")
    model = model_scores(seat, answers, micro_batch_size=2)
    assert scores.total.tolist() == pytest.approx([0.5 * model[0] + 6 - 1, 0.5 * model[1] + 8 - 1])


# -- whole runs


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    """A finished run with dropout, an adaptive KL price and two mini-batches, so that everything kept counts."""
    folder = tmp_path_factory.mktemp("ppo") / "run"
    return folder, *trained(folder, resumable(tiny))


def resumable(tiny, **settings):
    return plan_of(
        tiny, lora_dropout=0.1, lr_scheduler_type="linear", trainer={"kl_target": 0.5, "kl_horizon": 50, "num_mini_batches": 2},
        settings={"total_steps": 6, **settings},
    )  # fmt: skip


def test_a_run_tells_every_event_and_leaves_a_plain_adapter(tiny, uninterrupted):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, outcome, told, roles = uninterrupted
    assert (outcome.status, outcome.step) == ("finished", 6)
    assert [event["step"] for event in told.steps()] == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in told if event.kind == "eval"] == [2, 4, 6]
    assert [event["step"] for event in told if event.kind == "checkpoint"] == [2, 4, 6]
    expected = {
        "reward", "reward_std", "rewards/spaces/mean", "kl", "kl_coef", "objective", "policy_loss", "value_loss",
        "entropy", "clip_fraction", "value_clip_fraction", "approx_kl", "ratio_mean", "explained_variance",
        "completions/mean_length", "missing_stop",
    }  # fmt: skip
    for event in told.steps():
        assert expected == set(event["metrics"])
        assert all(math.isfinite(number) for number in event["metrics"].values())
        assert event["grad_norm"] > 0
    evaluated = next(event for event in told if event.kind == "eval")
    assert evaluated["metrics"].keys() == {"reward", "rewards/spaces/mean", "kl"}
    assert told.steps()[0]["learning_rate"] == 1e-2
    assert told.steps()[-1]["learning_rate"] == pytest.approx(1e-2 / 6)
    names = {file.name for file in (folder / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert not any("value" in name for name in tensors(folder / "adapter" / "adapter_model.safetensors"))
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32), folder / "adapter"
    ).eval()
    ids = torch.tensor([[1, 85, 86, 87]])
    with torch.no_grad(), roles.policy.taken() as seat:
        assert torch.allclose(loaded(input_ids=ids).logits, seat.causal(input_ids=ids).logits, atol=1e-5)


def test_the_first_step_is_at_the_reference_and_the_objective_adds_up(uninterrupted):
    _, _, told, _ = uninterrupted
    first = told.steps()[0]["metrics"]
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert first["kl_coef"] == 0.05
    for event in told.steps():
        found = event["metrics"]
        paid = found["reward"] - found["missing_stop"] * 1.0 - found["kl_coef"] * found["kl"]
        assert found["objective"] == pytest.approx(paid, abs=1e-5)
        assert event["loss"] == pytest.approx(found["policy_loss"] + 0.1 * found["value_loss"])


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_gives_the_same_bits_and_the_same_metrics(tiny, tmp_path, uninterrupted, step):
    folder, _, whole, _ = uninterrupted
    plan = resumable(tiny)
    first = tmp_path / "run"
    stopper = Told()
    job = job_of(first, plan)

    class KilledError(Exception):
        pass

    def emit(kind, **data):
        event = stopper(kind, **data)
        if kind == "step" and data["step"] == step + 1:
            raise KilledError  # after the checkpoint of the step before
        return event

    torch.manual_seed(plan.spec.seed)
    with pytest.raises(KilledError):
        ppo.run(job, emit, roles_of(plan, None, None), Panel(None, Function(spaces)), began_s=0.0)
    checkpoint = RunFolder(first).latest_checkpoint()
    assert checkpoint.name == f"checkpoint-{step}"
    torch.manual_seed(99)  # a new process has other random numbers
    _, told, _ = trained(first, plan, checkpoint=checkpoint)
    assert [event["step"] for event in told.steps()] == list(range(step + 1, 7))
    for event, expected in zip(told.steps(), whole.steps()[step:], strict=True):
        assert event["metrics"] == expected["metrics"]
        assert event["tokens"] == expected["tokens"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (first / "adapter" / name).read_bytes() == (folder / "adapter" / name).read_bytes()


def test_stopping_saves_and_says_so(tiny, tmp_path):
    plan = plan_of(tiny, settings={"save_steps": 100})
    told = Told()
    job = job_of(tmp_path / "run", plan)
    job.folder.ask("stop")
    outcome = ppo.run(job, told, roles_of(plan, None, None), Panel(None, Function(spaces)), began_s=0.0)
    assert (outcome.status, outcome.step, outcome.reason) == ("stopped", 1, "asked to stop")
    assert job.folder.latest_checkpoint().name == "checkpoint-1"
    assert not job.folder.adapter.exists()


def test_a_full_update_changes_every_matrix_and_resumes_to_the_same_bits(tiny, tmp_path):
    plan = plan_of(tiny, update="full", settings={"learning_rate": 1e-3, "total_steps": 4})
    _, told, roles = trained(tmp_path / "whole", plan)
    before, after = (
        tensors(tiny / "model.safetensors"),
        tensors(tmp_path / "whole" / "model" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert all((after[name].float() != before[name].float()).any() for name in before)
    assert told.metric("kl")[0] == pytest.approx(0, abs=1e-5)
    own = roles.reference.model.state_dict()
    assert all((own[name] == weight.float()).all() for name, weight in before.items())
    assert not any(p.requires_grad for p in roles.reference.model.parameters())
    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint-2"
    assert checkpoint.exists()
    trained(tmp_path / "again", plan, checkpoint=checkpoint)
    again = tensors(tmp_path / "again" / "model" / "model.safetensors")
    assert all((again[name] == weight).all() for name, weight in after.items())


def test_a_4_bit_base_serves_all_roles_and_stays_as_it_is(tiny, tmp_path):
    plan = plan_of(tiny, update="qlora", settings={"total_steps": 2})
    roles = roles_of(plan, None, None)
    packed = {
        n: p.detach().clone() for n, p in roles.policy.causal.named_parameters() if p.dtype == torch.uint8
    }
    assert packed
    told = Told()
    ppo.run(job_of(tmp_path / "run", plan), told, roles, Panel(None, Function(spaces)), began_s=0.0)
    for name, weight in roles.policy.causal.named_parameters():
        if name in packed:
            assert (weight == packed[name]).all()
    assert told.metric("kl")[0] == pytest.approx(0, abs=1e-4)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


LEARNING = {
    "total_steps": 20, "batch_size": 32, "micro_batch_size": 32, "learning_rate": 1e-3, "max_completion_length": 8,
    "eval_examples": 0, "save_steps": 100,
}  # fmt: skip


def vowels(text):
    """Share of vowels among the characters: easy to please, and worth nothing."""
    return sum(char in "aeiou" for char in text) / max(1, len(text))


def test_reward_rises_and_the_leash_holds(tiny, tmp_path):
    """A cheap reward is learned; without a price on KL more of it, and much farther from the reference."""

    def end(beta):
        plan = plan_of(tiny, beta=beta, settings=LEARNING, trainer={"missing_eos_penalty": 0})
        _, told, _ = trained(tmp_path / f"beta-{beta}", plan, vowels, prompts=32)
        reward, kl = told.metric("reward"), told.metric("kl")
        assert told.metric("kl_coef") == [beta] * 20
        return sum(reward[:4]) / 4, sum(reward[-4:]) / 4, sum(kl[-4:]) / 4

    # Measured: 0.14 at the start; 0.33 at 11 nats without a price, 0.21 at 3 nats with 0.02 a nat.
    start, free, far = end(0.0)
    _, held, near = end(0.02)
    assert free > start + 0.12
    assert start + 0.03 < held < free - 0.04
    assert far > 2 * near
    assert near < 5


def test_a_module_trained_whole_belongs_to_the_policy_alone(tmp_path):
    untied = make_model(tmp_path / "untied", tied=False)
    plan = plan_of(untied, modules_to_save="lm_head", settings={"total_steps": 2, "eval_examples": 0})
    torch.manual_seed(plan.spec.seed)
    roles = roles_of(plan, None, None)
    answers = some_answers().batch("cpu")
    with roles.reference.taken() as seat:
        reference = log_probs(seat, answers, 1.0)
    told = Told()
    ppo.run(job_of(tmp_path / "run", plan), told, roles, Panel(None, Function(spaces)), began_s=0.0)
    assert told.metric("kl")[0] == pytest.approx(0, abs=1e-5)
    saved = tensors(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    head = next(value for name, value in saved.items() if "lm_head" in name)
    assert (head != tensors(untied / "model.safetensors")["lm_head.weight"].float()).any()
    with roles.reference.taken() as seat:
        assert (log_probs(seat, answers, 1.0) == reference).all()


def test_early_stopping_keeps_the_best_step(tiny, tmp_path):
    # Held-out answers of 1 token; the reward falls from the third evaluation on, whatever the policy does.
    calls = iter([3.0, 5.0, 4.0, 2.0])
    plan = plan_of(tiny, early_stopping=2, settings={"total_steps": 9, "eval_steps": 1, "save_steps": 1})

    class Falling(Function):
        def scores(self, prompts, completions, columns):
            held_out = len(completions) == 3
            score = next(calls) if held_out else 0.0
            return [[score] * len(completions)]

    told = Told()
    job = job_of(tmp_path / "run", plan)
    torch.manual_seed(plan.spec.seed)
    ppo.run(job, told, roles_of(plan, None, None), Panel(None, Falling(spaces)), began_s=0.0)
    assert [event["step"] for event in told.steps()] == [1, 2, 3, 4]
    best = tensors(job.folder.checkpoints / "checkpoint-2" / "adapter_model.safetensors")
    kept = tensors(job.folder.adapter / "adapter_model.safetensors")
    assert all((kept[name] == value).all() for name, value in best.items())
    assert any(event.kind == "warning" and "stopping early" in event["message"] for event in told)


def test_a_run_uses_the_base_for_one_reward_model_and_tells_of_the_others(tiny, tmp_path, reward_adapter):
    import shutil

    items = []
    for name, base in (("same", tiny), ("other", tmp_path / "elsewhere")):
        run = reward_run(tmp_path / name, replace(plan_of(tiny, method="reward"), model_folder=str(base)))
        shutil.copytree(reward_adapter, run / "adapter", dirs_exist_ok=True)
        items.append(
            {"name": name, "kind": "run", "reward": name, "weight": 0.5, "parameters": {"path": str(run)}}
        )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "rewards.py").write_text("", encoding="utf-8")
    (folder / "rewards.json").write_text(json.dumps({"v": 1, "rewards": items}), encoding="utf-8")
    told = Told()
    panel = panel_of(folder, plan_of(tiny), told)
    assert panel.shared == SharedReward("same", 0.5, tmp_path / "same" / "adapter")
    assert list(panel.names) == ["same", "other"]
    assert len(told) == 1
    assert "reward run other cannot use the policy's base, because its base is" in told[0]["message"]


@pytest.mark.slow
def test_a_killed_worker_resumes_to_the_same_bits(tiny, runs_folder):
    """Two reward models' worth of machinery in real processes: a reward run, then PPO over it, killed and resumed."""
    import hashlib
    import os
    import signal
    import time

    from rows import pairs, prompts

    import ft_magic as ft

    reward = ft.finetune(
        model=str(tiny), data=pairs(), method="reward", max_steps=2, batch_size=4, detach=True
    )
    assert reward.wait(120) == "finished", reward.logs()

    def start():
        return ft.finetune(
            model=str(tiny), data=ft.load_data(prompts(), signal="prompt"), method="ppo", rewards=[reward],
            max_steps=30, batch_size=4, save_steps=2, eval_steps=10, max_completion_length=6, lora_dropout=0.1,
            learning_rate=1e-3, detach=True,
        )  # fmt: skip

    whole = start()
    assert whole.wait(120) == "finished", whole.logs()
    cut = start()
    deadline = time.monotonic() + 60
    while not any(event.kind == "checkpoint" for event in cut.events()):
        assert time.monotonic() < deadline, cut.logs()
        time.sleep(0.01)
    os.kill(cut.pid, signal.SIGKILL)
    assert cut.wait(20) == "failed"
    cut.resume(detach=True)
    assert cut.wait(120) == "finished", cut.logs()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        one, other = ((run.folder.adapter / name).read_bytes() for run in (whole, cut))
        assert hashlib.sha256(one).hexdigest() == hashlib.sha256(other).hexdigest()
