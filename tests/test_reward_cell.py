import inspect

import pytest
from notebook_shell import NotebookShell

from ft_magic.errors import FTError, SpecError
from ft_magic.shell.completion import candidates

CORRECT = "def correct(completion, answer):\n    return 1.0 if completion.strip().endswith(answer) else 0.0\n"


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_MAGIC_RUNS", str(tmp_path))
    made = NotebookShell()
    yield made
    made.close()


def figures(shown):
    """Return the first table's rows by name."""
    lines = shown.text.split("\n\n")[0].splitlines()[1:]
    return {line[:14].strip(): line[16:] for line in lines if not line.startswith("\u26a0")}


def test_a_cell_defines_its_function_and_shows_what_it_scores(shell):
    shown = shell.run(f"%%reward_fn correct\n{CORRECT}")
    assert shell.variables["correct"]("It is 42", "42") == 1.0
    found = figures(shown)
    time = found.pop("time")
    # 4 rows, each with its answer, another row's and one made up; only the first of each is right: 1/3, 1/3 * 2/3.
    assert found == {
        "shape": "row: one answer in, one number out",
        "reads": "completion, answer",
        "tried on": "12 answers to 4 built-in rows",
        "scores": "0 to 1, whole numbers",
        "mean, variance": "0.3333, 0.2222",
    }
    assert time.endswith(" ms an answer")
    assert "\u26a0" not in shown.text
    assert "What is the capital of France?" in shown.html


def test_the_function_keeps_its_source_and_the_cell_may_hold_more(shell):
    cell = "import math\nSCALE = 2\ndef half(x):\n    return x / SCALE\n\ndef size(completions):\n    return [half(math.log1p(len(c))) for c in completions]\n"
    shown = shell.run(f"%%reward_fn size\n{cell}")
    assert figures(shown)["shape"] == "batch: lists in, a list of numbers out"
    assert inspect.getsource(shell.variables["half"]) == "def half(x):\n    return x / SCALE\n"
    from ft_magic import rewards

    prepared = rewards.prepare(shell.variables["size"], ["prompt"], [{"prompt": "a"}])
    assert "import math" in prepared.source
    assert "SCALE = 2" in prepared.source


def test_a_function_uses_what_other_cells_define(shell):
    shell.run("import re\nNUMBER = re.compile(r'\\d+')\n")
    shell.run("def numbers(text):\n    return NUMBER.findall(text)\n")
    shown = shell.run("%%reward_fn counted\ndef counted(completion):\n    return len(numbers(completion))\n")
    assert figures(shown)["scores"] == "0 to 4, whole numbers"  # 3 * 12 = 36 #### 36


def test_all_scores_alike_is_warned_of_in_one_line(shell):
    shown = shell.run("%%reward_fn same\ndef same(completion):\n    return 0\n")
    (warning,) = [line for line in shown.text.splitlines() if line.startswith("\u26a0")]
    assert warning.startswith(
        "\u26a0 reward 'same' scores all 12 tried answers, right, wrong and empty ones, 0:"
    )


def test_real_rows_are_tried_with_all_their_columns(shell):
    shell.variables["ds"] = [
        {"prompt": [{"role": "user", "content": f"Question {i}"}], "answer": str(i), "tests": [i]}
        for i in range(10)
    ]
    code = "def passed(completion, prompt, tests):\n    return len(tests) + ('Question' in prompt)\n"
    shown = shell.run(f"%%reward_fn passed data=$ds n=2\n{code}")
    assert figures(shown)["tried on"] == "6 answers to 2 of 10 rows of the data"
    assert "Question 5" in shown.text
    assert figures(shown)["scores"] == "2 to 2, whole numbers"


def test_other_data_becomes_prompts_with_their_answers(shell):
    shell.variables["ds"] = [
        {"instruction": f"Say {word}.", "output": word} for word in ("red", "blue", "green")
    ]
    shown = shell.run(f"%%reward_fn correct data=$ds\n{CORRECT}")
    assert figures(shown)["tried on"] == "9 answers to 3 of 3 rows of the data"
    assert figures(shown)["mean, variance"] == "0.3333, 0.2222"


