"""Every warning that a plan owes its reader: there once, with its fix, from real rows and a real template."""

import json
import shutil

import pytest
from rows import demos

import ft_magic as ft
from ft_magic.errors import TemplateError

PLAIN = {"backend": "fake"}


def warned(**spec):
    return ft.plan(**(PLAIN | spec)).warnings


def once(found, words):
    (advice,) = [warning for warning in found if words in warning.message]
    assert advice.fix
    return advice


def many(count=150):
    return [{"prompt": f"Add {i} and {i}.", "completion": f"It is {2 * i}."} for i in range(count)]


@pytest.fixture
def endless(tiny, tmp_path):
    """A model whose template forgets the stop token after an answer."""
    folder = tmp_path / "endless"
    shutil.copytree(tiny, folder)
    for file in (folder / "chat_template.jinja", folder / "tokenizer_config.json"):
        if file.exists():
            file.write_text(
                file.read_text()
                .replace("+ '<|im_end|>\\n'", "+ '\\n'")
                .replace("+ '<|im_end|>\\\\n'", "+ '\\\\n'")
            )
    return folder


def test_fewer_than_a_hundred_examples(tiny, runs_folder):
    assert "prompting" in once(warned(model=str(tiny), data=demos(40)), "rows to train on").fix
    assert not [w for w in warned(model=str(tiny), data=many()) if "rows to train on" in w.message]


def test_rows_that_are_in_training_and_held_out(tiny, runs_folder):
    rows = many()
    found = warned(model=str(tiny), data=rows, eval_data=rows[:10])
    once(found, "held-out")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"learning_rate": 0.5}, "is high"),
        ({"learning_rate": 1e-9}, "is low"),
        ({"update": "full", "learning_rate": 1e-3}, "is high"),
        ({"num_train_epochs": 20}, "passes over the data memorise it"),
    ],
)
def test_numbers_that_rarely_end_well(tiny, runs_folder, spec, words):
    once(warned(model=str(tiny), data=many(), **spec), words)


def test_a_stop_token_that_is_never_trained_is_refused_and_warned_of_when_asked_to_go_on(
    endless, runs_folder
):
    with pytest.raises(TemplateError, match="will not stop") as error:
        ft.plan(model=str(endless), data=many(), **PLAIN)
    assert "audit: warn" in error.value.instead
    once(warned(model=str(endless), data=many(), audit="warn"), "will not stop")


def test_a_template_that_is_not_judged_is_noted(tiny, runs_folder):
    made = ft.plan(model=str(tiny), data=many(), audit="off", **PLAIN)
    assert sum("nobody judged the chat template" in note for note in made.notes) == 1


def test_no_warning_stands_twice_in_the_plan_or_in_the_run(tiny, runs_folder):
    spec = {
        "model": str(tiny),
        "data": demos(40),
        "learning_rate": 0.5,
        "num_train_epochs": 20,
        "max_steps": 2,
    }
    run = ft.finetune(**spec, **PLAIN, detach=True)
    run.wait(30)
    told = [event["message"] for event in run.events() if event.kind == "warning"]
    assert len(told) == len(set(told)) >= 2
    assert json.dumps(told)
