"""Figures of an evaluation: by hand-worked numbers, by independent computations, and of a run of every feed."""

import json
import math

import pytest
from cells import make, train
from tiny_llama import make_model

from ft_magic import jobs
from ft_magic.evaluate import figures
from ft_magic.evaluate.losses import labelled, losses
from ft_magic.run import Run
from ft_magic.template import Tokenizer, prompt_ids

torch = pytest.importorskip("torch", reason="training libraries are not installed")


def named(found):
    return {figure.name: figure for figure in found}


# -- by hand: a likelihood is (summed negative log-likelihood in nats, tokens)


def test_preferences_are_shares_of_pairs_and_a_tie_counts_half():
    before = {
        "chosen": [(4.0, 2), (3.0, 3), (6.0, 2)],  # log-probability a token: -2, -1, -3
        "rejected": [(3.0, 1), (2.0, 2), (4.0, 2)],  # -3, -1, -2: won, tied, lost
    }
    after = {
        "chosen": [(2.0, 2), (3.0, 3), (4.0, 2)],  # -1, -1, -2
        "rejected": [(4.0, 1), (2.0, 2), (5.0, 2)],  # -4, -1, -2.5: won, tied, won
    }
    found = named(figures.of_pairs(before, after))
    loss = found[figures.LOSS]
    assert (loss.before, loss.after) == pytest.approx((13 / 7, 9 / 7))  # of the better answers alone
    assert not loss.higher
    preferred = found[figures.PREFERRED]
    assert (preferred.before, preferred.after) == pytest.approx((1.5 / 3, 2.5 / 3))
    # Whole answers rose by 2, 0, 2 nats against -1, 0, -1.
    gained = found[figures.GAINED]
    assert gained.before is None  # nothing has risen before training
    assert gained.after == pytest.approx(2.5 / 3)
    assert preferred.higher
    assert preferred.share
    assert gained.higher
    assert gained.share


def test_good_answers_rank_above_bad_ones_by_the_area_under_the_curve():
    good = [True, False, True, False]
    before = [(2.0, 1), (2.0, 1), (6.0, 2), (1.0, 1)]  # good: -2, -3; bad: -2, -1
    after = [(1.0, 1), (2.0, 1), (4.0, 2), (3.0, 1)]  # good: -1, -2; bad: -2, -3
    found = named(figures.of_judged(before, after, good))
    # Of four meetings good against bad: before one tie (-2, -2) and three lost; after three won and one tie.
    ranked = found[figures.RANKED]
    assert (ranked.before, ranked.after) == pytest.approx((0.5 / 4, 3.5 / 4))
    # Rises: good 1 and 2, bad 0 and -2.
    assert found[figures.RANKED_GAIN].after == 1.0
    assert found[figures.RANKED_GAIN].before is None
    loss = found[figures.LOSS]
    assert (loss.before, loss.after) == pytest.approx((8 / 3, 5 / 3))  # of the good ones alone


@pytest.mark.parametrize("label", [True, False])
def test_answers_of_one_kind_cannot_be_ranked(label):
    found = figures.of_judged([(2.0, 1)], [(1.0, 1)], [label])
    assert [figure.name for figure in found] == [figures.LOSS]
    expected = (2.0, 1.0) if label else (None, None)  # bad answers are not imitated
    assert (found[0].before, found[0].after) == expected


def margin(chance):
    """Return the margin at which the better answer is given this chance."""
    return math.log(chance / (1 - chance))


def scored(chances):
    return named(figures.of_scores([margin(p) for p in chances], [0.0] * len(chances)))


