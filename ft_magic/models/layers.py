"""Which matrices each layer of a decoder has. Sources: the modeling files of transformers for each ``model_type``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ft_magic.models.families import Family
from ft_magic.models.matrices import Block, Matrix
from ft_magic.models.sizes import Sizes


def decoder_blocks(sizes: Sizes, family: Family) -> tuple[tuple[Block, ...], tuple[int, ...]]:
    """Return the kinds of layers, and which kind each layer is, from first to last."""
    found: dict[Block, int] = {}
    alike: dict[tuple[object, ...], int] = {}
    order = []
    for layer in range(sizes.layers):
        key = _traits(sizes, family, layer)
        if key not in alike:
            alike[key] = found.setdefault(_layer(sizes, family, layer), len(found))
        order.append(alike[key])
    counts = [order.count(kind) for kind in range(len(found))]
    blocks = (
        Block(count, b.matrices, b.norm_values, b.kv_heads, b.head_dim, b.value_dim, b.window, b.mixer)
        for b, count in zip(found, counts, strict=True)
    )
    return tuple(blocks), tuple(order)


def _traits(sizes: Sizes, family: Family, layer: int) -> tuple[object, ...]:
    """Return what tells one layer's shape from another's."""
    inner = sizes.config["intermediate_size"]
    kind = _kind(sizes, layer)
    heads = _own_heads(sizes, kind, layer) if family.extra == "gemma4" else None
    own = inner[layer] if isinstance(inner, list) else inner
    return kind, _is_sparse(sizes, family, layer), _borrows(sizes, layer), own, heads


def _layer(sizes: Sizes, family: Family, layer: int) -> Block:
    kind = _kind(sizes, layer)
    mixer = {"linear_attention": "delta", "conv": "convolution"}.get(kind, "attention")
    kv_heads, width, values = sizes.kv_heads, sizes.head_dim, sizes.value_dim
    if family.extra == "gemma4":
        kv_heads, width = _own_heads(sizes, kind, layer)
        values = width
    if _borrows(sizes, layer):
        kv_heads = 0
    attention, vectors = {
        "attention": lambda: _attention(sizes, family, kind, kv_heads, width),
        "delta": lambda: _delta(sizes),
        "convolution": lambda: _convolution(sizes),
    }[mixer]()
    fed, more = _fed(sizes, family, layer)
    vectors += more + _vectors(sizes, family)
    window = (
        int(sizes.config.get("sliding_window") or 0)
        if kind in ("sliding_attention", "chunked_attention")
        else 0
    )
    return Block(
        0, (*attention, *fed, *_beside(sizes, family)), vectors, kv_heads, width, values, window, mixer
    )


def _kind(sizes: Sizes, layer: int) -> str:
    """Return the layer's type as the config lists it; Gemma's and Qwen's patterns where it does not."""
    config = sizes.config
    listed = config.get("layer_types")
    model = config.get("model_type")
    if listed and model != "mpt":
        kind = str(listed[layer])
        return "full_attention" if model == "gemma4_text" and layer == sizes.layers - 1 else kind
    pattern = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "gemma4_text": 6, "gemma3n_text": 5}.get(
        str(model)
    )
    pattern = int(config.get("sliding_window_pattern") or pattern or 0)
    if pattern:
        full = (layer + 1) % pattern == 0 or (model == "gemma4_text" and layer == sizes.layers - 1)
        return "full_attention" if full else "sliding_attention"
    if str(model).startswith(("qwen3_next", "qwen3_5")):
        every = int(config.get("full_attention_interval") or 4)
        return "full_attention" if (layer + 1) % every == 0 else "linear_attention"
    if model == "lfm2":
        chosen = config.get("full_attn_idxs")
        return "full_attention" if chosen is None or layer in chosen else "conv"
    windowed = model in ("mistral", "mixtral", "phi3") and config.get("sliding_window")
    return "sliding_attention" if windowed else "full_attention"


def _own_heads(sizes: Sizes, kind: str, layer: int) -> tuple[int, int]:
    """Return a Gemma 4 layer's key heads and their width: full attention has its own."""
    config = sizes.config
    listed = config.get("per_layer_config")
    if listed is not None:
        own: dict[str, Any] = next((row for key, row in listed.items() if int(key) == layer), {})
        return int(own.get("num_key_value_heads") or sizes.kv_heads), int(
            own.get("head_dim") or sizes.head_dim
        )
    if kind != "full_attention":
        return sizes.kv_heads, sizes.head_dim
    fewer = config.get("num_global_key_value_heads") if config.get("attention_k_eq_v") else None
    return int(fewer or sizes.kv_heads), int(config["global_head_dim"])


def _borrows(sizes: Sizes, layer: int) -> bool:
    """Return whether a layer reads the keys and values of an earlier one (Gemma 3n and 4)."""
    first = sizes.layers - int(sizes.config.get("num_kv_shared_layers") or 0)
    return layer >= first > 0


