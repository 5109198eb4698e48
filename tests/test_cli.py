import os
import subprocess
import sys

import pytest

from ft_magic import __version__, cli
from ft_magic.errors import RunError
from ft_magic.shell.verbs import VERBS


class FakeRun:
    status = "finished"
    path = "ft_runs/x"

    def __repr__(self):
        return "<Run x>"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Let ``finetune`` and ``make_plan`` note what they were given."""
    notes = []
    run = FakeRun()

    def finetune(**values):
        notes.append(("finetune", values))
        return run

    def make_plan(**values):
        notes.append(("plan", values))
        return type("Plan", (), {"__repr__": lambda _: "PLAN", "_repr_html_": lambda _: ""})()

    monkeypatch.setattr("ft_magic.launch.finetune", finetune)
    monkeypatch.setattr("ft_magic.launch.make_plan", make_plan)
    monkeypatch.setenv("FT_MAGIC_RUNS", str(tmp_path / "ft_runs"))
    monkeypatch.chdir(tmp_path)
    notes.append(run)
    return notes


@pytest.fixture
def spec(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text("model: demo\ndata: x.json\nlearning_rate: 2e-4\n")
    return str(file)


def test_a_spec_file_and_settings_start_a_run(asked, spec, capsys):
    assert cli.main(["finetune", spec, "seed=7", "--detach"]) == 0
    assert asked[1:] == [
        ("finetune", {"seed": 7, "detach": True, "model": "demo", "data": "x.json", "learning_rate": 2e-4})
    ]
    assert capsys.readouterr().out == "ft_runs/x\n"


def test_a_run_that_goes_on_is_named(asked, spec, capsys):
    asked[0].status = "running"
    cli.main(["finetune", spec, "--detach"])
    assert capsys.readouterr().out == "<Run x>\n"


def test_a_dry_run_prints_plan_and_python(asked, spec, capsys):
    assert cli.main(["finetune", spec, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("PLAN")
    assert "ft.finetune(model='demo', data='x.json', learning_rate=0.0002)" in out
    assert asked[1][0] == "plan"


def test_plan_takes_settings_and_a_file(asked, spec):
    assert cli.main(["plan", "model=demo", "data=x.json"]) == 0
    assert cli.main(["plan", "--file", spec, "seed=1"]) == 0
    assert [values["model"] for _, values in asked[1:]] == ["demo", "demo"]


def test_a_failure_prints_its_clean_lines_and_exits_1(asked, spec, capsys, monkeypatch):
    def failing(**_):
        raise RunError("run x failed: the loss is not a number.", "Lower the learning rate.")

    monkeypatch.setattr("ft_magic.launch.finetune", failing)
    assert cli.main(["finetune", spec]) == 1
    printed = capsys.readouterr()
    assert printed.err == "RunError: run x failed: the loss is not a number.\nLower the learning rate.\n"
    assert printed.out == ""


def test_a_traceback_is_shown_when_asked_for(asked, capsys, monkeypatch):
    monkeypatch.setenv("FT_MAGIC_TRACEBACK", "1")
    assert cli.main(["logs", "nowhere"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt_exits_130(asked, spec, monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ft_magic.launch.finetune", interrupted)
    assert cli.main(["finetune", spec]) == 130


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exprot"], "Did you mean 'export'"),
        (["export", "--ggf", "q8_0"], "Did you mean '--gguf'"),
        (["finetune"], "required: spec.yaml"),
        (["logs", "-n", "x"], "Write: ft-magic logs"),
    ],
)
def test_wrong_usage_exits_2(words, message, capsys):
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: demo\ndata: $prefs\n", "outside a notebook there are none"),
        ("model: demo\nmodel: x\n", "spec.yaml line 2: 'model' is given twice"),
        ("model demo\n", "spec.yaml line 1"),
    ],
)
def test_a_spec_file_that_cannot_be_is_refused(asked, tmp_path, capsys, text, message):
    (tmp_path / "spec.yaml").write_text(text)
    assert cli.main(["finetune", "spec.yaml"]) == 1
    assert message in capsys.readouterr().err
    assert len(asked) == 1


def test_the_same_key_in_file_and_words_is_refused(asked, spec, capsys):
    assert cli.main(["finetune", spec, "model=other"]) == 1
    assert "'model' is given twice" in capsys.readouterr().err


def test_chat_in_a_terminal_talks(asked, tmp_path, monkeypatch):
    from ft_magic.run import Run

    folder = tmp_path / "ft_runs" / "x"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"status": "finished"}')
    said = []

    class Chat:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            said.append("closed")

        def repl(self):
            said.append("talked")

    monkeypatch.setattr(Run, "chat", lambda _, gguf: Chat())
    assert cli.main(["chat", "x", "--gguf"]) == 0
    assert said == ["talked", "closed"]


def test_help_lists_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb.title in out for verb in VERBS.values())
    assert "ft-magic VERB" in out


def test_nothing_given_is_wrong_usage(capsys):
    assert cli.main([]) == 2
    assert "ft-magic VERB" in capsys.readouterr().err


def test_a_verbs_help_is_generated_from_its_row(capsys):
    assert cli.main(["export", "--help"]) == 0
    assert "usage: ft-magic export" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ft-magic {__version__}\n"


def test_the_module_runs_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ft_magic.cli", "runs"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"FT_MAGIC_RUNS": str(tmp_path)},
    )
    assert done.returncode == 0
    assert "No runs yet" in done.stdout


def test_help_imports_nothing_heavy():
    code = "import sys; from ft_magic.cli import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("torch", "transformers", "pydantic", "numpy", "IPython", "yaml"):
        assert f"'{name}'" not in done.stderr
