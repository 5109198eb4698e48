"""Products by oneDNN: equal to float64, taken where MKL leaves the processor's units unused, and on request not."""

import os
import subprocess
import sys

import pytest
import torch

from ft_magic.backends import matmul

_LAYOUTS = {
    "rows": torch.randn,
    "columns": lambda m, n: torch.randn(n, m).t(),
    "gaps": lambda m, n: torch.randn(m, 2 * n)[:, ::2],
    "slice": lambda m, n: torch.randn(m, n + 3)[:, :n],
    "spread": lambda m, n: torch.randn(1, n).expand(m, n),
}


@pytest.mark.parametrize(
    "shape", [(40, 192, 288), (1, 64, 64), (3, 900, 900), (16, 300, 300), (5, 0, 7), (0, 4, 4)]
)
@pytest.mark.parametrize("left", _LAYOUTS)
@pytest.mark.parametrize("right", _LAYOUTS)
def test_products_of_every_layout_and_size_equal_float64(shape, left, right):
    torch.manual_seed(0)
    m, k, n = shape
    a, b, bias = _LAYOUTS[left](m, k), _LAYOUTS[right](k, n), torch.randn(n)
    exact = a.double() @ b.double()
    assert torch.allclose(matmul._mm(a, b).double(), exact, atol=1e-3)
    assert torch.allclose(matmul._addmm(bias, a, b).double(), exact + bias, atol=1e-3)
    scaled = matmul._addmm(bias, a, b, beta=0.5, alpha=2)
    assert torch.allclose(scaled.double(), 2 * exact + 0.5 * bias, atol=1e-3)


def test_other_number_formats_keep_theirs():
    a, b = torch.randn(40, 300).bfloat16(), torch.randn(300, 300).bfloat16()
    assert torch.equal(matmul._mm(a, b), a @ b)


_PROGRAM = """
import torch
from ft_magic.backends import matmul
matmul.hardware.mkl_leaves_units = lambda: True
torch.manual_seed(0)
layer, rows = torch.nn.Linear(300, 400), torch.randn(2, 50, 300, requires_grad=True)
def gradients():
    layer.zero_grad(); rows.grad = None
    layer(rows).square().sum().backward()
    return [layer.weight.grad, layer.bias.grad, rows.grad]
before = gradients()
calls = []
product = matmul._product
matmul._product = lambda *given: calls.append(1) or product(*given)
name = matmul.use_fastest()
after = gradients()
assert all(torch.allclose(x, y, rtol=1e-4, atol=1e-2) for x, y in zip(before, after)), "gradients differ"
print(name, matmul.use_fastest(), len(calls))
"""


@pytest.mark.parametrize(("switch", "told"), [("", "onednn onednn 3"), ("torch", "torch torch 0")])
def test_linear_layers_go_forward_and_backward_through_onednn_unless_switched_off(switch, told):
    if not torch.backends.mkl.is_available() or not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no MKL or no oneDNN")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=os.environ | {matmul.SWITCH: switch},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == told, done.stderr[-2000:]
    assert "Overriding" not in done.stderr


def test_without_room_for_its_kernels_torch_multiplies(monkeypatch):
    def full(*_):
        raise RuntimeError("could not create a primitive")

    a, b = torch.randn(40, 300), torch.randn(300, 300)
    monkeypatch.setattr(matmul, "_product", full)
    assert torch.equal(matmul._mm(a, b), a @ b)

    def broken(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(matmul, "_product", broken)
    with pytest.raises(RuntimeError, match="something else"):
        matmul._mm(a, b)
