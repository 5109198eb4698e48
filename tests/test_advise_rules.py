"""The table of rules: every verdict from hand-made figures, what it depends on, what would change it."""

from dataclasses import replace

import pytest

from ft_magic.advising import rules
from ft_magic.advising.estimates import Estimate
from ft_magic.advising.figures import Figures, Gain, Way
from ft_magic.advising.form import QUESTIONS, Form
from ft_magic.advising.ruling import rule_on
from ft_magic.errors import SpecError


def way(score, low=None, high=None):
    found = Estimate(score, score if low is None else low, score if high is None else high)
    return Way(4.0, 400.0, found, Estimate(1.0, 0.9, 1.1))


# A task of form: JSON of one shape, all facts copied from the questions, enough rows, prompts fall short.
TRIAGE = Figures(
    rows=400, distinct=396, kind="json", same_shape=1.0, facts=241, asked=1.0, known=0.0, unknown=0.0,
    metric="fields", examples=24, zero=way(0.0), few=way(0.5), nearest=way(0.7),
)  # fmt: skip
# A task of facts: answers full of numbers that no question holds, each in one row alone.
NEWS = replace(
    TRIAGE, kind="text", same_shape=None, asked=0.1, known=0.1, unknown=0.8, metric="f1", absolute=False
)
# The same with facts that other rows hold too.
SHELF = replace(NEWS, known=0.8, unknown=0.1)
HELPED = Gain(Estimate(0.4, 0.2, 0.6), None)
UNSURE = Gain(Estimate(0.1, -0.1, 0.3), None)

CASES = [
    # rule, verdict, figures, form
    ("already right", rules.DO_NOT, replace(TRIAGE, zero=way(0.95)), Form()),
    ("examples suffice", rules.PROMPTING, replace(TRIAGE, few=way(0.92)), Form()),
    ("similar examples suffice", rules.RETRIEVAL, replace(TRIAGE, nearest=way(0.93), nearest_gain=HELPED), Form()),
    ("examples suffice", rules.PROMPTING, replace(TRIAGE, nearest=way(0.93), nearest_gain=UNSURE), Form()),
    ("moving facts, not in the rows", rules.DO_NOT, NEWS, Form("facts", "daily")),
    ("facts", rules.RETRIEVAL, NEWS, Form("facts", "never")),
    ("facts", rules.RETRIEVAL, SHELF, Form("facts", "daily")),
    ("facts", rules.RETRIEVAL, replace(NEWS, nearest_gain=HELPED), Form("facts", "daily")),
    ("few rows", rules.COLLECT, replace(TRIAGE, distinct=49), Form("format", "never")),
    ("mixed form", rules.COLLECT, replace(TRIAGE, same_shape=0.8), Form("format", "never")),
    ("form and facts", rules.BOTH, replace(TRIAGE, asked=0.3, unknown=0.7), Form("both", "monthly")),
    ("form that hides facts", rules.BOTH, replace(TRIAGE, asked=0.3, unknown=0.7), Form("format", "monthly")),
    ("not measured", rules.PROMPTING, replace(TRIAGE, examples=0, zero=None, few=None, nearest=None), Form()),
    ("free text, not many rows", rules.PROMPTING, replace(NEWS, asked=0.9, unknown=0.1), Form("style", "never")),
    ("prompts fall short", rules.FINE_TUNE, TRIAGE, Form()),
    ("prompts fall short", rules.FINE_TUNE, replace(NEWS, asked=0.9, distinct=1000), Form("style", "never")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "verdict", "found", "form"), CASES, ids=[case[0] for case in CASES])
def test_figures_lead_to_the_verdict_by_this_rule(name, verdict, found, form):
    ruling = rule_on(found, form)
    assert (ruling.rule.name, ruling.verdict) == (name, verdict)
    assert ruling.conditions == ()


def test_every_rule_and_every_verdict_has_a_case_here():
    assert {case[0] for case in CASES} == {rule.name for rule in rules.RULES}
    assert {case[1] for case in CASES} == set(rules.VERDICTS) == {rule.verdict for rule in rules.RULES}


