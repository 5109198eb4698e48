"""The notebooks as files: what a reader opens must be clean, and every cell must be one that can run."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from ft_magic.axes import METHODS
from ft_magic.axes.pipelines import PIPELINES
from ft_magic.pipelines.shares import shares
from ft_magic.shell import calls, requests
from ft_magic.shell.yaml_body import Reference
from ft_magic.spec import parse

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ABSOLUTE = re.compile(r"""(?:^|[\s"'=(])(?:/(?:home|root|work|tmp|Users|content|kaggle|mnt)/|~/|[A-Z]:\\)""")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def python(cell):
    return TransformerManager().transform_cell(cell.source)


def magics(path):
    """Yield (name, line, body or None) of every magic in a notebook, as IPython would call it."""
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(python(cell))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr == "run_line_magic":
                    name, line = (part.value for part in node.args)
                    yield name, line, None
                elif node.func.attr == "run_cell_magic":
                    yield tuple(part.value for part in node.args)


def given(values):
    """Replace $names by words: what they hold is known when the cell runs."""
    return {key: "later" if isinstance(value, Reference) else value for key, value in values.items()}


def check_training(name, line, body):
    call = calls.parse(line, body, None if name == "finetune" else name)
    method = call.values.get("method", "sft")
    if method in PIPELINES:
        assert shares(PIPELINES[method], given(call.values))
    else:
        assert parse(given(call.values)).method == method


def check_reward(line, body):
    name = calls.words(line)[0]
    functions = {node.name for node in ast.parse(body).body if isinstance(node, ast.FunctionDef)}
    assert name in functions


@every_notebook
def test_a_notebook_is_valid_and_every_cell_has_a_name(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@every_notebook
def test_a_notebook_holds_no_outputs_and_no_traces_of_a_session(path):
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None
    assert all(not cell.metadata for cell in nbformat.read(path, as_version=4).cells)


@every_notebook
def test_a_notebook_names_no_path_of_one_machine(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not ABSOLUTE.search(cell.source), cell.source


@every_notebook
def test_every_code_cell_compiles(path):
    for cell in code_cells(path):
        compile(python(cell), f"{path.name}:{cell.id}", "exec")


@every_notebook
def test_every_magic_is_one_that_exists_with_settings_it_reads(path):
    found = list(magics(path))
    assert found
    for name, line, body in found:
        if name == "ft":
            assert requests.read(calls.arguments(line), body) is not None
        elif name == "reward_fn":
            check_reward(line, body)
        elif name in ("finetune", *METHODS, *PIPELINES):
            check_training(name, line, body)
        else:
            assert name == "writefile" or (name, line, body) == ("load_ext", "ft_magic", None)


@every_notebook
def test_a_notebook_says_what_it_does_before_each_chapter(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")


def test_together_the_notebooks_train_every_method_and_pipeline():
    trained = set()
    for path in NOTEBOOKS:
        for name, line, body in magics(path):
            if name in ("finetune", *METHODS, *PIPELINES):
                trained.add(
                    calls.parse(line, body, None if name == "finetune" else name).values.get("method", "sft")
                )
    assert trained >= (set(METHODS) - {"cpt"}) | set(PIPELINES)
