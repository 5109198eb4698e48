"""The attention part of a layer on the tape: rotary positions, repeated keys, and the four ways to attend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_magic.memory.setting import Setting
from ft_magic.memory.tape import Tensor
from ft_magic.models.architecture import Matrix

if TYPE_CHECKING:
    from ft_magic.memory.block import LayerTape

_FP32 = 4


def attend(layer: LayerTape, matrices: dict[str, Matrix], x: Tensor) -> Tensor:
    """Run queries, keys, values, attention and the output projection."""
    tape, setting, block = layer.tape, layer.setting, layer.block
    if "qkv_proj" in matrices:
        return _attend_fused(layer, matrices, x)
    queries = _head_normed(layer, layer.linear(matrices["q_proj"], x))
    if block.kv_heads:
        keys = _head_normed(layer, layer.linear(matrices["k_proj"], x))
        # Without a projection of their own, values are the keys before their norm (Gemma 4).
        values = layer.linear(matrices["v_proj" if "v_proj" in matrices else "k_proj"], x)
    else:  # another layer's, which holds them
        heads = layer.model.kv_heads * block.head_dim
        keys, values = (Tensor(0.0, layer.compute) for _ in range(2))
        keys.values = values.values = 0.0 * heads
    if not layer.model.positions:
        queries, keys = _rotated(layer, queries), _rotated(layer, keys)
    if setting.autocast_width:  # scaled_dot_product_attention and flash-attn run in autocast's type
        queries, keys, values = (_narrowed(layer, part) for part in (queries, keys, values))
    if repeats_keys(setting) and 0 < block.kv_heads != layer.model.heads:
        keys, values = (_repeated(layer, part) for part in (keys, values))
    out = _attended(layer, queries, keys, values)
    tape.drop(queries, keys, values)
    result = layer.linear(matrices["o_proj"], out)
    tape.drop(out)
    return result


def _attend_fused(layer: LayerTape, matrices: dict[str, Matrix], x: Tensor) -> Tensor:
    """Run attention whose queries, keys and values are views of one product: rotation copies the first two of them."""
    tape, setting, block = layer.tape, layer.setting, layer.block
    whole = layer.linear(matrices["qkv_proj"], x)
    heads = layer.tokens * layer.model.heads * block.head_dim
    shared = layer.tokens * block.kv_heads * block.head_dim
    if setting.autocast_width:
        whole = _narrowed(layer, whole)
    if layer.model.positions:  # learned positions: nothing is rotated
        tape.hold(whole)
        tape.hold(whole)
        out = _attended(layer, whole, whole, whole)
        tape.drop(whole, whole, whole)
    else:
        queries = tape.apply((whole,), heads, whole.width, temporary=2 * heads * whole.width)
        keys = tape.apply((whole,), shared, whole.width, temporary=2 * shared * whole.width)
        if repeats_keys(setting) and block.kv_heads != layer.model.heads:
            keys = _repeated(layer, keys)
            values = tape.apply((whole,), heads, whole.width)
            tape.drop(whole)
        else:
            values = whole
        out = _attended(layer, queries, keys, values)
        tape.drop(queries, keys, values)
    result = layer.linear(matrices["o_proj"], out)
    tape.drop(out)
    return result


def repeats_keys(setting: Setting) -> bool:
    """Return whether keys and values are repeated for every query head before the kernel.

    transformers does so for eager attention, and for SDPA where there is a mask (``integrations/sdpa_attention.py``).
    """
    if setting.attention == "flash":
        return False
    return setting.attention in ("eager", "math") or setting.repeats_keys or setting.masked


def attend_latent(layer: LayerTape, matrices: dict[str, Matrix], x: Tensor) -> Tensor:
    """Run DeepSeek's attention: queries, and keys with values, go through a narrow latent and its norm."""
    tape, model = layer.tape, layer.model
    if "q_a_proj" in matrices:
        narrow = layer.linear(matrices["q_a_proj"], x)
        normed = layer.norm(narrow)
        queries = layer.linear(matrices["q_b_proj"], normed)
        tape.drop(narrow, normed)
    else:
        queries = layer.linear(matrices["q_proj"], x)
    latent = layer.linear(matrices["kv_a_proj_with_mqa"], x)
    normed = layer.norm(latent)
    pair = layer.linear(matrices["kv_b_proj"], normed)
    tape.drop(latent, normed)
    # The rotated part is put beside the plain one again, for every head; values stay a view of the pair.
    size = layer.tokens * model.heads * layer.block.head_dim
    whole = tape.apply((queries,), size, queries.width, temporary=2 * size * queries.width)
    keys = tape.apply((pair,), size, pair.width)
    tape.drop(queries)
    if layer.setting.autocast_width:
        whole, keys, pair = (_narrowed(layer, part) for part in (whole, keys, pair))
    out = _attended(layer, whole, keys, pair)
    tape.drop(whole, keys, pair)
    result = layer.linear(matrices["o_proj"], out)
    tape.drop(out)
    return result


