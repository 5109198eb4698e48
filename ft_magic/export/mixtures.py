"""The mixtures behind names such as ``Q4_K_M``, as one table of rules.

A file type names a base type and a set of rules that give more (or fewer) bits to tensors whose errors cost
more (or less). The mixtures are llama.cpp's (src/llama-quant.cpp, MIT licence); ``policy.py`` applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class FileType:
    """A kind of GGUF file users ask for.

    Attributes:
        name: the word users write, upper case.
        number: llama.cpp's number for it, written as ``general.file_type``.
        base: type of every tensor that no rule gives another.
        needs_imatrix: whether llama.cpp refuses to make it without an importance matrix.
    """

    name: str
    number: int
    base: str
    needs_imatrix: bool = False


FILE_TYPES: Mapping[str, FileType] = MappingProxyType(
    {
        row.name: row
        for row in (
            FileType("F32", 0, "F32"),
            FileType("F16", 1, "F16"),
            FileType("BF16", 32, "BF16"),
            FileType("Q8_0", 7, "Q8_0"),
            FileType("Q6_K", 18, "Q6_K"),
            FileType("Q5_K_M", 17, "Q5_K"),
            FileType("Q5_K_S", 16, "Q5_K"),
            FileType("Q5_1", 9, "Q5_1"),
            FileType("Q5_0", 8, "Q5_0"),
            FileType("Q4_K_M", 15, "Q4_K"),
            FileType("Q4_K_S", 14, "Q4_K"),
            FileType("Q4_1", 3, "Q4_1"),
            FileType("Q4_0", 2, "Q4_0"),
            FileType("IQ4_NL", 25, "IQ4_NL"),
            FileType("IQ4_XS", 30, "IQ4_XS"),
            FileType("Q3_K_L", 13, "Q3_K"),
            FileType("Q3_K_M", 12, "Q3_K"),
            FileType("Q3_K_S", 11, "Q3_K"),
            FileType("IQ3_M", 27, "IQ3_S"),
            FileType("IQ3_S", 26, "IQ3_S"),
            FileType("IQ3_XS", 22, "IQ3_S", needs_imatrix=True),
            FileType("IQ3_XXS", 23, "IQ3_XXS", needs_imatrix=True),
            FileType("Q2_K", 10, "Q2_K"),
            FileType("Q2_K_S", 21, "Q2_K", needs_imatrix=True),
            FileType("IQ2_M", 29, "IQ2_S", needs_imatrix=True),
            FileType("IQ2_S", 28, "IQ2_XS", needs_imatrix=True),
            FileType("IQ2_XS", 20, "IQ2_XS", needs_imatrix=True),
            FileType("IQ2_XXS", 19, "IQ2_XXS", needs_imatrix=True),
            FileType("IQ1_M", 31, "IQ1_M", needs_imatrix=True),
            FileType("IQ1_S", 24, "IQ1_S", needs_imatrix=True),
        )
    }
)


@dataclass(frozen=True)
class Facts:
    """What the mixtures ask about a model.

    Attributes:
        architecture: llama.cpp's name of it.
        layers: number of blocks.
        heads: attention heads of the first block.
        kv_heads: key/value heads of the first block.
        experts: experts of a mixture-of-experts model, else 0.
        tied: whether the output shares the token embedding's weights.
        value_tensors: number of attention value (or fused) tensors.
        imatrix: whether an importance matrix is given.
    """

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int
    tied: bool
    value_tensors: int
    imatrix: bool = False

    @property
    def heads_per_kv(self) -> int:
        """Attention heads that share one key/value head."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp counts the model among the 70B ones, which share each value tensor 8-fold."""
        if self.layers != 80:
            return False
        return self.architecture in ALWAYS_70B or (
            self.architecture in GROUPED_70B and self.heads != self.kv_heads
        )


