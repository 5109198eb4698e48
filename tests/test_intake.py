"""What a spec names becomes objects; what is held out must not be trained on."""

import json
import shutil

import pytest

import ft_magic as ft
from ft_magic.errors import ModelError

ROWS = [
    {"prompt": f"How far is it to town {n}?", "completion": f"Town {n} lies {n * 7} miles to the north."}
    for n in range(40)
]
STORY = (
    "The old mill stands where the river bends, and each spring the children sail paper boats from its wheel to the "
    "bridge, while their parents sit on the wall and count which boats arrive"
)
OTHER = {"prompt": "What is a mill?", "completion": "A building that grinds grain."}


def warned(tiny, data, **more):
    plan = ft.plan(model=str(tiny), data=data, **more)
    return [(advice.message, advice.fix) for advice in plan.warnings if "held-out" in advice.message]


@pytest.mark.parametrize(
    ("row", "how"),
    [
        (ROWS[3], "1 equal rows"),
        (ROWS[3] | {"completion": "Far away."}, "1 with an equal prompt"),
        (OTHER, None),
    ],
)
def test_rows_that_are_also_in_eval_data_are_warned_about_before_training(tiny, runs_folder, row, how):
    found = warned(tiny, ROWS, eval_data=[row, OTHER])
    assert len(found) == (how is not None)
    if how:
        assert how in found[0][0]
        assert "data.fix('leakage'" in found[0][1]


def test_nearly_equal_rows_on_both_sides_of_the_own_split_are_warned_about(tiny, runs_folder):
    alike = [{"prompt": f"Story {n}?", "completion": f"{STORY}, said number {n}."} for n in range(12)]
    found = warned(tiny, ROWS + alike, eval_fraction=0.3)
    assert len(found) == 1
    assert "split(near=True)" in found[0][1]


def test_nothing_is_warned_about_where_nothing_is_held_out(tiny, runs_folder):
    assert warned(tiny, [*ROWS, ROWS[0]], eval_fraction=0) == []


def test_a_teacher_with_another_vocabulary_is_refused_before_anything_is_loaded(tiny, tmp_path, runs_folder):
    teacher = shutil.copytree(tiny, tmp_path / "teacher")
    same = ft.plan(model=str(tiny), data=ROWS, method="distill", teacher=str(teacher), eval_fraction=0)
    assert same.spec.teacher == str(teacher)
    file = teacher / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = told["model"]["vocab"]
    vocabulary["e"], vocabulary["o"] = vocabulary["o"], vocabulary["e"]
    file.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(ModelError, match="another vocabulary") as error:
        ft.plan(model=str(tiny), data=ROWS, method="distill", teacher=str(teacher), eval_fraction=0)
    assert "synthesise" in error.value.instead
