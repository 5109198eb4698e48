"""The attention part of a layer on the tape: rotary positions, repeated keys, and the four ways to attend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_magic.memory.tape import Tensor
from ft_magic.models.architecture import Matrix

if TYPE_CHECKING:
    from ft_magic.memory.block import LayerTape

_FP32 = 4


def attend(layer: LayerTape, matrices: dict[str, Matrix], x: Tensor) -> Tensor:
    """Run queries, keys, values, attention and the output projection."""
    tape, model, setting = layer.tape, layer.model, layer.setting
    queries = _project(layer, matrices, x, ("q_proj", "q_b_proj"), model.heads * model.head_dim)
    keys = _project(layer, matrices, x, ("k_proj",), model.kv_heads * model.head_dim)
    values = _project(layer, matrices, x, ("v_proj", "kv_b_proj"), model.kv_heads * model.value_dim)
    if not model.positions:
        queries, keys = _rotated(layer, queries), _rotated(layer, keys)
    if setting.autocast_width:  # scaled_dot_product_attention and flash-attn run in autocast's type
        queries, keys, values = (_narrowed(layer, part) for part in (queries, keys, values))
    if setting.attention != "flash" and model.kv_heads != model.heads:
        keys, values = (_repeated(layer, part) for part in (keys, values))
    out = _attended(layer, queries, keys, values)
    tape.drop(queries, keys, values)
    result = layer.linear(matrices["o_proj"], out)
    tape.drop(out)
    return result


def _project(
    layer: LayerTape, matrices: dict[str, Matrix], x: Tensor, names: tuple[str, ...], outputs: int
) -> Tensor:
    for name in names:
        if name in matrices and matrices[name].outputs == outputs:
            return layer.linear(matrices[name], x)
    return layer.linear(
        Matrix(names[0], layer.model.hidden, outputs), x
    )  # latent attention: the widened pair


def _rotated(layer: LayerTape, part: Tensor) -> Tensor:
    tape = layer.tape
    if layer.setting.fused_norms or layer.setting.compiled:  # one kernel, in place
        return part
    # part * cos + rotated * sin: three temporaries of its size forward, two backward
    out = tape.apply(
        (part,), part.values, part.width, temporary=2 * part.size, backward_temporary=2 * part.size
    )
    tape.drop(part)
    return out


def _narrowed(layer: LayerTape, part: Tensor) -> Tensor:
    narrow = layer.tape.cast(part, layer.compute)
    layer.tape.drop(part)
    return narrow


def _repeated(layer: LayerTape, part: Tensor) -> Tensor:
    """Copy keys or values once for each query head that reads them."""
    times = layer.model.heads / layer.model.kv_heads
    out = layer.tape.apply((part,), part.values * times, part.width)
    layer.tape.drop(part)
    return out


def _attended(layer: LayerTape, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    tape, model, setting = layer.tape, layer.model, layer.setting
    inputs, out_values = (queries, keys, values), layer.tokens * model.heads * model.value_dim
    if setting.attention in ("flash", "sdpa"):
        sums = _FP32 * model.heads * layer.tokens
        # A view of the values keeps the whole product of queries, keys and values alive.
        whole = (
            layer.tokens * (model.heads + model.kv_heads) * model.head_dim * queries.width * setting.fused_qkv
        )
        # flash-attn's backward adds query gradients up in fp32 and widens key gradients to every query head.
        wide = out_values * _FP32 if queries.width < _FP32 and setting.flash else 0.0
        if setting.attention == "flash" and model.kv_heads != model.heads:
            wide += 2 * out_values * queries.width
        return tape.apply(
            inputs,
            out_values,
            queries.width,
            saves=inputs,
            saves_out=True,
            extra_saved=sums + whole,
            backward_temporary=wide,
        )
    scores = layer.tokens * setting.length * model.heads
    width = queries.width
    product = tape.apply((queries, keys), scores, width, saves=(queries, keys))
    if setting.attention == "eager":
        scaled = tape.apply((product,), scores, width)
        tape.drop(product)
        masked = tape.apply((scaled,), scores, width)
        tape.drop(scaled)
    else:
        masked = product
    # The backward of softmax makes a temporary of the gradient's size.
    soft = tape.apply((masked,), scores, _FP32, saves_out=True, backward_temporary=scores * _FP32)
    tape.drop(masked)
    narrow = tape.cast(soft, width)
    tape.drop(soft)
    out = tape.apply((narrow, values), out_values, width, saves=(narrow, values))
    tape.drop(narrow)
    return out
