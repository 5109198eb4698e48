import pytest

from ft_magic.axes import METHODS, UPDATES
from ft_magic.axes.pipelines import PIPELINES
from ft_magic.errors import SpecError
from ft_magic.spec import Spec, choices, parse

LEAST = {"model": "demo", "data": "rows.json"}


def test_the_least_spec_leaves_numbers_to_the_plan():
    spec = parse(LEAST)
    assert (spec.method, spec.update, spec.learning_rate, spec.max_steps) == ("sft", "lora", None, None)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"learning_rat": 1e-4}, "Did you mean 'learning_rate'"),
        ({"method": "stf"}, "Did you mean 'sft'"),
        ({"update": "qlor"}, "Did you mean 'qlora'"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast' cannot be used"),
        ({"learning_rate": -1}, "greater than 0"),
        ({"name": "../escape"}, "no plain folder name"),
        ({"name": "/etc/x"}, "no plain folder name"),
        ({"name": ".."}, "no plain folder name"),
        ({"max_steps": 0}, "max_steps"),
        ({"precision": "fp8"}, "'fp32'"),
        ({"packing": "maybe"}, "packing"),
    ],
)
def test_a_bad_value_is_named_with_what_to_write_instead(more, said):
    with pytest.raises(SpecError) as error:
        parse(LEAST | more)
    assert said in str(error.value)
    assert error.value.instead


def test_all_problems_come_in_one_error():
    with pytest.raises(SpecError) as error:
        parse({"modle": "demo", "data": "x", "learning_rate": "fast"})
    for part in ("modle", "'model' is missing", "learning_rate"):
        assert part in str(error.value)


def test_yaml_words_count_as_flags_only_where_a_flag_is_meant():
    assert parse(LEAST | {"packing": "no"}).packing is False
    assert parse(LEAST | {"detach": "yes"}).detach is True
    assert parse(LEAST | {"optim": "no"}).optim == "no"


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        parse(LEAST).method = "dpo"


def test_completion_knows_the_words_of_a_key():
    assert choices("method") == (*METHODS, *PIPELINES)
    assert choices("update") == tuple(UPDATES)
    assert "bf16" in choices("precision")
    assert choices("packing") == ("true", "false")
    assert choices("learning_rate") == ()


def test_every_key_says_what_it_is():
    for name, field in Spec.model_fields.items():
        assert field.description, name