# Architectures whose 80-layer model llama.cpp labels 70B: in any case, or where heads share key/value heads.
# Found by asking llama_model_quantize (llama.cpp of Sep 2026) for 99 of the 126 architectures that gguf 0.19
# knows; the other 27 (recurrent, encoder and recent hybrid ones) could not be asked and count as not 70B.
ALWAYS_70B = frozenset({"qwen2", "deci", "olmo"})
GROUPED_70B = frozenset({"llama", "llama-embed"})


@dataclass(frozen=True)
class Place:
    """Which of its kind a tensor is: the ``index``-th (from 0) of ``of``."""

    index: int
    of: int


When = Callable[[Facts, Place], bool]


def _always(_: Facts, __: Place) -> bool:
    return True


def _first(count: int) -> When:
    return lambda _, place: place.index < count


def _first_part(parts: int) -> When:
    return lambda _, place: place.index < place.of // parts


def _more_bits(_: Facts, place: Place) -> bool:
    """First and last eighth of the layers, and every third in between: where errors cost most."""
    eighth = place.of // 8
    return place.index < eighth or place.index >= 7 * place.of // 8 or (place.index - eighth) % 3 == 2


def _middle(_: Facts, place: Place) -> bool:
    return place.of // 8 <= place.index < 7 * place.of // 8


def _shared_heads(facts: Facts, _: Place) -> bool:
    return facts.heads_per_kv >= 4


def _shared_or_experts(facts: Facts, _: Place) -> bool:
    return facts.heads_per_kv >= 4 or facts.experts >= 4


def _eight_experts(facts: Facts, _: Place) -> bool:
    return facts.experts == 8


def _falcon(facts: Facts, _: Place) -> bool:
    return facts.architecture == "falcon"


def _imatrix(facts: Facts, _: Place) -> bool:
    return facts.imatrix


def _not(when: When) -> When:
    return lambda facts, place: not when(facts, place)


def _both(one: When, other: When) -> When:
    return lambda facts, place: one(facts, place) and other(facts, place)


@dataclass(frozen=True)
class Rule:
    """In files of these types, a tensor of this role gets this type when the condition holds.

    Attributes:
        role: role of the tensor (see ``ROLES``; also ``output`` and ``token_embd``).
        file_types: names of the file types, separated by spaces.
        type: ggml type name.
        when: condition on the model and the tensor's place.
    """

    role: str
    file_types: str
    type: str
    when: When = _always


_ALL = " ".join(FILE_TYPES)
# File types below three bits follow rules of their own.
TINY = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"
_EXPERT_OUTPUT = "Q2_K IQ3_XS IQ3_XXS IQ3_S IQ3_M Q3_K_S Q3_K_M IQ4_NL IQ4_XS Q4_K_S Q4_K_M"