def test_columns_with_usual_names_are_filled_in_and_told(shell):
    shown = shell.run("%%reward_fn f\ndef f(completion, solution):\n    return completion == solution\n")
    assert figures(shown)["tried on"] == "12 answers to 4 built-in rows, solution = their answer"


def test_a_column_no_built_in_row_has_leaves_the_function_untried(shell):
    shown = shell.run("%%reward_fn f\ndef f(completion, unit_tests):\n    return 1 / 0\n")
    assert shown.text.splitlines()[0] == "Reward f: defined, not tried"
    assert "It reads 'unit_tests', which no built-in row has: try it with data=$your_data." in shown.text
    assert callable(shell.variables["f"])


def test_the_line_form_tries_a_function_again(shell):
    shell.run(CORRECT)
    shell.variables["ds"] = [{"prompt": "a", "answer": "b"}]
    assert (
        figures(shell.run("%reward_fn correct data=$ds"))["tried on"]
        == "2 answers to 1 of 1 rows of the data"
    )
    assert shell.run("%%reward_fn correct\n") is not None


def test_help_lists_the_built_in_rewards(shell):
    text = shell.run("%reward_fn --help").text
    for name in ("exact_answer", "regex", "length", "json_schema", "language", "contains", "no_repetition"):
        assert name in text


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("%%reward_fn\ndef f(completion): return 1", "%%reward_fn: no name of a function comes first."),
        ("%reward_fn corect", "there is no function 'corect'."),
        ("%%reward_fn f dat=$x\ndef f(completion): return 1", "%%reward_fn has no option 'dat'. Did you mean 'data'?"),
        ("%%reward_fn f n=0\ndef f(completion): return 1", "n=0 is no number of rows."),
        ("%%reward_fn f data=$nothing\ndef f(completion): return 1", "$nothing: there is no variable 'nothing'."),
        ("%%reward_fn correct\ndef corect(completion): return 1", "the cell defines corect, but not 'correct'. Did you mean 'corect'?"),
        ("%%reward_fn correct\nx = 1", "the cell does not define 'correct'."),
        ("%%reward_fn f\ndef f(text): return 1", "reward 'f' asks for (text): no completion among them."),
        ("%%reward_fn f\ndef f(completion): return None", "reward 'f' returned None (does every way through it end in a return?) on sample row 0 (prompt: 'What is 17 + 25?', answer: '42')."),
        ("%%reward_fn f\ndef f(completions):\n    return [1 / 0]", "reward 'f' failed with ZeroDivisionError: division by zero (line 2: return [1 / 0])."),
        ("%%reward_fn f\nopen_file = object()\ndef f(completion): return float(open_file is None)", "reward 'f' uses 'open_file' of type object, which cannot be written into the run's files."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(shell, cell, problem):
    with pytest.raises(FTError) as caught:
        shell.run(cell)
    assert caught.value.problem == problem


def test_a_name_that_is_no_column_of_the_data_is_named(shell):
    shell.variables["ds"] = [{"prompt": "a", "answer": "b"}]
    with pytest.raises(SpecError, match="asks for 'anser', which is no column of the data"):
        shell.run("%%reward_fn f data=$ds\ndef f(completion, anser): return 1\n")


def test_a_syntax_error_shows_its_line(shell):
    with pytest.raises(SyntaxError) as caught:
        shell.run("%%reward_fn f\ndef f(completion)\n    return 1\n")
    assert (caught.value.lineno, caught.value.text.strip()) == (1, "def f(completion)")


def test_functions_and_options_complete():
    variables = {"correct": lambda completion: 0, "ds": []}
    assert candidates("%%reward_fn ", "", variables, "") == ["correct"]
    assert candidates("%%reward_fn correct ", "", variables, "") == ["data=", "n="]
    assert candidates("%%reward_fn correct data=$d", "", variables, "d") == ["ds"]
    assert candidates("rewards: ", "%%grpo", variables, "") == ["$correct", "$ds"]


def test_unloading_takes_the_magic_away(shell):
    shell.ip.run_line_magic("unload_ext", "ft_magic")
    assert "reward_fn" not in shell.ip.magics_manager.magics["cell"]