def _attention(
    sizes: Sizes, family: Family, kind: str, kv_heads: int, width: int
) -> tuple[tuple[Matrix, ...], int]:
    """Return the projections, and the values of norms and sinks beside them."""
    config, hidden, heads = sizes.config, sizes.hidden, sizes.heads
    on = not family.bias_switch or bool(config.get(family.bias_switch, family.bias_default))
    inputs, output = on and bool(family.bias), on and family.bias == "all"
    if family.out_bias:
        output = family.out_bias == "always" or bool(config.get(family.out_bias))
    if sizes.latent:
        return _latent(sizes, bias=output)
    queries, keys = heads * width, kv_heads * width
    gate = 2 if family.extra == "gated_delta" else 1
    matrices = [Matrix("q_proj", hidden, queries * gate, inputs)]
    if "qkv" in family.fused:
        matrices = [Matrix("qkv_proj", hidden, queries + 2 * keys, inputs)]
    elif keys:
        matrices.append(Matrix("k_proj", hidden, keys, inputs))
        if not (config.get("attention_k_eq_v") and kind == "full_attention"):
            matrices.append(Matrix("v_proj", hidden, keys, inputs))
    matrices.append(Matrix("o_proj", queries, hidden, output))
    if family.extra == "gated_attention":
        matrices.append(Matrix("gate", hidden, queries))
    values = heads * family.head_values
    if family.head_norm and (not family.head_norm_switch or config.get(family.head_norm_switch)):
        per_head = {"head": (1 + bool(keys)) * width, "width": queries + keys}[family.head_norm]
        values += per_head * (1 + (family.norm_bias and family.head_norm == "head"))
    return tuple(matrices), values


def _latent(sizes: Sizes, *, bias: bool) -> tuple[tuple[Matrix, ...], int]:
    """Return DeepSeek's projections: queries and the key-value pair go through a narrow latent each."""
    config, hidden, heads, width = sizes.config, sizes.hidden, sizes.heads, sizes.head_dim
    rank, latent = config.get("q_lora_rank"), int(config["kv_lora_rank"])
    queries = (
        (Matrix("q_a_proj", hidden, int(rank), bias), Matrix("q_b_proj", int(rank), heads * width))
        if rank
        else (Matrix("q_proj", hidden, heads * width),)
    )
    matrices = (
        *queries,
        Matrix("kv_a_proj_with_mqa", hidden, latent + int(config["qk_rope_head_dim"]), bias),
        Matrix("kv_b_proj", latent, heads * (int(config["qk_nope_head_dim"]) + sizes.value_dim)),
        Matrix("o_proj", heads * sizes.value_dim, hidden, bias),
    )
    return matrices, int(rank or 0) + latent


def _delta(sizes: Sizes) -> tuple[tuple[Matrix, ...], int]:
    """Return the projections of Qwen's gated delta rule (Qwen3NextGatedDeltaNet), its convolution and vectors."""
    config, hidden = sizes.config, sizes.hidden
    heads = int(config["linear_num_value_heads"])
    keys = int(config["linear_num_key_heads"]) * int(config["linear_key_head_dim"])
    values = heads * int(config["linear_value_head_dim"])
    matrices = (
        Matrix("in_proj_qkvz", hidden, 2 * keys + 2 * values),
        Matrix("in_proj_ba", hidden, 2 * heads),
        Matrix("out_proj", values, hidden),
    )
    convolution = (2 * keys + values) * int(config["linear_conv_kernel_dim"])
    return matrices, convolution + 2 * heads + int(config["linear_value_head_dim"])


def _convolution(sizes: Sizes) -> tuple[tuple[Matrix, ...], int]:
    """Return the projections of a short gated convolution (Lfm2ShortConv), and its kernel."""
    hidden, bias = sizes.hidden, bool(sizes.config.get("conv_bias"))
    matrices = (Matrix("in_proj", hidden, 3 * hidden, bias), Matrix("out_proj", hidden, hidden, bias))
    return matrices, hidden * (int(sizes.config.get("conv_L_cache") or 3) + bias)


def _is_sparse(sizes: Sizes, family: Family, layer: int) -> bool:
    """Return whether a layer has experts, by the rule its family's config has for it."""
    config = sizes.config
    if not sizes.experts:
        return False
    if config.get("mlp_layer_types"):
        return bool(config["mlp_layer_types"][layer] == "sparse")
    if config.get("moe_layers"):
        return layer in config["moe_layers"]
    if config.get("interleave_moe_layer_step"):
        return bool((layer + 1) % int(config["interleave_moe_layer_step"]) == 0)
    if layer in (config.get("mlp_only_layers") or ()):
        return False
    step = int(config.get("decoder_sparse_step") or config.get("moe_layer_interval") or 1)
    first = next(
        (int(config[key]) for key in ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
         if config.get(key) is not None),
        family.dense_layers,
    )  # fmt: skip
    last = config.get("moe_layer_end_index")
    within = layer >= first and (last is None or int(last) < 0 or layer <= int(last))
    return within and (layer + 1) % step == 0