def test_each_bin_of_confidence_is_compared_with_how_often_it_is_right():
    # Chances 0.96 and 0.98 are right, 0.03 is wrong with confidence 0.97: one bin of three with mean confidence 0.97 and
    # 2 of 3 right. 0.62 is right and alone. Error: (3 * |0.97 - 2 / 3| + |0.62 - 1|) / 4 = (0.91 + 0.38) / 4.
    found = scored([0.96, 0.98, 0.03, 0.62])
    assert found["calibration error"].after == pytest.approx(0.3225)
    # Squared errors of the chance: 0.04^2, 0.02^2, 0.97^2, 0.38^2.
    assert found["Brier score"].after == pytest.approx((0.0016 + 0.0004 + 0.9409 + 0.1444) / 4)
    assert found["better answer scored higher"].after == 0.75
    assert found["mean margin"].after == pytest.approx(sum(map(margin, (0.96, 0.98, 0.03, 0.62))) / 4)
    assert {figure.before for figure in found.values()} == {None}  # there was no score head
    assert [name for name, figure in found.items() if figure.higher] == [
        "better answer scored higher",
        "mean margin",
    ]


def test_a_model_that_is_sure_and_right_has_no_error_and_one_that_is_sure_and_wrong_has_all():
    right = named(figures.of_scores([1000.0], [-1000.0]))
    wrong = named(figures.of_scores([-1000.0], [1000.0]))
    for name in ("calibration error", "Brier score"):
        assert right[name].after == pytest.approx(0)
        assert wrong[name].after == pytest.approx(1)


def test_a_model_that_cannot_tell_is_right_half_the_time_and_says_so():
    found = scored([0.5, 0.5])
    assert found["better answer scored higher"].after == 0.5
    assert found["calibration error"].after == 0
    assert found["Brier score"].after == 0.25


# -- by independent computations


@pytest.fixture(scope="module")
def plain(tiny):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()


