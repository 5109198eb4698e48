from types import SimpleNamespace

import pytest

from ft_magic.axes import METHODS, UPDATES
from ft_magic.axes.pipelines import PIPELINES
from ft_magic.shell import completion
from ft_magic.shell.completion import candidates
from ft_magic.spec import Spec


@pytest.fixture(autouse=True)
def no_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_MAGIC_RUNS", str(tmp_path))
    folder = tmp_path / "20261121-first"
    folder.mkdir()
    (folder / "run.json").write_text("{}")


def complete(before, head="", symbol=None, variables=None):
    """Complete at the end of a line; IPython replaces what follows the last delimiter."""
    if symbol is None:
        symbol = before
        for delimiter in " =$:[,":
            symbol = symbol.rpartition(delimiter)[2]
    return candidates(before, head or before, variables or {}, symbol)


def test_every_key_completes_in_body_and_line():
    assert complete("", head="%%finetune run") == sorted(Spec.model_fields)
    assert complete("%%finetune ") == sorted(Spec.model_fields)


def test_the_words_of_an_axis_complete():
    assert complete("method: ", head="%%finetune") == sorted([*METHODS, *PIPELINES])
    assert complete("%sft r update=") == sorted(UPDATES)


def test_variables_complete_with_or_without_their_dollar():
    variables = {"prefs": 1, "other": 2}
    assert complete("data: $pr", head="%%dpo", variables=variables) == ["prefs"]
    assert complete("data: ", head="%%dpo", variables=variables) == ["$other", "$prefs"]
    assert complete("target_modules: [a, $pr", head="%%dpo", variables=variables) == ["prefs"]
    assert complete("%ft data $o", variables=variables) == ["other"]


def test_models_and_runs_complete():
    assert complete("model: ", head="%%sft") == ["20261121-first", "demo"]
    assert complete("%ft stop 2026") == ["20261121-first"]


def test_options_complete_after_an_assignment():
    assert complete("x = %ft export r --g") == ["--gguf"]


@pytest.mark.parametrize(
    ("before", "head"),
    [
        ("lea", "x = 1"),
        ("lea", "%%time"),
        ("lea", "%finetune run"),
        ("# 10 %ft", "# 10 %ft"),
        ("%fts ", "%fts "),
        ("%ft nonsense ", "%ft nonsense "),
        ("a word ", "%%finetune"),
        ("%ft", "%ft"),
    ],
)
def test_nothing_of_ours_is_offered_elsewhere(before, head):
    assert complete(before, head) == []


def test_the_cell_comes_from_the_kernels_request_or_the_terminals_buffer():
    request = {"content": {"code": "\n%%finetune run\nlea"}}
    kernel = SimpleNamespace(get_parent=lambda channel: request if channel == "shell" else None)
    assert completion._cell_head(SimpleNamespace(kernel=kernel)) == "%%finetune run"
    buffer = SimpleNamespace(default_buffer=SimpleNamespace(text="%%sft\nlea"))
    assert completion._cell_head(SimpleNamespace(pt_app=buffer)) == "%%sft"
    assert completion._cell_head(SimpleNamespace()) == ""