def _mlp(
    sizes: Sizes, inner: int, *, bias: bool, copies: int = 1, part: str = "mlp", fused: bool = False
) -> Iterator[Matrix]:
    hidden = sizes.hidden
    if fused and sizes.gated:
        yield Matrix("gate_up_proj", hidden, 2 * inner, bias, copies, part)
        yield Matrix("down_proj", inner, hidden, bias, copies, part)
        return
    if sizes.gated:
        yield Matrix("gate_proj", hidden, inner, bias, copies, part)
    yield Matrix("up_proj", hidden, inner, bias, copies, part)
    yield Matrix("down_proj", inner, hidden, bias, copies, part)


def _fed(sizes: Sizes, family: Family, layer: int) -> tuple[tuple[Matrix, ...], int]:
    """Return the matrices of the feed-forward part, and the values of vectors beside them."""
    config, hidden = sizes.config, sizes.hidden
    key = family.mlp_bias
    ungated = family.gated and not sizes.gated  # said by the caller, of a model with biases
    bias = (
        key == "always"
        or ungated
        or (bool(key) and bool(config.get(key, family.norm_bias and family.bias_default)))
    )
    inner = config["intermediate_size"]
    inner = int(inner[layer]) if isinstance(inner, list) else inner
    if config.get("use_double_wide_mlp") and _borrows(sizes, layer):
        inner *= 2
    if not _is_sparse(sizes, family, layer):
        if family.extra == "llama4":
            inner = int(config.get("intermediate_size_mlp") or 2 * inner)
        return tuple(_mlp(sizes, inner, bias=bias, fused="gate_up" in family.fused)), 0
    experts = sizes.experts
    routed = tuple(_mlp(sizes, sizes.expert_inner, bias=family.expert_bias, copies=experts, part="experts"))
    shared = inner if family.extra == "gemma4" else sizes.shared_inner
    always = tuple(_mlp(sizes, shared, bias=bias)) if shared else ()
    router = [Matrix("router", hidden, experts, family.expert_bias, part="router")]
    if shared and (config.get("model_type") == "qwen2_moe" or family.extra == "gated_delta"):
        router.append(Matrix("shared_expert_gate", hidden, 1, part="router"))
    values = family.expert_values * experts
    if family.extra == "gemma4":  # three norms more, and the router's scales
        values += 4 * hidden + experts
    return (*router, *always, *routed), values


def _vectors(sizes: Sizes, family: Family) -> int:
    """Return the values of the layer's norms over the hidden size, and of what else is a vector there."""
    config, hidden = sizes.config, sizes.hidden
    norms = family.norms
    if family.extra == "parallel_switch" and config.get("use_parallel_residual"):
        norms = 1
    serial = config.get("model_type") == "falcon" and not config.get("parallel_attn", True)
    if config.get("new_decoder_architecture") or serial:  # Falcon 40B: a norm before each branch
        norms = 2
    if family.extra == "post_norms" and config.get("use_post_norm"):
        norms = 4
    values = norms * hidden * (1 + family.norm_bias) + family.layer_values
    if family.extra == "sub_norms":
        values += hidden + int(config["intermediate_size"])
    if family.extra == "lambdas":
        values += 4 * sizes.head_dim
    if config.get("hidden_size_per_layer_input") and family.extra in ("gemma3n", "gemma4"):
        values += hidden
    if family.extra == "gemma3n":  # altup's scale and router norm, laurel's norm
        values += 3 * hidden
    return values


def _beside(sizes: Sizes, family: Family) -> tuple[Matrix, ...]:
    """Return the further matrices of Gemma 3n's and 4's layers."""
    if family.extra not in ("gemma3n", "gemma4"):
        return ()
    config, hidden, found = sizes.config, sizes.hidden, []
    narrow = int(config.get("hidden_size_per_layer_input") or 0)
    if narrow:
        found += [
            Matrix("per_layer_input_gate", hidden, narrow, part="mlp"),
            Matrix("per_layer_projection", narrow, hidden, part="mlp"),
        ]
    if family.extra == "gemma3n":
        streams, rank = int(config["altup_num_inputs"]), int(config["laurel_rank"])
        found += [
            Matrix("linear_left", hidden, rank, part="mlp"),
            Matrix("linear_right", rank, hidden, part="mlp"),
            Matrix("correction_coefs", streams, streams, part="mlp"),
            Matrix("prediction_coefs", streams, streams**2, part="mlp"),
            Matrix("modality_router", hidden, streams, part="mlp"),
        ]
    return tuple(found)
