"""Refusals: answers that decline, known by their openings; ordinary apologies are none."""

import pytest

from ft_magic.data import Data
from ft_magic.data.report.refusals import is_refusal, refuses


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but as an AI language model I cannot do that.",
        "I\u2019m sorry, but I can\u2019t assist with that.",
        "Sorry, I can't help you with that request.",
        "As an AI language model, I don't have personal opinions.",
        "As an AI assistant developed by OpenAI, I am unable to browse.",
        "I apologize, but I'm not able to provide medical advice.",
        "I am unable to fulfill your request.",
        "I cannot provide instructions for picking locks.",
        "I'm just an AI, I don't eat.",
        "Es tut mir leid, aber als KI-Modell kann ich das nicht.",
        "Je suis désolé, mais en tant que modèle de langage, je ne peux pas.",
        "Lo siento, pero como modelo de lenguaje, no puedo.",
        "抱歉\uff0c作为AI语言模型\uff0c我无法回答。",
    ],
)
def test_openings_that_refuse(answer):
    assert is_refusal(answer)
    assert is_refusal(f"  {answer}")


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry for the delay, your parcel left today.",
        "I'm sorry to hear that. Try a warm bath.",
        "I apologize for the confusion. The answer is 4.",
        "Unfortunately, I cannot attend the meeting on Monday.",
        "I can't help falling in love with you.",
        "I cannot provide the exact number, but it is about five.",
        "As an AI researcher, I don't sleep much.",
        "As an assistant manager, I do not work on Sundays.",
        "I am an AI engineer who does not like meetings.",
        "The model said: I'm sorry, but I can't assist with that.",
        "Als Kind konnte ich nicht schwimmen.",
        "",
    ],
)
def test_ordinary_answers_are_not_accused(answer):
    assert not is_refusal(answer)


NO = "I'm sorry, but I can't assist with that."


@pytest.mark.parametrize(
    ("row", "taught"),
    [
        ({"prompt": NO, "completion": "Yes."}, False),
        ({"prompt": "Go", "completion": NO}, True),
        ({"prompt": "Go", "chosen": NO, "rejected": "Yes."}, True),
        ({"prompt": "Go", "chosen": "Yes.", "rejected": NO}, False),
        ({"prompt": "Go", "completion": NO, "label": True}, True),
        ({"prompt": "Go", "completion": NO, "label": False}, False),
        ({"messages": [{"role": "user", "content": NO}, {"role": "assistant", "content": "Yes."}]}, False),
        ({"messages": [{"role": "user", "content": "Go"}, {"role": "assistant", "content": NO}]}, True),
        ({"text": NO}, False),
    ],
)
def test_only_answers_the_model_learns_count(row, taught):
    assert refuses(row) is taught


def test_the_report_points_at_them_and_the_fix_takes_them_out():
    rows = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(120)]
    data = Data((*rows, {"prompt": "How?", "completion": NO}), "demo")
    finding = next(f for f in data.report().findings if f.name == "refusals")
    assert (finding.level, finding.count, finding.examples) == ("warning", 1, (120,))
    assert data.fix("refusals").rows == tuple(rows)