# The first rule that fits decides; where none fits, the file type's base type stands.
RULES: Sequence[Rule] = (
    Rule("output", _ALL, "Q8_0", _falcon),
    Rule("output", f"{TINY} IQ3_XXS", "Q5_K"),
    Rule("output", "Q8_0", "Q8_0"),
    Rule("output", _ALL, "Q6_K"),
    Rule("token_embd", "IQ1_S IQ1_M IQ2_XXS IQ2_XS", "Q2_K"),
    Rule("token_embd", "IQ2_S IQ2_M IQ3_XXS", "IQ3_S"),
    Rule("attn_v", TINY, "Q4_K", _shared_or_experts),
    Rule("attn_v", "IQ2_S IQ2_M", "IQ3_S"),
    Rule("attn_v", "IQ1_S IQ1_M IQ2_XXS IQ2_XS", "Q2_K"),
    Rule("attn_v", "Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", "Q4_K", _shared_heads),
    Rule("attn_v", "IQ3_XXS", "IQ3_S", _not(_imatrix)),
    Rule("attn_v", "Q2_K", "Q3_K"),
    Rule("attn_v", "IQ3_M", "Q4_K"),
    Rule("attn_v", "Q3_K_M", "Q5_K", _first(2)),
    Rule("attn_v", "Q3_K_M", "Q4_K"),
    Rule("attn_v", "Q3_K_L", "Q5_K"),
    Rule("attn_v", "IQ4_NL IQ4_XS", "Q5_K", _shared_heads),
    Rule("attn_v", "Q4_K_M Q5_K_M", "Q6_K", _more_bits),
    Rule("attn_v", "Q4_K_S", "Q5_K", _first(4)),
    Rule("attn_k", TINY, "Q4_K", _eight_experts),
    Rule("attn_k", _ALL, "Q8_0", _eight_experts),
    Rule("attn_k", "IQ3_XS", "IQ3_XXS"),
    Rule("attn_k", "IQ3_XXS", "IQ2_S"),
    Rule("attn_q", "IQ3_XS", "IQ3_XXS"),
    Rule("attn_q", "IQ3_XXS", "IQ2_S"),
    Rule("attn_output", f"{TINY} {_EXPERT_OUTPUT}", "Q5_K", _eight_experts),
    Rule("attn_output", "IQ1_S IQ1_M", "IQ2_XXS"),
    Rule("attn_output", "IQ2_S IQ2_M", "IQ3_S"),
    Rule("attn_output", "Q3_K_L", "Q4_K", _falcon),
    Rule("attn_output", "Q2_K", "Q3_K", _not(_falcon)),
    Rule("attn_output", "IQ3_XXS", "IQ3_S", _not(_falcon)),
    Rule("attn_output", "Q3_K_M IQ3_M", "Q4_K", _not(_falcon)),
    Rule("attn_output", "Q3_K_L", "Q5_K", _not(_eight_experts)),
    Rule("ffn_down", "IQ2_S IQ2_M", "IQ3_S", _first_part(8)),
    Rule("ffn_down", "IQ1_S IQ1_M IQ2_XXS IQ2_XS", "Q2_K", _first_part(8)),
    Rule("ffn_down", "Q2_K", "Q3_K"),
    Rule("ffn_down", "Q2_K_S IQ3_M", "Q4_K", _first_part(8)),
    Rule("ffn_down", "IQ3_M", "Q4_K", _both(_eight_experts, _more_bits)),
    Rule("ffn_down", "IQ3_XXS", "Q4_K", _both(_not(_imatrix), _first_part(8))),
    Rule("ffn_down", "IQ3_XXS", "Q3_K", _not(_imatrix)),
    Rule("ffn_down", "Q3_K_M", "Q5_K", _first_part(16)),
    Rule("ffn_down", "Q3_K_M", "Q4_K", _not(_falcon)),
    Rule("ffn_down", "Q3_K_M", "Q4_K", _more_bits),
    Rule("ffn_down", "Q3_K_L", "Q4_K", _falcon),
    Rule("ffn_down", "Q3_K_L", "Q5_K"),
    Rule("ffn_down", "Q4_K_M", "Q6_K", _both(_falcon, _first_part(16))),
    Rule("ffn_down", "Q4_K_M", "Q5_K", _both(_falcon, _more_bits)),
    Rule("ffn_down", "Q4_K_M", "Q6_K", _both(_not(_falcon), _more_bits)),
    Rule("ffn_down", "IQ4_NL IQ4_XS", "Q5_K", _both(_not(_imatrix), _first_part(8))),
    Rule("ffn_down", "Q5_K_M", "Q6_K", _more_bits),
    Rule("ffn_down", "Q4_K_S", "Q5_K", _both(_not(_falcon), _first_part(8))),
    Rule("ffn_down", "Q4_0", "Q4_1", _both(_imatrix, _first_part(8))),
    Rule("ffn_down", "Q5_0", "Q5_1", _both(_imatrix, _first_part(8))),
    Rule("ffn_gate", "IQ3_XS", "IQ3_XXS", _middle),
    Rule("ffn_up", "IQ3_XS", "IQ3_XXS", _middle),
)
