"""Every method trains the real 135M model in a real worker, starts where its paper says, and the result answers."""

import math

import pytest

import ft_magic as ft
from ft_magic import jobs
from ft_magic.axes import METHODS
from ft_magic.rewards import model as reward_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FACTS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}
ROWS = {
    "text": [{"text": f"{city} is the capital of {country}."} for country, city in FACTS.items()],
    "demo": [
        {"prompt": f"Capital of {country}?", "completion": f"It is {city}."}
        for country, city in FACTS.items()
    ],
    "pair": [
        {"prompt": f"Capital of {country}?", "chosen": f"It is {city}.", "rejected": "No idea."}
        for country, city in FACTS.items()
    ],
    "label": [
        {"prompt": f"Capital of {country}?", "completion": f"It is {city}." if good else "No idea.", "label": good}
        for (country, city), good in zip(FACTS.items(), (True, False, True, False), strict=True)
    ],
    "prompt": [{"prompt": f"Capital of {country}?", "answer": city} for country, city in FACTS.items()],
}  # fmt: skip
STEPS = 2
SPEC = {
    "model": "demo", "max_steps": STEPS, "batch_size": 2, "eval_fraction": 0, "save_steps": STEPS, "warmup_ratio": 0,
    "max_completion_length": 12, "num_generations": 2, "iterations": 2,
}  # fmt: skip
SAMPLING = ("max_completion_length", "num_generations", "iterations")
# Loss of the first step, where policy and reference are the same model: sigmoid(0) is a half, so -ln of it for DPO and
# 1 - sigmoid(0) for KTO (arXiv 2402.01306, equation 7); (0 - 1 / (2 beta))^2 with beta 0.1 for IPO (arXiv
# 2310.12036); no distance to a teacher that is the student.
FIRST_LOSS = {
    "dpo": math.log(2),
    "spin": math.log(2),
    "online_dpo": math.log(2),
    "kto": 0.5,
    "ipo": 25.0,
    "distill": 0.0,
}


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """A runs folder for the module; the warm process that answers is freed at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_MAGIC_RUNS", str(tmp_path_factory.mktemp("real") / "runs"))
        yield
    jobs.unload()


def trained(method, **more):
    row = METHODS[method]
    spec = {key: value for key, value in SPEC.items() if key not in SAMPLING or key in row.options}
    return ft.finetune(data=ft.load_data(ROWS[row.signal], signal=row.signal), method=method, **(spec | more))


@pytest.fixture(scope="module")
def liked():
    """The run of a reward model, which PPO needs."""
    return trained("reward", learning_rate=1e-3, max_steps=4)


def needs_of(method, request):
    """Return what the method cannot do without: the model itself as teacher, a reward run for ppo, else a built-in."""
    row = METHODS[method]
    if "teacher" in row.needs:
        return {"teacher": "demo"}
    if row.backends == ("ppo",):
        return {"rewards": request.getfixturevalue("liked")}
    return {"rewards": {"reward": "contains", "column": "answer"}} if row.needs else {}


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if not row.score_head])
def test_a_method_trains_the_real_model_and_it_answers(method, request):
    run = trained(method, **needs_of(method, request))
    found = losses(run)
    assert len(found) == STEPS
    if method in FIRST_LOSS:
        assert found[0] == pytest.approx(FIRST_LOSS[method], rel=2e-3, abs=1e-4)
    answers(run)


def test_a_reward_run_ranks_the_answers_it_saw(liked):
    assert losses(liked)[-1] < losses(liked)[0]
    model = reward_model.load(liked.path, "cpu")
    right, wrong = model.scores(
        [model.ids("Capital of France?", text) for text in ("It is Paris.", "No idea.")]
    )
    assert right > wrong


def losses(run):
    assert run.status == "finished"
    found = [row["loss"] for row in run.metrics()]
    assert all(math.isfinite(loss) for loss in found)
    return found


def answers(run):
    (answer,) = run.generate(["What is the capital of France?"], max_new_tokens=8)
    assert answer.strip()
