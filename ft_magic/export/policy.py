"""Which tensor of a model is stored as which type: the rules of ``mixtures.py`` applied to a model.

The same model and file type give the same types as llama.cpp's own ``llama-quantize``; its behaviour
(src/llama-quant.cpp, MIT licence) is the reference. Everything here is a pure function of names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ft_magic.errors import ExportError, nearest
from ft_magic.export.gguf_file import GgufFile, Tensor
from ft_magic.export.mixtures import FILE_TYPES, RULES, TINY, Facts, FileType, Place
from ft_magic.export.tensor_types import TENSOR_TYPES

# Where a row is no multiple of the type's block of 256: the nearest type with blocks of 32.
NARROW_ROWS: Mapping[str, str] = MappingProxyType(
    {
        "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
        "IQ1_S": "IQ4_NL", "IQ1_M": "IQ4_NL", "IQ2_XXS": "IQ4_NL", "IQ2_XS": "IQ4_NL", "IQ2_S": "IQ4_NL",
        "IQ3_XXS": "IQ4_NL", "IQ3_S": "IQ4_NL", "IQ4_XS": "IQ4_NL",
    }
)  # fmt: skip
# Weights too small or too sensitive to quantize: parts of their names.
KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel",
    "per_layer_model_proj", "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight",
    "indexer.q_proj.weight", "time_mix_first.weight",
    "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
    "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
    "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight",
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
KEPT_NAMES = frozenset({"position_embd.weight", "token_types.weight"})
# Parts of a name that tell a tensor's role, the first that fits.
ROLES: Sequence[tuple[str, str]] = (
    ("attn_qkv.weight", "attn_v"),
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)


@dataclass(frozen=True)
class Choice:
    """The type a tensor gets.

    Attributes:
        type: ggml type name.
        fallback: whether the mixture wanted another type that the tensor's row width rules out.
    """

    type: str
    fallback: bool = False


def find_file_type(name: str) -> FileType:
    """Return the file type of a name, in any case.

    Raises:
        ExportError: there is no such file type.
    """
    known = FILE_TYPES.get(name.upper())
    if known:
        return known
    raise ExportError(
        f"file type '{name}' does not exist.{nearest(name.upper(), FILE_TYPES)}",
        f"Choose one of: {', '.join(FILE_TYPES)}.",
    )


def facts_of(gguf: GgufFile, *, imatrix: bool = False) -> Facts:
    """Return what the mixtures ask about a GGUF file's model.

    Raises:
        ExportError: the file names no architecture or no number of blocks.
    """
    architecture = gguf.get("general.architecture")
    layers = gguf.get(f"{architecture}.block_count")
    if architecture is None or layers is None:
        raise ExportError(
            f"'{gguf.path.name}' does not say what model it holds (no architecture or block count).",
            "Give a GGUF file made from a whole model.",
        )
    heads = _first_of(gguf.get(f"{architecture}.attention.head_count", 0))
    return Facts(
        architecture=architecture,
        layers=_first_of(layers),
        heads=heads,
        kv_heads=_first_of(gguf.get(f"{architecture}.attention.head_count_kv", heads)),
        experts=_first_of(gguf.get(f"{architecture}.expert_count", 0)),
        tied=all(tensor.name != "output.weight" for tensor in gguf.tensors),
        value_tensors=sum(_role(tensor.name, tied=False) == "attn_v" for tensor in gguf.tensors),
        imatrix=imatrix,
    )


def in_file_order(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sort tensors as llama.cpp does: those of no block first, then block by block, by name in each."""
    return sorted(tensors, key=lambda tensor: (_block(tensor.name), tensor.name.encode()))


def choose_all(tensors: Sequence[Tensor], file_type: FileType, facts: Facts) -> list[Choice]:
    """Return the type of every tensor.

    Args:
        tensors: all tensors of the model, in the order of ``in_file_order``.
        file_type: the kind of file to make.
        facts: what the mixtures ask about the model.
    """
    places = _places(tensors, file_type, facts)
    return [choose(t, file_type, facts, place) for t, place in zip(tensors, places, strict=True)]


def choose(tensor: Tensor, file_type: FileType, facts: Facts, place: Place) -> Choice:
    """Return the type one tensor gets.

    Args:
        tensor: its name, shape (row width first) and present type.
        file_type: the kind of file to make.
        facts: what the mixtures ask about the model.
        place: which of its kind the tensor is.
    """
    if is_kept(tensor):
        return Choice(tensor.kind.name)
    base = TENSOR_TYPES[file_type.base]
    if base.block_elements == 1:
        return Choice(base.name)
    role = _role(tensor.name, tied=facts.tied)
    if role == "output" and tensor.shape[0] % base.block_elements:
        return _fitting(tensor, "Q8_0", fallback=True)
    wanted = next(
        (
            rule.type
            for rule in RULES
            if rule.role == role and file_type.name in rule.file_types.split() and rule.when(facts, place)
        ),
        base.name,
    )
    if role == "attn_v" and file_type.name not in TINY.split():
        wanted = _raised(wanted, facts)
    return _fitting(tensor, wanted)


def is_kept(tensor: Tensor) -> bool:
    """Return whether a tensor stays as it is: one-dimensional, no weight, a norm, or small and sensitive."""
    name = tensor.name
    if len(tensor.shape) < 2 or not name.endswith("weight") or name in KEPT_NAMES:
        return True
    return any(part in name for part in KEPT)


def _raised(wanted: str, facts: Facts) -> str:
    """Give attention values more bits where many heads or experts depend on few of them."""
    if facts.experts == 8:
        return "Q8_0"
    return "Q5_K" if facts.is_70b and wanted in ("Q3_K", "Q4_K") else wanted


def _fitting(tensor: Tensor, wanted: str, *, fallback: bool = False) -> Choice:
    """Replace a type by one whose blocks divide the tensor's rows."""
    width = tensor.shape[0]
    if width % TENSOR_TYPES[wanted].block_elements == 0:
        return Choice(wanted, fallback)
    narrow = NARROW_ROWS.get(wanted, "F16")
    fits = width % TENSOR_TYPES[narrow].block_elements == 0
    return Choice(narrow if fits else "F16", fallback=True)


def _places(tensors: Sequence[Tensor], file_type: FileType, facts: Facts) -> Iterator[Place]:
    """Count tensors of each role; in expert models the block number is the place."""
    seen: dict[str, int] = {}
    by_block = facts.experts > 1 and file_type.name not in TINY.split()
    for tensor in tensors:
        role = _role(tensor.name, tied=facts.tied)
        index = seen.get(role, 0)
        if not is_kept(tensor):
            seen[role] = index + 1
        if role.startswith("ffn_"):
            yield Place(_block(tensor.name) if by_block else index, facts.layers)
        else:
            yield Place(index, facts.value_tensors)


def _role(name: str, *, tied: bool) -> str:
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "output" if tied else "token_embd"
    return next((role for part, role in ROLES if part in name), "other")


def _block(name: str) -> int:
    """Return the block number in a tensor's name, -1 where it belongs to none."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _first_of(value: int | list[int]) -> int:
    """Return a number that may be given once or per block."""
    return int(value[0] if isinstance(value, list) else value)
