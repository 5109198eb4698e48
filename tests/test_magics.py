import json
import sqlite3
import subprocess
import sys

import pytest
from notebook_shell import NotebookShell

from ft_magic import run_list as run_module
from ft_magic.axes import METHODS
from ft_magic.errors import DataError, RunError, SpecError
from ft_magic.run import Run


class FakePlan:
    def __repr__(self):
        return "PLAN TEXT"

    def _repr_html_(self):
        return "<b>PLAN</b>"


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_MAGIC_RUNS", str(tmp_path / "ft_runs"))
    monkeypatch.setattr("ft_magic.models.resolve", lambda *_, **__: tmp_path)  # nothing is downloaded
    monkeypatch.setattr(run_module, "_last", None)
    made = NotebookShell()
    yield made
    made.close()


def make_run(tmp_path, name="first", status="finished"):
    folder = tmp_path / "ft_runs" / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"name": name, "status": status, "pid": None}))
    (folder / "plan.json").write_text("{}")
    (folder / "log.txt").write_text("one\ntwo\nthree\n")
    return Run(folder)


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Let ``finetune`` note what it was given and return a finished run; returns the notes."""
    calls = []

    def finetune(**values):
        calls.append(values)
        return run_module.remember(make_run(tmp_path, f"run-{len(calls)}"))

    monkeypatch.setattr("ft_magic.launch.finetune", finetune)
    monkeypatch.setattr("ft_magic.launch.make_plan", lambda **values: calls.append(values) or FakePlan())
    return calls


# -- starting a run


def test_a_cell_starts_a_run_and_binds_it(shell, trained):
    shell.variables["ds"] = rows = [{"text": "a"}]
    result = shell.run("%%finetune run\nmodel: demo\ndata: $ds\nlearning_rate: 2e-4\npacking: no\n")
    assert trained == [{"model": "demo", "data": rows, "learning_rate": 2e-4, "packing": "no"}]
    assert trained[0]["data"] is rows
    assert shell.variables["run"] is result


def test_the_run_is_also_the_last_run(shell, trained):
    import ft_magic as ft

    shell.run("%%sft r\nmodel: demo\ndata: x.json\n")
    assert ft.last_run.name == "run-1"


def test_a_terminal_shows_a_run_in_one_line(shell, trained, capsys):
    shell.run("%%sft\nmodel: demo\ndata: x.json\n")
    assert capsys.readouterr().out == "Out[1]: <Run run-1: finished>\n"


def test_a_detached_run_is_shown(shell, trained, monkeypatch, tmp_path, capsys):
    run = make_run(tmp_path, "under-way")
    monkeypatch.setattr(Run, "status", property(lambda _: "running"))
    monkeypatch.setattr("ft_magic.launch.finetune", lambda **_: run)
    shell.run("%%sft\nmodel: demo\ndata: x.json\ndetach: yes\n")
    assert "under-way" in capsys.readouterr().out


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_magic_that_pins_it(shell, trained, method):
    shell.run(f"%{method} r model=demo data=x.json")
    shell.run(f"%%{method} r\nmodel: demo\ndata: x.json\nmethod: {method}\n")
    assert [values["method"] for values in trained] == [method, method]


def test_a_pinned_magic_refuses_another_method(shell, trained):
    with pytest.raises(SpecError, match="sft is given, but %%dpo always runs dpo"):
        shell.run("%%dpo r\nmodel: demo\nmethod: sft\n")
    assert not trained


def test_the_line_form_reads_quotes_lists_and_variables(shell, trained):
    shell.variables["run"] = base = object()
    shell.run('%dpo run2 model=$run data="my prefs.json" target_modules=[q_proj, v_proj] beta=1e-1 --detach')
    assert trained == [
        {
            "model": base,
            "data": "my prefs.json",
            "target_modules": ["q_proj", "v_proj"],
            "beta": 0.1,
            "detach": True,
            "method": "dpo",
        }
    ]


@pytest.mark.parametrize("cell", ["%%sft r model=demo data=x.json", "\n%%sft r model=demo data=x.json\n\n"])
def test_a_cell_magic_without_a_body_works(shell, trained, cell):
    shell.run(cell)
    assert trained[0]["model"] == "demo"


def test_other_magics_keep_their_empty_body_error(shell):
    with pytest.raises(Exception, match="body is empty"):
        shell.run("%%time")


def test_a_line_magic_can_be_assigned(shell, trained):
    shell.run("r = %sft model=demo data=x.json")
    assert isinstance(shell.variables["r"], Run)


def test_ipythons_own_expansion_does_not_touch_the_line(shell, trained):
    shell.variables["x"] = 5
    shell.run("%sft r model={x} data=$x")
    assert trained == [{"model": {"x": None}, "data": 5, "method": "sft"}]


def test_a_dry_run_shows_the_plan_and_the_python_and_starts_nothing(shell, trained):
    shell.variables.update(ds=[1], base="kept")
    shown = shell.run("%%dpo r --dry-run\nmodel: demo\ndata: $ds\ntrainer: {x: [$base, 1]}\n")
    assert "r" not in shell.variables
    assert "<b>PLAN</b>" in shown.html
    code = shown.text.partition("The same in Python:\n")[2]
    seen = {}
    namespace = {"ds": [1], "base": "kept"}
    fake = type(sys)("ft_magic")
    fake.finetune = lambda **values: seen.update(values) or "RUN"
    before = sys.modules["ft_magic"]
    sys.modules["ft_magic"] = fake
    try:
        exec(code, namespace)
    finally:
        sys.modules["ft_magic"] = before
    assert namespace["r"] == "RUN"
    assert seen == trained[0]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%%finetune class\nmodel: demo\n", "'class' is a Python keyword"),
        ("%%finetune list\nmodel: demo\n", "'list' is a Python built-in"),
        ("%%finetune my-run\nmodel: demo\n", "no Python name"),
        ("%%finetune a b\nmodel: demo\n", "'b' is no key=value"),
        ("%%finetune a seed=\nmodel: demo\n", "seed= has no value"),
        ("%%finetune a seed=1 seed=2\n", "'seed' is given twice: on the line"),
        ("%%finetune a seed=1\nseed: 2\n", "'seed' is given twice: on the line and in the body"),
        ("%%finetune a --detach\ndetach: no\n", "'detach' is given twice"),
        ("%%finetune a --detatch\n", "Did you mean '--detach'"),
        ("%%finetune a --learning-rate 1\n", "Write learning_rate="),
        ('%%finetune a data="x\nmodel: demo\n', "quote is not closed"),
        ("%%finetune a\ndata: $preffs\n", "Did you mean 'prefs'"),
        ("%%finetune a\ndata: {a} and {b}\n", "body line 1"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_on(shell, trained, cell, message):
    shell.variables["prefs"] = []
    with pytest.raises(SpecError) as caught:
        shell.run(cell)
    assert message in str(caught.value)
    assert caught.value.instead
    assert not trained


def test_an_error_shows_its_clean_lines_only(shell, trained, capsys):
    shell.ip.run_cell("%%finetune class\nmodel: demo\n")
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).strip().splitlines()
    assert lines == [
        "SpecError: 'class' is a Python keyword and cannot hold the run.",
        "Write for example `my_class`.",
    ]


def test_a_forgotten_dollar_is_pointed_out(shell):
    shell.variables["prefs"] = []
    with pytest.raises(DataError, match=r"To use your variable prefs, write data: \$prefs"):
        shell.run("%%sft r\nmodel: demo\ndata: prefs\n")


def test_unknown_keys_are_errors_before_anything_starts(shell):
    with pytest.raises(SpecError, match=r"unknown key 'modle'\. Did you mean 'model'"):
        shell.run("%%sft r\nmodle: demo\ndata: x.json\n")


def test_help_lists_every_key_and_option(shell):
    from ft_magic.spec import Spec

    text = shell.run("%finetune --help").text
    assert all(key in text for key in Spec.model_fields)
    assert "--dry-run" in text
    assert "trl, unsloth" in text


# -- verbs


def test_ft_alone_and_help_list_every_verb(shell):
    from ft_magic.shell.verbs import VERBS

    for cell in ("%ft", "%ft --help"):
        text = shell.run(cell)
        assert all(f"  {name}" in text for name in VERBS)


def test_the_verbs_of_the_contract_are_there():
    from ft_magic.shell.verbs import VERBS

    asked = "doctor data plan runs attach stop resume logs evaluate merge export chat methods"
    assert set(asked.split()) <= set(VERBS)


def test_every_verb_has_help(shell):
    from ft_magic.shell.verbs import VERBS

    for verb in VERBS.values():
        text = shell.run(f"%ft {verb.name} --help")
        assert verb.title in text
        assert all(
            flag in text for argument in verb.arguments if argument.optional for flag in argument.flags
        )


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%ft exprot", "Did you mean 'export'"),
        ("%ft export --ggf q8_0", "Did you mean '--gguf'"),
        ("%ft logs -n many", "invalid int value"),
        ("%ft data", "required: source"),
        ("%ft stop a b", "'b' is not understood"),
        ("%ft stop", "no run yet"),
        ("%ft stop $ds", "$ds is a list, not a run"),
        ("%ft stop $nothing", "no variable 'nothing'"),
        ("%%ft runs\nhello\n", "runs takes no cell body"),
        ("%ft data x.json --columns prompt", "--columns prompt cannot be read"),
        ("%ft finetune nowhere.yaml", "'nowhere.yaml' cannot be read"),
    ],
)
def test_a_wrong_verb_is_an_error_and_never_leaves_the_kernel(shell, cell, message):
    shell.variables["ds"] = []
    with pytest.raises(SpecError) as caught:
        shell.run(cell)
    assert message in str(caught.value)


@pytest.mark.parametrize("word", ["r", "$r", "second", "", "{folder}"])
def test_a_run_is_named_by_variable_name_folder_or_left_out(shell, tmp_path, word):
    run = make_run(tmp_path, "second")
    run_module.remember(run)
    shell.variables["r"] = run
    assert shell.run(f"%ft logs {word.format(folder=run.path)}") == "one\ntwo\nthree"


def test_a_variable_comes_before_a_run_of_the_same_name(shell, tmp_path):
    make_run(tmp_path, "first")
    (tmp_path / "ft_runs" / "first" / "log.txt").write_text("of the folder")
    shell.variables["first"] = make_run(tmp_path, "other")
    assert shell.run("%ft logs first -n 1") == "three"


def test_an_unknown_run_names_the_nearest_variable(shell, tmp_path):
    shell.variables["my_run"] = make_run(tmp_path)
    with pytest.raises(SpecError, match="Did you mean 'my_run'"):
        shell.run("%ft logs my_rnu")


def test_an_unknown_run_without_a_near_one_says_so(shell):
    with pytest.raises(RunError, match="no run 'zzz'"):
        shell.run("%ft logs zzz")


def test_text_is_shown_line_by_line(shell, tmp_path, capsys):
    make_run(tmp_path, "first")
    shell.run("%ft logs first -n 2")
    assert "two\nthree" in capsys.readouterr().out


def test_data_returns_the_data_with_the_given_columns(shell, tmp_path):
    file = tmp_path / "my data.jsonl"
    rows = [{"my q": f"question {i}", "a": f"answer {i}"} for i in range(5)]
    file.write_text("\n".join(map(json.dumps, rows)))
    shell.run(f'ds = %ft data "{file}" --columns prompt="my q",completion=a --limit 3')
    assert len(shell.variables["ds"]) == 3
    assert shell.variables["ds"].signal == "demo"


def test_data_asks_for_a_part_of_a_source(shell, tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("create table talks (question, answer, stars)")
        connection.executemany(
            "insert into talks values (?, ?, ?)", [("Who?", "Me", 5), ("Where?", "Here", 1)]
        )
    connection.close()
    data = shell.run(f'%ft data {tmp_path}/a.db --query "select question, answer from talks where stars > 3"')
    assert data.rows == ({"prompt": "Who?", "completion": "Me"},)
    assert len(shell.run(f"%ft data {tmp_path}/a.db --table talks")) == 2
    with pytest.raises(DataError, match="sheet= goes with spreadsheets"):
        shell.run(f"%ft data {tmp_path}/a.db --sheet S")


def test_data_takes_a_variable(shell):
    shell.variables["rows"] = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(4)]
    assert len(shell.run("%ft data $rows")) == 4


def test_plan_reads_line_and_body(shell, trained):
    shell.variables["ds"] = rows = []
    assert isinstance(shell.run("%ft plan model=demo data=$ds update=lora"), FakePlan)
    shell.run("%%ft plan seed=1\nmodel: demo\ndata: $ds\n")
    assert trained == [
        {"model": "demo", "data": rows, "update": "lora"},
        {"seed": 1, "model": "demo", "data": rows},
    ]


class Recorder:
    """Stands in for a run's methods and notes how they were called."""

    def __init__(self, monkeypatch, **answers):
        self.calls = []
        for name, answer in answers.items():
            monkeypatch.setattr(Run, name, self._method(name, answer))

    def _method(self, name, answer):
        def method(run, *args, **kwargs):
            self.calls.append((name, run.name, args, kwargs))
            return answer

        return method