def test_losses_of_rows_are_those_transformers_computes_one_by_one(plain):
    rows = [labelled(list(range(5, 5 + n)), list(range(60, 60 + 2 * n))) for n in (3, 9, 1, 6)]
    rows.append({"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]})  # answers in several turns
    found = losses(plain, rows, lambda *_: None, "")
    for row, (loss, count) in zip(rows, found, strict=True):
        expected, tokens = own_loss(plain, row["input_ids"], row["labels"])
        assert count == tokens
        assert loss == pytest.approx(expected, abs=1e-3)


def own_loss(model, ids, labels):
    """Return the summed loss and the number of tokens it is over, from transformers' own mean."""
    count = sum(label != -100 for label in labels[1:])
    with torch.no_grad():
        mean = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
    return float(mean) * count, count


# -- of a run of every feed

RATE = 1e-2
FEEDS = ("sft", "dpo", "kto", "reward", "grpo", "distill")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("teacher") / "teacher", seed=1)


@pytest.fixture(scope="module")
def evaluated(tiny, teacher, module_runs):
    """Give the run of a method and its evaluation, made once."""
    known = {}

    def give(method, **more):
        key = (method, *more.values())
        if key not in known:
            path = module_runs / "-".join(map(str, (method, len(known))))
            spec = {
                "learning_rate": RATE,
                "max_steps": 8,
                "save_steps": 8,
                "eval_steps": 8,
                "max_length": 64,
            } | more
            cell = train(make(path, tiny, method, "lora", spec.pop("teacher", teacher), **spec))
            cell.folder.update_state(status="finished")
            run = Run(path)
            known[key] = run, run.evaluate(samples=2, max_new_tokens=6)
        return known[key]

    yield give
    jobs.unload()


def heldout(run):
    return [json.loads(line) for line in run.folder.heldout_rows.read_text().splitlines()]


def test_demonstrations_are_measured_by_their_loss(evaluated, plain):
    run, found = evaluated("sft")
    assert [figure.name for figure in found.figures] == [figures.LOSS]
    light = Tokenizer.load(run.plan.model_folder)
    sums = []
    for row in heldout(run):
        prompt = prompt_ids(light, row)
        answer = light.encode(f"{row['completion']}<|im_end|>")
        sums.append(own_loss(plain, [*prompt, *answer], [-100] * len(prompt) + answer))
    expected = sum(loss for loss, _ in sums) / sum(count for _, count in sums)
    assert found.loss_before == pytest.approx(expected, abs=1e-3)
    assert found.loss_after < found.loss_before
    assert found.verdict == (
        f"better: held-out loss {found.loss_before:.3f} before, {found.loss_after:.3f} after."
    )
    assert found.examples == 4
    assert len(found.samples) == 2
    assert found.samples[0].expected == heldout(run)[0]["completion"]


def test_pairs_are_measured_by_what_is_preferred_and_what_gained(evaluated):
    _, found = evaluated("dpo")
    assert [figure.name for figure in found.figures] == [figures.LOSS, figures.PREFERRED, figures.GAINED]
    loss, preferred, gained = found.figures
    assert (loss.higher, preferred.higher, gained.higher) == (False, True, True)
    assert gained.after > 0.5
    assert found.accuracy_after == preferred.after >= found.accuracy_before
    assert "better answer preferred" in found.verdict


def test_judged_answers_are_measured_by_how_good_ones_rank(evaluated):
    _, found = evaluated("kto")
    names = [figure.name for figure in found.figures]
    assert names == [figures.LOSS, figures.RANKED, figures.RANKED_GAIN]
    assert [figure.higher for figure in found.figures] == [False, True, True]
    assert found.figures[2].after > 0.5
    assert figures.RANKED in found.verdict


def test_a_reward_model_is_measured_by_its_order_and_its_calibration(evaluated):
    _, found = evaluated("reward")
    names = [figure.name for figure in found.figures]
    assert names == ["better answer scored higher", "calibration error", "Brier score", "mean margin"]
    assert all(figure.before is None and math.isfinite(figure.after) for figure in found.figures)
    assert found.samples == ()  # it scores, it does not answer
    share = found.figures[0].after
    assert share == 1.0  # the worse answers all begin with "No"
    assert found.verdict == "better answer scored higher: 100%."


def test_prompts_are_measured_by_the_runs_own_rewards(evaluated):
    _, found = evaluated("grpo")
    assert [figure.name for figure in found.figures] == ["reward", "rewards/length", "rewards/contains"]
    assert all(figure.higher for figure in found.figures)
    total, length, contains = found.figures
    for side in ("before", "after"):  # weights 0.5 and 1 in the spec of a cell
        assert getattr(total, side) == pytest.approx(
            0.5 * getattr(contains, side) + getattr(length, side), abs=1e-6
        )
    assert found.loss_before is None
    assert "reward" in found.verdict


def test_a_student_is_measured_by_its_distance_to_the_teacher(evaluated, plain, teacher):
    from transformers import AutoModelForCausalLM

    run, found = evaluated("distill")
    (distance,) = found.figures
    assert distance.name == "KL to the teacher (nats a token)"
    assert not distance.higher
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    light = Tokenizer.load(teacher)
    total, tokens = 0.0, 0
    for row in heldout(run):
        ids = torch.tensor([prompt_ids(light, row)])
        with torch.no_grad():
            told = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=2)
            asked, answered = ids.shape[1], told.shape[1]
            both = [m(told).logits[0, asked - 1 : answered - 1].log_softmax(-1) for m in (plain, model)]
        total += float(torch.nn.functional.kl_div(*both, reduction="sum", log_target=True))
        tokens += answered - asked
    assert distance.before == pytest.approx(total / tokens, rel=1e-3)
    assert distance.after < distance.before
    assert found.verdict.startswith("better: KL to the teacher ")


def test_a_teacher_equal_to_the_student_is_at_no_distance(evaluated, tiny):
    _, found = evaluated("distill", teacher=tiny, learning_rate=1e-15)
    (distance,) = found.figures
    assert distance.before == pytest.approx(0, abs=1e-9)
    assert distance.after == pytest.approx(0, abs=1e-9)
    assert found.verdict.startswith("no noticeable change of the KL to the teacher")


def test_every_evaluation_shows_its_figures_and_is_kept_with_the_run(evaluated):
    for method in FEEDS:
        run, found = evaluated(method)
        shown = found.shown()
        assert all(figure.name in shown.text for figure in found.figures)
        assert found.verdict in shown.text
        event = next(event for event in run.events() if event.kind == "evaluated")
        assert [figure["name"] for figure in event["figures"]] == [figure.name for figure in found.figures]
        assert (run.path / "report.html").exists()
