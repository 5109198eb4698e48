"""The table of rules: when, what to do, why, and by whose word. The first rule that applies decides. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ft_magic.advising.figures import Figures, Way
from ft_magic.advising.form import FAST, Form

PROMPTING, RETRIEVAL, FINE_TUNE = "prompting", "retrieval", "fine-tune"
BOTH, COLLECT, DO_NOT = "fine-tune + retrieval", "collect more data first", "do not fine-tune"
DEPENDS = "depends"  # what nobody has answered decides
VERDICTS = (PROMPTING, RETRIEVAL, FINE_TUNE, BOTH, COLLECT, DO_NOT)

# OpenAI, Fine-tuning guide: "clear improvements from fine-tuning on 50 to 100 training examples".
FEW_ROWS = 50
# LIMA (arXiv 2305.11206): 1,000 chosen rows taught a 65B model a style; for free text no score shows less is enough.
STYLE_ROWS = 1000
# A model learns the mixture it is shown: one row in ten of another form is one answer in ten of another form.
ONE_SHAPE = 0.9
# At most one fact in ten from outside the questions: the task copies and forms what it is given.
COPIED = 0.1
# More than half of the facts from outside the questions: whoever trains on form alone trains facts too.
MOSTLY_OUTSIDE = 0.5

_OVADIA = "Ovadia et al. 2023, Fine-Tuning or Retrieval? (arXiv 2312.05934)"
_GEKHMAN = "Gekhman et al. 2024, new knowledge and hallucination (arXiv 2405.05904)"
_RAFT = "Zhang et al. 2024, RAFT (arXiv 2403.10131)"
_LIMA = "Zhou et al. 2023, LIMA (arXiv 2305.11206)"
_OPENAI = "OpenAI, Fine-tuning guide: prompts first; gains are seen from 50 to 100 rows on"


@dataclass(frozen=True)
class Rule:
    """One row.

    Attributes:
        name: of the rule.
        when: its condition in words.
        applies: the condition; a form is complete where a rule reads it.
        verdict: one of ``VERDICTS``.
        why: in one sentence.
        source: a paper, a provider's page, or the measurement itself.
    """

    name: str
    when: str
    applies: Callable[[Figures, Form], bool]
    verdict: str
    why: str
    source: str


def good(way: Way | None, form: Form) -> bool:
    """Return whether a way of asking reaches the target."""
    return way is not None and way.score is not None and way.score.mean >= form.target


def _similar_surely_better(found: Figures) -> bool:
    gain = found.nearest_gain
    return gain is not None and gain.score is not None and gain.score.sure_sign > 0


def _examples_suffice(found: Figures, form: Form) -> bool:
    """Random examples reach the target, or similar ones that cannot be told from random ones."""
    return good(found.few, form) or (good(found.nearest, form) and not _similar_surely_better(found))


def own_facts(found: Figures) -> bool:
    """Return whether answers hold facts that their questions do not; yes where too few facts were seen to tell.

    Labels are none: a small set, each seen in many rows, is learned like a form.
    """
    return found.kind != "label" and (found.outside is None or found.outside > COPIED)


def _asks_facts(found: Figures, form: Form) -> bool:
    return form.needs == "facts" and own_facts(found)


def _nothing_to_find(found: Figures, form: Form) -> bool:
    """Facts change fast, and neither other rows nor similar examples hold them."""
    gain = found.nearest_gain
    likelier = gain is not None and gain.loss is not None and gain.loss.sure_sign < 0
    helped = likelier or _similar_surely_better(found)
    absent = found.outside is not None and (found.unknown or 0.0) > MOSTLY_OUTSIDE
    return _asks_facts(found, form) and form.facts_change in FAST and absent and not helped


def _mixed(found: Figures) -> bool:
    return found.same_shape is not None and found.same_shape < ONE_SHAPE


def _hidden_facts(found: Figures, form: Form) -> bool:
    return form.needs in ("format", "style") and (found.outside or 0.0) > MOSTLY_OUTSIDE


def _no_score(found: Figures) -> bool:
    return found.few is None or found.few.score is None


RULES = (
    Rule(
        "already right",
        "the question alone reaches the target",
        lambda found, form: good(found.zero, form),
        DO_NOT,
        "The model answers well enough as it is; training could only cost.",
        "measured on your held-out rows",
    ),
    Rule(
        "examples suffice",
        "a few examples in the prompt reach the target: random ones, or similar ones that are not surely better",
        _examples_suffice,
        PROMPTING,
        "A few examples in the prompt are enough, and they can be changed at any time.",
        f"measured on your held-out rows; {_OPENAI}",
    ),
    Rule(
        "similar examples suffice",
        "the most similar rows in the prompt reach the target, and are surely better than random ones",
        lambda found, form: good(found.nearest, form),
        RETRIEVAL,
        "Looking up similar rows for each question is enough; new rows count at once, without training.",
        f"measured on your held-out rows; {_OVADIA}",
    ),
    Rule(
        "moving facts, not in the rows",
        "it needs facts that change within a month, over half of them stand in no other row, and similar rows bring "
        "nothing",
        _nothing_to_find,
        DO_NOT,
        "The weights would hold facts that are out of date soon, and a model taught facts it cannot know learns to "
        "make them up. The rows do not hold what new questions ask: find the documents that do, and retrieve.",
        f"{_GEKHMAN}; {_OVADIA}",
    ),
    Rule(
        "facts",
        "it needs facts that the questions do not hold",
        _asks_facts,
        RETRIEVAL,
        "Models take up new facts from fine-tuning slowly and then make up more; looked up, facts are right at once "
        "and can change.",
        f"{_OVADIA}; {_GEKHMAN}",
    ),
    Rule(
        "few rows",
        f"fewer than {FEW_ROWS} different rows",
        lambda found, _: found.distinct < FEW_ROWS,
        COLLECT,
        "So few rows are remembered, not learned from. Until there are more, put some of them into the prompt.",
        _OPENAI,
    ),
    Rule(
        "mixed form",
        f"fewer than {ONE_SHAPE:.0%} of the answers have the same form",
        lambda found, _: _mixed(found),
        COLLECT,
        "A model learns the mixture it is shown: mend or remove the rows of another form first.",
        "supervised training fits the distribution of the answers (cross-entropy)",
    ),
    Rule(
        "form and facts",
        "it needs a form and facts that the questions do not hold",
        lambda found, form: form.needs == "both" and own_facts(found),
        BOTH,
        "Train the form on rows whose prompts hold the retrieved facts; let retrieval bring the facts.",
        f"{_RAFT}; {_OVADIA}",
    ),
    Rule(
        "form that hides facts",
        "it needs form or style, but over half of the answers' facts stand outside the questions",
        _hidden_facts,
        BOTH,
        "Training on these rows for their form trains their facts too, which teaches to make facts up: put the facts "
        "into the prompts.",
        f"{_GEKHMAN}; {_RAFT}",
    ),
    Rule(
        "not measured",
        "no few-shot score is known",
        lambda found, _: _no_score(found),
        PROMPTING,
        "Whether a prompt is enough has not been measured; it is the cheapest thing to try.",
        _OPENAI,
    ),
    Rule(
        "free text, not many rows",
        f"free text, whose score cannot show that a prompt is not enough, and fewer than {STYLE_ROWS:,} rows",
        lambda found, _: not found.absolute and found.distinct < STYLE_ROWS,
        PROMPTING,
        "Shared words do not tell good free text from bad: read the answers with examples, or judge them, before "
        "training.",
        _LIMA,
    ),
    Rule(
        "prompts fall short",
        f"examples in the prompt stay below the target, with {FEW_ROWS} rows and more of one form",
        lambda _found, _form: True,
        FINE_TUNE,
        "Examples in the prompt do not reach the target, and there are enough rows of one form to learn from.",
        f"measured on your held-out rows; {_OPENAI}",
    ),
)


def first(found: Figures, form: Form) -> Rule:
    """Return the rule that decides; the last one always applies."""
    return next(rule for rule in RULES if rule.applies(found, form))