def test_export_passes_types_and_options_on(shell, tmp_path, monkeypatch):
    make_run(tmp_path, "first")
    seen = Recorder(monkeypatch, export="EXPORT")
    assert shell.run("%ft export first --gguf q4_k_m,q8_0 --ollama --folder out") == "EXPORT"
    shell.run("%ft export first")
    first, second = (kwargs for _, _, _, kwargs in seen.calls)
    assert first == {"gguf": ("q4_k_m", "q8_0"), "ollama": True, "folder": "out"}
    assert second == {"gguf": ("q4_k_m",), "ollama": False, "folder": None}


def test_attach_resume_stop_evaluate_and_merge_reach_the_run(shell, tmp_path, monkeypatch, capsys):
    shell.variables["r"] = run = make_run(tmp_path)
    seen = Recorder(monkeypatch, attach=run, resume=run, stop=None, evaluate="SCORES", merge=tmp_path)
    for cell in (
        "%ft attach r",
        "%ft resume r --detach",
        "%ft stop r --now",
        "%ft evaluate r",
        "%ft merge r",
    ):
        shell.run(cell)
    assert [(name, kwargs) for name, _, _, kwargs in seen.calls] == [
        ("attach", {}),
        ("resume", {"detach": True}),
        ("stop", {"now": True}),
        ("evaluate", {"samples": 8, "score": None}),
        ("merge", {}),
    ]
    assert "SCORES" in capsys.readouterr().out


