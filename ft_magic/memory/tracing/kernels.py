"""What CUDA's kernels allocate where the meta device takes another path. Imported in the worker alone.

``Device`` is a mode of torch functions: nothing of torch or transformers is changed, and it stays active while
checkpointed layers run again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ft_magic.memory.cards import Card
from ft_magic.memory.setting import Setting
from ft_magic.memory.tracing.autocast import Autocast
from ft_magic.memory.tracing.ledger import Ledger

_HALF = (torch.float16, torch.bfloat16)
_aten = torch.ops.aten


class Flash(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """FlashAttention 2: keeps queries, keys, values (not repeated), output and one fp32 number a row.

    Its backward pass holds an fp32 accumulator of the queries' gradient and, with fewer key than query heads, the
    keys' and values' gradients once for every query head (flash_attn: mha_bwd).
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return the attention's output; arguments are of shape (batch, heads, tokens, width)."""
        batch, heads, length, _ = query.shape
        out = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        rows = query.new_empty(batch, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Return the gradients of queries, keys and values."""
        query, key, value, _, rows = ctx.saved_tensors
        kept = [  # alive while the kernel runs
            grads[0].contiguous(),
            torch.empty_like(query, dtype=torch.float32),
            torch.empty_like(rows),
        ]
        query_grad = torch.empty_like(query)
        if key.shape[1] == query.shape[1]:
            return query_grad, torch.empty_like(key), torch.empty_like(value)
        groups = query.shape[1] // key.shape[1]
        wide = [row.new_empty(*row.shape[:2], groups, *row.shape[2:]) for row in (key, value)]
        del kept
        return query_grad, wide[0].sum(2), wide[1].sum(2)


class Device(TorchFunctionMode):  # type: ignore[misc]  # torch is untyped here
    """Sends torch functions the way the device would go, under autocast where it is on."""

    def __init__(self, setting: Setting, card: Card, autocast: Autocast, ledger: Ledger) -> None:
        super().__init__()
        self._setting = setting
        self._card = card
        self._autocast = autocast
        self._ledger = ledger
        self._own: dict[Any, Callable[..., Any]] = {
            torch.autograd.backward: self._backward,
            torch.Tensor.backward: self._backward,
            torch.Tensor.__bool__: self._truth,
            torch.Tensor.__float__: self._number(float),
            torch.Tensor.__int__: self._number(int),
            torch.Tensor.__index__: self._number(int),
            torch.Tensor.item: self._number(torch.Tensor.item),
            torch.Tensor.tolist: _listed,
            functional.scaled_dot_product_attention: self._attention,
        }
        if card.cuda:
            self._own |= {functional.softmax: _softmax, functional.dropout: _dropout}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a torch function as the device does."""
        args, kwargs = self._autocast.cast(func, args, kwargs or {})
        return self._own.get(func, func)(*args, **kwargs)

    def _backward(self, tensors: Any, grad_tensors: Any = None, **_: Any) -> None:
        """Run the engine with this mode active; ``torch.autograd.backward`` itself would switch it off."""
        roots = (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors)
        given = (grad_tensors,) if isinstance(grad_tensors, torch.Tensor) else grad_tensors
        with self, self._ledger.backward_pass():
            grads = tuple(given) if given is not None else tuple(torch.ones_like(root) for root in roots)
            torch.autograd.Variable._execution_engine.run_backward(  # noqa: SLF001
                roots, grads, False, False, (), allow_unreachable=True, accumulate_grad=True
            )

    def _truth(self, value: torch.Tensor) -> bool:
        """Answer what the model asks of values: masks are all ones unless the batch is padded."""
        return not self._setting.masked if value.is_meta else bool(value)

    def _number(self, real: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        """Return what reads a tensor's one number; of the meta device's, losses ask for counts of tokens alone."""
        answer = float(self._setting.tokens) if real is float else self._setting.tokens
        return lambda value: answer if value.is_meta else real(value)

    @property
    def _repeats(self) -> bool:
        """Whether keys and values are repeated before the kernel runs; flash-attn takes them as they are."""
        return self._setting.repeats_keys and self._setting.attention != "flash"

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        kernel = self._kernel(query, key, attn_mask, enable_gqa=enable_gqa)
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and (self._repeats or kernel == "efficient"):
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        if kernel == "flash":
            return Flash.apply(query, key, value)
        if kernel == "efficient":
            return _aten._scaled_dot_product_efficient_attention(  # noqa: SLF001
                query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
            )[0]
        if kernel == "cpu":
            return _aten._scaled_dot_product_flash_attention_for_cpu(  # noqa: SLF001
                query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
            )[0]
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )

    def _kernel(
        self, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, *, enable_gqa: bool
    ) -> str:
        """Return the kernel torch chooses (ATen/native/transformers/cuda/sdp_utils.cpp)."""
        if not self._card.cuda:
            return "cpu"  # its flash kernel takes fewer key than query heads as they are
        if self._setting.attention == "flash":
            return "flash"
        if self._card.flash and query.dtype in _HALF and mask is None:
            return "flash"
        grouped = enable_gqa and key.shape[1] != query.shape[1] and not self._repeats
        return "math" if grouped else "efficient"


def _listed(value: torch.Tensor) -> Any:
    """Return a tensor's numbers as lists; ones for a tensor of the meta device."""
    return torch.ones(value.shape).tolist() if value.is_meta else value.tolist()


def _softmax(
    values: torch.Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Softmax; CUDA goes from half to fp32 in one kernel, without an fp32 copy of its input."""
    if dtype == torch.float32 and values.dtype in _HALF:
        return torch._softmax(values, dim, True)  # noqa: SLF001
    return functional.softmax(values, dim=dim, dtype=dtype)


def _dropout(
    values: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    """Dropout; CUDA keeps a mask of one byte a value where the CPU keeps noise in the values' type."""
    if not training or p == 0:
        return values
    if inplace:
        return functional.dropout(values, p, training, inplace)
    return _aten.native_dropout(values, p, True)[0]
