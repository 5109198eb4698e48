import dataclasses
import importlib

import pytest

from ft_magic import axes
from ft_magic.errors import SpecError


def test_every_method_reads_a_known_signal_and_has_both_learning_rates():
    for method in axes.METHODS.values():
        assert set(method.signals) <= set(axes.SIGNALS)
        assert set(method.learning_rates) == {"adapter", "full"}
        assert method.learning_rates["adapter"] > method.learning_rates["full"]


def test_every_signals_example_is_recognised_as_that_signal():
    for signal in axes.SIGNALS.values():
        assert axes.signal_of(signal.example) is signal


def test_a_pair_is_not_taken_for_a_demonstration():
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "completion": "b"}
    assert axes.signal_of(row).name == "pair"


def test_rows_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        axes.METHODS["sft"].signal = "text"
    with pytest.raises(TypeError):
        axes.METHODS["new"] = axes.METHODS["sft"]


def test_an_unknown_name_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(SpecError, match=r"method 'dqo' does not exist. Did you mean 'dpo'") as error:
        axes.find_method("dqo")
    assert "sft" in error.value.instead


def test_trainers_named_in_the_rows_exist_in_the_installed_library():
    pytest.importorskip("trl", reason="training libraries are not installed")
    for method in axes.METHODS.values():
        for path in (method.trainer, method.config):
            module, name = path.split(":")
            if module.split(".")[0] == "trl":
                assert hasattr(importlib.import_module(module), name)
