"""What is said about training by rewards; for losses and pairs see test_ui_charts.py."""

import pytest

from ft_magic.events import Event
from ft_magic.ui import charts

T = 1_790_000_000.0


def run(steps=40, *, evals=(), loss=0.0, end="finished", **curves):
    """Return a run's events; a curve is a value, or a function of the step (1 ...)."""
    made = [Event("started", T, {})]
    for step in range(1, steps + 1):
        metrics = {name: of(step) if callable(of) else of for name, of in curves.items()}
        made.append(Event("step", T + step, {"step": step, "loss": loss, "metrics": metrics}))
    made += [Event("eval", T, {"step": s, "loss": 0.0, "metrics": {"reward": value}}) for s, value in evals]
    return [*made, Event(end, T + steps, {})]


def healthy(**more):
    curves = {
        "reward": lambda step: 0.2 + step / 100,
        "frac_reward_zero_std": 0.3,
        "kl": lambda step: 0.01 * step,
        "completions/clipped_ratio": 0.1,
    }
    return run(**(curves | more))


def verdicts(events):
    from ft_magic.ui.advice import findings
    from ft_magic.ui.history import History

    return [finding.verdict for finding in findings(History(events))]


def test_a_healthy_run_gets_no_advice_although_its_loss_is_near_zero_and_rises():
    assert charts.advice(healthy()) == []
    assert charts.advice(healthy(loss=1e-8)) == []
    assert charts.summary(healthy()).verdict == "learned"
    assert charts.summary(healthy(end="started")).verdict == "learning"


def test_a_reward_that_falls_is_not_called_learned():
    assert charts.summary(healthy(reward=lambda step: 1 - step / 100)).verdict == "no trend yet"


def test_groups_that_score_alike_for_five_steps_are_told():
    late = lambda step: 0.9 if step > 35 else 0.2  # noqa: E731
    (text,) = charts.advice(healthy(frac_reward_zero_std=late))
    assert text.startswith(
        "For 5 steps all answers of a group have scored alike in 90% of the groups or more"
    )
    assert "Raise temperature or num_generations" in text
    four = lambda step: 0.9 if step > 36 else 0.2  # noqa: E731
    assert charts.advice(healthy(frac_reward_zero_std=four)) == []


def test_no_reward_for_ten_steps_is_told_once():
    never = {"reward": 0.0, "frac_reward_zero_std": 1.0}
    assert verdicts(run(**never)) == ["no answer is rewarded"]
    assert verdicts(run(steps=9, **never)) == ["answers of a group score alike"]
    seldom = lambda step: 0.1 if step % 10 == 5 else 0.0  # noqa: E731
    assert verdicts(run(reward=seldom)) == []


def test_a_rising_reward_with_a_falling_held_out_one_is_told_with_its_best_step():
    events = healthy(evals=[(10, 0.4), (20, 0.5), (40, 0.42)])
    assert verdicts(events) == ["held-out reward is falling since step 20"]
    (text,) = charts.advice(events)
    assert "it fell from 0.5000 at step 20 to 0.4200" in text
    assert charts.advice(healthy(evals=[(10, 0.4), (20, 0.5), (40, 0.49)])) == []  # 2 % is noise
    falls_too = healthy(reward=lambda step: 1 - step / 100, evals=[(10, 0.5), (40, 0.4)])
    assert charts.advice(falls_too) == []


def test_a_negative_held_out_reward_is_judged_by_its_size():
    assert verdicts(healthy(evals=[(10, -1.0), (40, -1.2)])) == ["held-out reward is falling since step 10"]
    assert verdicts(healthy(evals=[(10, -1.2), (40, -1.0)])) == []


@pytest.mark.parametrize(("power", "told"), [(1, False), (2, True), (4, True)])
def test_a_divergence_that_grows_ever_faster_is_told(power, told):
    # Means of the last tenth and the middle third: 1.9 apart for power 1, 3.6 for power 2, 11 for power 4.
    events = healthy(kl=lambda step: (step / 40) ** power)
    assert verdicts(events) == (["running away from the reference"] if told else [])


def test_a_small_divergence_is_never_told():
    assert verdicts(healthy(kl=lambda step: 0.05 * (step / 40) ** 4)) == []


def test_answers_cut_at_the_length_limit_are_told():
    events = healthy(**{"completions/clipped_ratio": 0.6})
    (text,) = charts.advice(events)
    assert text.startswith("For 5 steps at least 60% of the answers have hit max_completion_length")


def test_a_loss_that_is_no_number_is_told_here_too():
    assert verdicts(healthy(loss=None))[0] == "loss is not a number at step 1"
