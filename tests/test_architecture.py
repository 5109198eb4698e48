"""The shape of the code: imports point one way, the kernel side stays light, pieces stay small."""

import ast
import subprocess
import sys
from pathlib import Path
from statistics import quantiles

import pytest

import ft_magic

PACKAGE = Path(ft_magic.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "unsloth", "accelerate"}
# Imported in worker processes alone.
WORKER_ONLY = {
    f"backends/{name}.py"
    for name in (
        "trl", "trainers", "on_policy", "watch", "unsloth", "base_model", "adapters", "bottleneck", "pissa", "decoder",
        "attributes", "cross_entropy", "matmul", "pace", "preflight", "random_state", "rescue",
        "ppo", "ppo_answers", "ppo_checkpoint", "ppo_learning", "ppo_math", "ppo_preflight", "ppo_roles", "ppo_rows", "ppo_scores",
    )
} | {
    f"memory/tracing/{name}.py"
    for name in (
        "autocast", "engine", "experts", "fused", "fused_losses", "kernel_losses", "kernels", "layers", "ledger", "losses",
        "model", "offloading", "optimizers", "policy", "ppo", "preference", "quantized", "step", "targets",
    )
}  # fmt: skip
# Lower layers never import higher ones.
LAYERS = [
    {"errors", "events", "paths", "progress", "atomic", "cached_folder", "disk", "packages"},
    {"axes", "hardware", "models", "run_folder"},
    {"spec", "data", "template", "memory", "rewards"},
    {"planning", "process_environment"},
    {"ui", "serve", "backends"},
    {
        "ahead",
        "jobs",
        "jobserver",
        "follow",
        "killed",
        "speeds",
        "evaluate",
        "judging",
        "export",
        "mirror",
        "worker",
    },
    {"run", "run_list"},
    {"intake"},
    {"launch", "pipelines", "synthesis"},
    {"advising"},
    {"shell", "magics", "cli"},
]


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def top_imports(tree):
    """Modules imported when the file is imported (not inside functions, not for type checkers)."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_imports_heavy_libraries_when_imported(path):
    if name_of(path) in WORKER_ONLY:
        pytest.skip("runs in the worker alone")
    roots = {name.split(".")[0] for name in top_imports(ast.parse(path.read_text()))}
    assert not roots & HEAVY


def test_imports_point_one_way():
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for path in MODULES:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for imported in top_imports(ast.parse(path.read_text())):
            parts = imported.split(".")
            ours = parts[0] == "ft_magic" and len(parts) > 1 and parts[1] in level and own in level
            if ours and level[parts[1]] > level[own]:
                wrong.append(f"{name_of(path)} imports {imported}")
    assert not wrong


def test_pieces_stay_small():
    lengths = []
    for path in MODULES:
        text = path.read_text()
        assert len(text.splitlines()) <= 320, f"{name_of(path)} has {len(text.splitlines())} lines"
        lengths += [node.end_lineno - node.lineno + 1 for node in functions(ast.parse(text))]
    assert quantiles(lengths, n=10)[-1] <= 40


def test_importing_the_package_and_its_kernel_side_loads_nothing_heavy():
    code = (
        "import sys; import ft_magic as ft; ft.plan, ft.finetune, ft.load_data, ft.runs, ft.check_template;"
        f"print(sorted({HEAVY | {'plotly', 'pandas'}!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_loads_and_is_listed():
    for name in ft_magic.__all__:
        getattr(ft_magic, name)
        assert name in dir(ft_magic)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ft_magic.nonsense