class FakeChat:
    closed = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def say(self, text):
        return f"you said\n{text}"

    def repl(self):
        pytest.fail("a notebook must never wait for typing")


def test_evaluate_takes_a_score_function_by_name(shell, tmp_path, monkeypatch):
    shell.variables["r"] = run = make_run(tmp_path)
    seen = Recorder(monkeypatch, evaluate="SCORES")
    shell.variables["judge"] = judge = lambda *_: 1.0
    shell.run("%ft evaluate r --samples 3 --score $judge")
    assert seen.calls[0][3] == {"samples": 3, "score": judge}
    shell.variables["judge"] = "good"
    with pytest.raises(SpecError, match="is no function"):
        shell.run("%ft evaluate r --score $judge")
    assert run.name


def test_chat_answers_one_message_or_returns_the_chat(shell, tmp_path, monkeypatch):
    shell.variables["r"] = make_run(tmp_path)
    chat = FakeChat()
    seen = Recorder(monkeypatch, chat=chat)
    assert shell.run('%ft chat r --gguf q8_0 --say "it\'s me"') == "you said\nit's me"
    assert chat.closed
    assert shell.run("%%ft chat r --gguf\nhello\nthere\n") == "you said\nhello\nthere"
    assert shell.run("%ft chat r --gguf") is chat
    assert [kwargs for _, _, _, kwargs in seen.calls] == [{"gguf": "q8_0"}, {"gguf": None}, {"gguf": None}]