def convolve(layer: LayerTape, matrices: dict[str, Matrix], x: Tensor) -> Tensor:
    """Run a short gated convolution (``modeling_lfm2.py``): two gates keep what they multiply, the kernel its input."""
    tape = layer.tape
    three = layer.linear(matrices["in_proj"], x)
    gated = tape.apply((three,), three.values / 3, three.width, saves=(three,))
    mixed = tape.apply((gated,), gated.values, gated.width, saves=(gated,))
    out = tape.apply((mixed, three), mixed.values, mixed.width, saves=(mixed, three))
    tape.drop(three, gated, mixed)
    result = layer.linear(matrices["out_proj"], out)
    tape.drop(out)
    return result


# Tokens of a chunk of the gated delta rule, of which a state each is kept (fla's chunk_gated_delta_rule).
_DELTA_CHUNK = 64


def run_delta(layer: LayerTape, matrices: dict[str, Matrix], x: Tensor) -> Tensor:
    """Run Qwen's gated delta rule as fla's kernels do: projections and convolution kept, one state a chunk."""
    tape, tokens = layer.tape, layer.tokens
    outs = matrices["out_proj"].inputs
    pair = layer.linear(matrices["in_proj_qkvz"], x)
    gates = layer.linear(matrices["in_proj_ba"], x)
    mixed_values = pair.values - tokens * outs
    mixed = tape.apply((pair,), mixed_values, pair.width, saves=(pair,))
    heads = matrices["in_proj_ba"].outputs / 2
    states = tokens / _DELTA_CHUNK * outs * (outs / heads) * layer.compute
    core = tape.apply(
        (mixed, gates), tokens * outs, pair.width, saves=(mixed, gates), saves_out=True,
        extra_saved=states, backward_temporary=states + mixed.size,
    )  # fmt: skip
    tape.drop(mixed, gates)
    normed = tape.apply((core, pair), core.values, core.width, saves=(core, pair))
    tape.drop(core, pair)
    result = layer.linear(matrices["out_proj"], normed)
    tape.drop(normed)
    return result


def _head_normed(layer: LayerTape, part: Tensor) -> Tensor:
    """Run the norm of each head (Qwen 3, Gemma 3, OLMo 2) where the family has one."""
    if not layer.model.head_normed:
        return part
    out = layer.norm(part, own=layer.block.head_dim)
    layer.tape.drop(part)
    return out


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
    inputs, out_values = (queries, keys, values), layer.tokens * model.heads * layer.block.value_dim
    if setting.attention in ("flash", "sdpa"):
        sums = _FP32 * model.heads * layer.tokens
        # A view of the values keeps the whole product of queries, keys and values alive.
        whole = (
            layer.tokens * (model.heads + model.kv_heads) * model.head_dim * queries.width * setting.fused_qkv
        )
        # flash-attn's backward adds query gradients up in fp32 and widens key gradients to every query head.
        wide = out_values * _FP32 if queries.width < _FP32 and setting.flash else 0.0
        if not repeats_keys(setting) and keys.values < queries.values:
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
    return _attended_by_scores(layer, queries, keys, values)


def _attended_by_scores(layer: LayerTape, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend through a whole matrix of scores, as eager code and SDPA's math kernel do."""
    tape, model, setting = layer.tape, layer.model, layer.setting
    out_values = layer.tokens * model.heads * layer.block.value_dim
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