def test_every_rule_says_when_why_and_by_whose_word():
    for rule in rules.RULES:
        assert rule.when
        assert rule.why.endswith(".")
        assert any(word in rule.source for word in ("arXiv", "OpenAI", "measured", "cross-entropy")), (
            rule.name
        )


def test_facts_that_the_question_holds_need_no_retrieval_and_the_contradiction_is_said():
    ruling = rule_on(TRIAGE, Form("facts", "daily"))
    assert ruling.verdict == rules.FINE_TUNE
    said = " ".join(ruling.contradictions)
    assert "You say it needs facts, but 100% of the 241 facts in the answers stand in their questions" in said
    assert "You say facts change daily" in said


def test_labels_are_learned_like_a_form_whatever_is_answered():
    labels = replace(TRIAGE, kind="label", metric="label", facts=0, asked=None, known=None, unknown=None)
    assert rule_on(labels, Form()).verdict == rules.FINE_TUNE
    numbers = replace(labels, kind="number", metric="number")  # a price or a sum: only a person knows
    assert rule_on(numbers, Form()).conditions == (
        "if needs is format or style: fine-tune",
        "if needs is facts: retrieval",
        "if needs is both: fine-tune + retrieval",
    )


def test_too_few_facts_leave_the_word_of_the_person():
    # Nine facts are too few to say that one in ten or fewer come from outside.
    assert rule_on(replace(TRIAGE, facts=9), Form("facts", "never")).verdict == rules.RETRIEVAL


def test_form_with_facts_from_outside_is_said_to_train_facts():
    ruling = rule_on(replace(TRIAGE, asked=0.3, unknown=0.7), Form("format", "never"))
    assert (
        "but 70% of the 241 facts in the answers do not stand in their questions" in ruling.contradictions[0]
    )


def test_unanswered_questions_that_decide_make_the_verdict_depend_on_each_answer():
    ruling = rule_on(NEWS, Form())
    assert ruling.verdict == rules.DEPENDS
    assert ruling.rule is None
    assert ruling.conditions == (
        "if needs is format, style or both: fine-tune + retrieval",
        "if needs is facts and facts_change is daily, weekly or monthly: do not fine-tune",
        "if needs is facts and facts_change is yearly or never: retrieval",
    )


def test_an_unanswered_question_that_decides_nothing_leaves_the_verdict():
    assert rule_on(SHELF, Form("facts")).verdict == rules.RETRIEVAL
    assert rule_on(TRIAGE, Form()).verdict == rules.FINE_TUNE


def test_where_it_will_run_is_never_what_decides():
    for _, verdict, found, form in CASES:
        assert rule_on(found, replace(form, runtime="cloud")).verdict == verdict


def test_what_would_change_the_verdict_comes_from_the_table_itself():
    found = replace(TRIAGE, few=way(0.85, 0.6, 0.95))
    assert rule_on(found, Form()).changes == (
        "if the score with examples were 95%, the upper end of its interval: prompting",
    )
    by_form = rule_on(NEWS, Form("facts", "daily")).changes
    assert "if facts_change were yearly or never: retrieval" in by_form
    assert "if needs were format, style or both: fine-tune + retrieval" in by_form
    assert "with 50 different rows: fine-tune" in rule_on(replace(TRIAGE, distinct=20), Form()).changes


def test_a_lower_target_of_ones_own_makes_a_prompt_enough():
    assert rule_on(TRIAGE, Form(target=0.5)).verdict == rules.PROMPTING


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"needs": "fact"}, "needs is 'fact'. Did you mean 'facts'"),
        ({"facts_change": "hourly"}, "facts_change is 'hourly'"),
        ({"target": 90}, "target is 90"),
        ({"need": "facts"}, "nothing called 'need'. Did you mean 'needs'"),
    ],
)
def test_an_answer_that_cannot_be_is_refused_with_what_can(answers, problem):
    with pytest.raises(SpecError, match=problem) as error:
        Form().with_answers(**answers)
    assert error.value.instead


def test_every_answer_of_the_form_reaches_some_rule_that_others_do_not():
    for key, question in QUESTIONS.items():
        verdicts = {
            rule_on(NEWS, Form("facts", "daily").with_answers(**{key: word})).verdict
            for word in question.answers
        }
        assert (len(verdicts) > 1) == question.decides
