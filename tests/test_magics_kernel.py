"""The magics in a real kernel, with the fake backend's stand-in for training: display, completion, errors."""

import json

import pytest

pytest.importorskip("jupyter_client")

from live_kernel import started

SETUP = """
import json, os, pathlib
import ft_magic.launch, ft_magic.run, ft_magic.run_list
from IPython.display import display

def finetune(**values):
    folder = pathlib.Path(os.environ["FT_MAGIC_RUNS"]) / "made"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text("{}")
    (folder / "run.json").write_text(json.dumps({"name": "made", "status": "finished", "pid": None}))
    display({"text/plain": "LIVE CHART"}, raw=True)
    return ft_magic.run_list.remember(ft_magic.run.Run(folder))

ft_magic.launch.finetune = finetune
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with started(tmp_path_factory.mktemp("runs")) as made:
        assert made.run("%load_ext ft_magic") == []
        assert made.run(SETUP) == []
        yield made


def test_a_run_is_shown_once_and_bound(kernel):
    assert kernel.run("%%sft run\nmodel: demo\ndata: x.json\n") == [("display_data", "LIVE CHART")]
    assert kernel.run("run.name") == [("execute_result", "'made'")]


def test_a_run_without_a_name_is_out_and_shown_from_the_next_cell_on(kernel):
    assert kernel.run("%%sft\nmodel: demo\ndata: x.json\n") == [("display_data", "LIVE CHART")]
    assert kernel.run("_.name") == [("execute_result", "'made'")]
    kernel.run("r = %sft model=demo data=x.json")
    shown = kernel.run("r")
    assert len(shown) == 1
    assert "made" in shown[0][1]


def test_an_error_is_two_clean_lines(kernel):
    ((kind, lines),) = kernel.run("%%finetune run\nmodel: {a} and {b}\n")
    assert kind == "error"
    assert lines == [
        "SpecError: body line 1: YAML cannot read it: model: {a} and {b}",
        "Write the value in quotes: `model: '{a} and {b}'`.",
    ]


def test_a_single_line_cell_magic_works(kernel):
    assert kernel.run("%%sft run2 model=demo data=x.json") == [("display_data", "LIVE CHART")]


def test_a_wrong_verb_leaves_the_kernel_alive(kernel):
    ((kind, lines),) = kernel.run("%ft exprot")
    assert kind == "error"
    assert "Did you mean 'export'" in lines[0]
    assert kernel.run("1 + 1") == [("execute_result", "2")]


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("%%finetune run\nmodel: demo\nlea", "learning_rate"),
        ("%%dpo run lea", "learning_rate"),
        ("%sft run model=demo --dr", "--dry-run"),
        ("%%finetune run\nupdate: ql", "qlora"),
        ("%%finetune run\nmodel: d", "demo"),
        ("%finetune update=ql", "qlora"),
        ("%%finetune run\ndata: $my_da", "my_data"),
        ("%%finetune run\ndata: ", "$my_data"),
        ("%ft exp", "export"),
        ("%ft export --gg", "--gguf"),
        ("%ft export run --gguf q4_k", "q4_k_m"),
        ("%ft data x.json --signal de", "demo"),
        ("ds = %ft dat", "data"),
        ("%ft attach mad", "made"),
        ("%ft template demo $my_d", "my_data"),
        ("%ft plan upd", "update"),
        ("%ft plan update=qlo", "qlora"),
    ],
)
def test_tab_completes(kernel, code, wanted):
    kernel.run("my_data = [1]")
    kernel.run("%sft run model=demo data=x.json")
    assert wanted in kernel.complete(code)


def test_completion_leaves_other_cells_alone(kernel):
    assert not [match for match in kernel.complete("lea") if match.startswith("learning")]
    assert "import_module" not in kernel.complete("%%time\nlea")
    kernel.run("leaf = 1")
    assert "leaf" in kernel.complete("x = lea")
    assert json.loads(kernel.run("print('{}')")[0][1]) == {}
