from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from ft_magic.ui import environment


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Pretend to be somewhere: a shell, environment variables, Kaggle's folder."""

    def pretend(shell=None, *, kaggle=False, **variables):
        for name in ("KAGGLE_KERNEL_RUN_TYPE", "VSCODE_PID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(environment, "_KAGGLE_FOLDER", tmp_path if kaggle else tmp_path / "missing")
        ipython = ModuleType("IPython")
        ipython.get_ipython = lambda: shell
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.delitem(sys.modules, "marimo", raising=False)

    return pretend


def shell(module="ipykernel.zmqshell", *, kernel=True, stdin=True, **names):
    made = type("Shell", (), {"__module__": module})()
    made.user_ns = names
    if kernel:
        made.kernel = SimpleNamespace(_allow_stdin=stdin)
    return made


@pytest.mark.parametrize(
    ("found", "settings", "expected"),
    [
        (None, {}, "script"),
        (shell(kernel=False), {}, "ipython-terminal"),
        (shell(), {}, "jupyter"),
        (shell(), {"VSCODE_PID": "1"}, "vscode"),
        (shell(__vsc_ipynb_file__="a.ipynb"), {}, "vscode"),
        (shell("google.colab._shell"), {}, "colab"),
        (shell("google.colab._shell"), {"KAGGLE_KERNEL_RUN_TYPE": "Interactive", "kaggle": True}, "kaggle"),
        (shell("google.colab._shell"), {"KAGGLE_KERNEL_RUN_TYPE": "Interactive", "kaggle": False}, "colab"),
        (None, {"VSCODE_PID": "1"}, "script"),
    ],
)
def test_each_front_end_is_told_apart(place, found, settings, expected):
    place(found, **settings)
    assert environment.front_end() == expected


def test_marimo_is_found_without_a_shell(place, monkeypatch):
    place(None)
    marimo = ModuleType("marimo")
    marimo.running_in_notebook = lambda: True
    monkeypatch.setitem(sys.modules, "marimo", marimo)
    assert environment.front_end() == "marimo"
    assert environment.watched()


@pytest.mark.parametrize(("stdin", "watched"), [(True, True), (False, False)])
def test_a_kernel_is_watched_when_it_may_ask(place, stdin, watched):
    place(shell(stdin=stdin))
    assert environment.watched() is watched


def test_nobody_watches_a_kaggle_batch_run(place):
    place(shell(stdin=True), kaggle=True, KAGGLE_KERNEL_RUN_TYPE="Batch")
    assert not environment.watched()


def test_a_script_without_a_terminal_is_not_watched(place, monkeypatch):
    place(None)
    monkeypatch.setattr(sys, "stdin", None)
    assert not environment.watched()