def test_methods_shows_every_combination(shell):
    shown = shell.run("%ft methods")
    for method in METHODS:
        assert method in repr(shown)
    assert "qlora" in shown._repr_html_()


def test_runs_lists_nothing_at_first(shell):
    assert len(shell.run("%ft runs")) == 0


# -- loading and unloading


def test_reloading_leaves_nothing_doubled_and_unloading_nothing_behind(shell):
    def traces():
        ip = shell.ip
        hooks = ip.strdispatchers["complete_command"].regexs.values()
        return (
            sum(type(part).__name__ == "FineTuning" for part in ip.configurables),
            sum("ft_magic" in getattr(hook, "__module__", "") for chain in hooks for _, hook in chain.chain),
            sum(
                "ft_magic" in f.__module__ for f in ip.input_transformers_cleanup if hasattr(f, "__module__")
            ),
            sum(name in ip.magics_manager.magics["line"] for name in ("ft", "finetune", *METHODS)),
            sum(name in ip.magics_manager.magics["cell"] for name in ("ft", "finetune", *METHODS)),
        )

    everything = 2 + len(METHODS)
    shell.run("%reload_ext ft_magic")
    shell.run("%reload_ext ft_magic")
    assert traces() == (1, 1, 1, everything, everything)
    shell.run("%unload_ext ft_magic")
    assert traces() == (0, 0, 0, 0, 0)
    assert "FineTuning" not in shell.ip.magics_manager.registry
    shell.run("%load_ext ft_magic")
    assert traces() == (1, 1, 1, everything, everything)


def test_docs_name_the_help(shell):
    assert "--help" in shell.ip.find_line_magic("ft").__doc__
    for method in METHODS:
        assert f"%%{method} [NAME]" in shell.ip.find_cell_magic(method).__doc__


LOAD = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
ip = InteractiveShell.instance()
before = set(sys.modules)
began = time.perf_counter()
ip.run_line_magic("load_ext", "ft_magic")
took_s = time.perf_counter() - began
print(json.dumps([took_s, sorted(set(sys.modules) - before)]))
"""
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "bitsandbytes",
    "unsloth",
    "plotly",
    "pandas",
    "numpy",
}


def test_loading_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    _, modules = json.loads(done.stdout)
    loaded = {name.partition(".")[0] for name in modules}
    assert not loaded & (HEAVY | {"pydantic", "yaml", "jinja2", "ipywidgets", "tokenizers"})
    assert {name for name in modules if name.startswith("ft_magic")} == {
        "ft_magic",
        "ft_magic.axes",
        "ft_magic.axes.methods",
        "ft_magic.axes.pipelines",
        "ft_magic.axes.rows",
        "ft_magic.axes.signals",
        "ft_magic.axes.updates",
        "ft_magic.shell",
        "ft_magic.shell.completion",
        "ft_magic.errors",
        "ft_magic.magics",
    }
