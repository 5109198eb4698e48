"""Quantizing GGUF files: same types and bytes as llama.cpp, nothing half-written, errors that say what to do."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.errors import ExportError
from ft_magic.export import ggml, gguf_file, mixtures, policy, quantize
from ft_magic.export.describe import describe, tensor_summary
from ft_magic.export.mixtures import FILE_TYPES, Facts, Place
from ft_magic.export.tensor_types import TENSOR_TYPES

BF16 = gguf.GGMLQuantizationType.BF16


def numbers(seed: int, *shape: int) -> np.ndarray:
    """Float32 in (-0.1, 0.1) from an integer hash: no random generator whose stream may change."""
    at = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed * 1_000_003)
    mixed = (at * np.uint64(2654435761)) % np.uint64(2**32)
    return ((mixed.astype(np.float64) / 2**31 - 1) * 0.1).astype(np.float32).reshape(shape)


def add_tensor(w, source, bad, name, *shape):
    x = numbers(len(name) + sum(map(ord, name)), *shape)
    if name == bad:
        x.flat[5] = np.nan
    if len(shape) == 1 or source == "f32":
        w.add_tensor(name, x)
    elif source == "f16":
        w.add_tensor(name, x.astype(np.float16))
    else:
        w.add_tensor(name, gguf.quantize(x, BF16), raw_dtype=BF16)


def tiny(
    path, *, arch="llama", layers=8, width=256, ffn=512, kv=2, experts=0, tied=False, source="bf16", bad=None
):
    """A model file of four heads and a 48-token vocabulary; ``bad`` puts that number into one tensor."""
    w = gguf.GGUFWriter(str(path), arch)
    w.add_name("tiny")
    w.add_file_type(32)
    w.add_block_count(layers)
    for add, value in (
        (w.add_context_length, 512), (w.add_embedding_length, width), (w.add_feed_forward_length, ffn),
        (w.add_head_count, 4), (w.add_head_count_kv, kv),
        (w.add_layer_norm_rms_eps, 1e-5), (w.add_layer_norm_eps, 1e-5),
        (w.add_rope_dimension_count, width // 4), (w.add_vocab_size, 48),
    ):  # fmt: skip
        add(value)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)
    w.add_tokenizer_model("gpt2")
    w.add_token_list([f"tök{i}" for i in range(47)] + ["<|im_end|>"])
    w.add_token_types([1] * 47 + [3])
    w.add_eos_token_id(47)
    w.add_chat_template("{{ messages }}")

    add = functools.partial(add_tensor, w, source, bad)
    add("token_embd.weight", 48, width)
    add("output_norm.weight", width)
    if not tied:
        add("output.weight", 48, width)
    for i in range(layers):
        b = f"blk.{i}."
        add(b + "attn_norm.weight", width)
        for name, rows in (("q", width), ("k", kv * width // 4), ("v", kv * width // 4), ("output", width)):
            add(f"{b}attn_{name}.weight", rows, width)
        if experts:
            add(b + "ffn_gate_inp.weight", experts, width)
            add(b + "ffn_up_exps.weight", experts, ffn, width)
            add(b + "ffn_down_exps.weight", experts, width, ffn)
        else:
            add(b + "ffn_up.weight", ffn, width)
            add(b + "ffn_down.weight", width, ffn)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def exact_kernel() -> None:
    kernel = ggml.load()
    if not kernel.exact:
        pytest.skip(f"{kernel.name} rounds differently on this processor: recorded bytes do not apply")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- reading and writing the header


def test_type_table_agrees_with_the_gguf_package():
    for kind in TENSOR_TYPES.values():
        known = gguf.GGMLQuantizationType(kind.number)
        assert known.name == kind.name
        assert gguf.GGML_QUANT_SIZES[known] == (kind.block_elements, kind.block_bytes)


def test_header_reads_as_the_gguf_package_reads_it(source):
    ours, theirs = gguf_file.read(source), gguf.GGUFReader(source)
    wanted = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert {key: field.value() for key, field in ours.fields.items()} == wanted
    assert [(t.name, t.kind.name, ours.data_at + t.offset_bytes, t.bytes) for t in ours.tensors] == [
        (t.name, t.tensor_type.name, t.data_offset, t.n_bytes) for t in theirs.tensors
    ]


def test_one_array_element_is_read_without_the_rest(source):
    tokens = gguf_file.read(source).fields["tokenizer.ggml.tokens"]
    assert tokens.item(3) == "tök3"
    with pytest.raises(IndexError):
        tokens.item(48)


@pytest.mark.parametrize("keep", [0, 3, 30, 500, -1])
def test_cut_file_is_refused(source, tmp_path, keep):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(source.read_bytes()[:keep])
    with pytest.raises(ExportError, match="cannot be read as a GGUF file"):
        gguf_file.read(cut)


def test_other_file_is_refused(tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ExportError, match="does not begin with 'GGUF'"):
        gguf_file.read(other)


def test_describe_reads_what_chat_and_certificate_need(source, tmp_path):
    info = describe(quantize.quantize(source, tmp_path / "q.gguf", "q4_k_m").path)
    assert (info.architecture, info.file_type, info.context_tokens) == ("llama", "Q4_K_M", 512)
    assert (info.eos_id, info.eos_token, info.stop_tokens) == (47, "<|im_end|>", ("<|im_end|>",))
    assert info.chat_template == "{{ messages }}"
    assert info.bytes == info.path.stat().st_size
    assert info.tensor_types == tensor_summary(info.path)


# ---------------------------------------------------------------- the bytes

# SHA-256 of whole files made from tiny(...), recorded 21 Nov 2026 on x86-64 Linux with libggml-python
# 0.20.2.post1 and gguf 0.19.0; each was equal to llama_model_quantize's (llama.cpp v0.5.0) when recorded.
GOLDEN = {
    "F32": "00c480f97d99df358b4d7b6e688836eb0eb42253fae31a2271c3083857eeafa1",
    "F16": "ec4c30e8e5731ec307b34c3e393cd983ce813f77894c2711b5d9453ffbb05ea9",
    "Q8_0": "3140efe432090e217c813711bb7d87f4a9aabfe560e691631594479499c0c712",
    "Q6_K": "2cb011e33820567a570c342b350b830ac1696fa0cb868a4e3e33d4aeb755917d",
    "Q5_K_M": "85bb1bb9487e0d2aa8edf68998fe4349c225f661ed7b7844a0744dbe8630807f",
    "Q5_K_S": "cd3502b015afdf120210776048b05700810ab18f74c6381d24d6880a65e208d5",
    "Q5_0": "74edebd50dc19fd0b1b413bc3d40e75b17b9553491db6f64dbd5884a665a6f24",
    "Q4_K_M": "9e909da8bf8dc4b3dcc724ce0eb89f0973937dde39b43e859ae2bae761115a3a",
    "Q4_K_S": "5596b2af29e132fb13e17b70fa41a7af0dce191e43c927e9f80ce8cfc9aaca70",
    "Q4_0": "e47b444b4b599494fcd40a84561e8dbd0d3aa1a0d00108d99fa1abe3c14f22df",
    "IQ4_XS": "498a81488f5db1c9d5ca7676e0746a58e9b4a1b39971c32c2cfd7e5b6ce115f9",
    "Q3_K_M": "ba1ed3e564c8237e675830c0cee1f9c58de900569ace9fb1dfc130543a707100",
    "Q2_K": "a1761ae453c3a42ea6ccda5c4031d3fce15331872c0b73750143e502b47e161b",
}


@pytest.mark.golden
@pytest.mark.parametrize("file_type", GOLDEN)
def test_file_equals_the_recorded_one(source, tmp_path, exact_kernel, file_type):
    done = quantize.quantize(source, tmp_path / "q.gguf", file_type)
    assert sha256(done.path) == GOLDEN[file_type]


@pytest.mark.parametrize(("threads", "chunk"), [(1, 4 * 2**20), (3, 4 * 2**20), (2, 1000), (5, 40_000)])
def test_threads_and_chunks_do_not_change_the_bytes(source, tmp_path, monkeypatch, threads, chunk):
    whole = quantize.quantize(source, tmp_path / "one.gguf", "Q4_K_M", threads=1)
    monkeypatch.setattr(quantize, "CHUNK_ELEMENTS", chunk)
    other = quantize.quantize(source, tmp_path / "other.gguf", "Q4_K_M", threads=threads)
    assert sha256(whole.path) == sha256(other.path)


def test_metadata_is_copied_but_for_the_two_fields_that_change(source, tmp_path):
    done = quantize.quantize(source, tmp_path / "q.gguf", "Q6_K")
    before, after = gguf_file.read(source), gguf_file.read(done.path)
    assert list(after.fields)[-2:] == ["general.quantization_version", "general.file_type"]
    assert (after.get("general.quantization_version"), after.get("general.file_type")) == (2, 18)
    for key, field in before.fields.items():
        assert key == "general.file_type" or after.fields[key].raw == field.raw


def test_one_dimensional_tensors_stay_as_they_are(source, tmp_path):
    done = quantize.quantize(source, tmp_path / "q.gguf", "Q2_K")
    before = {t.name: t for t in gguf.GGUFReader(source).tensors}
    for tensor in gguf.GGUFReader(done.path).tensors:
        if len(tensor.shape) == 1:
            assert tensor.tensor_type.name == "F32"
            assert np.array_equal(tensor.data, before[tensor.name].data)


@pytest.mark.parametrize(
    "width", [256, 96]
)  # one key/value head of 24 rows of 96: its data ends off the alignment
@pytest.mark.parametrize(
    ("kind", "source_type"), [("Q8_0", "bf16"), ("Q8_0", "f16"), ("Q8_0", "f32"), ("F16", "f32")]
)
def test_numbers_survive_within_the_step_of_the_type(tmp_path, kind, source_type, width):
    src = tiny(tmp_path / "s.gguf", layers=2, source=source_type, width=width, ffn=256, kv=1)
    done = quantize.quantize(src, tmp_path / "q.gguf", kind)
    for tensor in gguf.GGUFReader(done.path).tensors:
        if len(tensor.shape) > 1:
            back = gguf.dequantize(tensor.data, tensor.tensor_type)
            wanted = numbers(len(tensor.name) + sum(map(ord, tensor.name)), *back.shape)
            # half a Q8_0 step of a block whose largest number is 0.1, and bf16's own rounding of the source
            assert np.abs(back - wanted).max() <= 0.1 / 127 / 2 + 0.1 / 256


def test_report_counts_types_and_fallbacks(tmp_path):
    narrow = tiny(tmp_path / "narrow.gguf", width=96, ffn=256, layers=4)
    done = quantize.quantize(narrow, tmp_path / "q.gguf", "q4_k_m")
    assert done.tensor_types == tensor_summary(done.path)
    assert done.bytes == done.path.stat().st_size
    # rows of 96 fit no block of 256: both embeddings and attn_q/k/v/output, ffn_up of 4 layers
    assert done.fallbacks == 2 + 4 * 5


def test_progress_reaches_its_end(source, tmp_path):
    seen = []
    quantize.quantize(source, tmp_path / "q.gguf", "Q8_0", progress=lambda *told: seen.append(told))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == seen[-1][2] > 0


def test_importance_matrix_changes_the_bytes_it_should(source, tmp_path):
    plain = quantize.quantize(source, tmp_path / "a.gguf", "Q4_K_S")
    name = "blk.3.ffn_up.weight"
    weighted = quantize.quantize(source, tmp_path / "b.gguf", "Q4_K_S", imatrix={name: np.arange(1, 257)})
    one, other = (gguf.GGUFReader(done.path).tensors for done in (plain, weighted))
    assert [a.name for a, b in zip(one, other, strict=True) if not np.array_equal(a.data, b.data)] == [name]


def test_experts_have_their_own_importance(tmp_path):
    src = tiny(tmp_path / "moe.gguf", layers=2, experts=4)
    name = "blk.0.ffn_up_exps.weight"
    matrix = np.ones((4, 256), np.float32)
    matrix[2] = np.arange(1, 257)
    plain = quantize.quantize(src, tmp_path / "a.gguf", "Q4_K_S", imatrix={name: np.ones(4 * 256)})
    weighted = quantize.quantize(src, tmp_path / "b.gguf", "Q4_K_S", imatrix={name: matrix})
    a, b = (
        next(t.data for t in gguf.GGUFReader(d.path).tensors if t.name == name) for d in (plain, weighted)
    )
    assert [bool((x != y).any()) for x, y in zip(a, b, strict=True)] == [False, False, True, False]


# ---------------------------------------------------------------- which tensor gets which type


def tensor(name, *shape):
    return gguf_file.Tensor(name, shape, TENSOR_TYPES["BF16"], 0)


LLAMA = Facts("llama", layers=32, heads=32, kv_heads=32, experts=0, tied=False, value_tensors=32)


def chosen(name, width, file_type, facts=LLAMA, index=0):
    of = facts.layers if "ffn" in name else facts.value_tensors
    return policy.choose(tensor(name, width, 512), FILE_TYPES[file_type], facts, Place(index, of)).type


def test_q4_k_m_raises_the_first_and_last_eighth_and_every_third_layer():
    raised = [i for i in range(32) if chosen(f"blk.{i}.ffn_down.weight", 512, "Q4_K_M", index=i) == "Q6_K"]
    assert raised == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]


@pytest.mark.parametrize(
    ("name", "width", "file_type", "wanted"),
    [
        ("output.weight", 512, "Q4_K_M", "Q6_K"),
        ("output.weight", 576, "Q4_K_M", "Q8_0"),
        ("output.weight", 512, "Q8_0", "Q8_0"),
        ("token_embd.weight", 512, "Q4_K_M", "Q4_K"),
        ("blk.9.attn_q.weight", 576, "Q4_K_M", "Q5_0"),
        ("blk.9.attn_q.weight", 576, "Q5_K_M", "Q5_1"),
        ("blk.9.attn_q.weight", 576, "Q6_K", "Q8_0"),
        ("blk.9.attn_q.weight", 576, "Q3_K_M", "Q4_0"),
        ("blk.9.attn_q.weight", 576, "IQ4_XS", "IQ4_NL"),
        ("blk.9.attn_q.weight", 40, "Q4_K_M", "F16"),
        ("blk.9.attn_norm.weight", 512, "Q4_K_M", "BF16"),
        ("blk.9.ffn_gate_inp.weight", 512, "Q4_K_M", "BF16"),
        ("blk.9.attn_q.bias", 512, "Q4_K_M", "BF16"),
        ("blk.9.attn_q.weight", 512, "F16", "F16"),
    ],
)
def test_types_by_name_and_width(name, width, file_type, wanted):
    assert chosen(name, width, file_type, index=9) == wanted


def test_tied_embedding_counts_as_the_output():
    tied = Facts("llama", 32, 32, 32, 0, tied=True, value_tensors=32)
    assert chosen("token_embd.weight", 512, "Q4_K_M", tied) == "Q6_K"


def test_values_shared_by_many_heads_or_experts_get_more_bits():
    grouped = Facts("llama", 80, 64, 8, 0, tied=False, value_tensors=80)
    eight = Facts("llama", 32, 32, 8, 8, tied=False, value_tensors=32)
    assert chosen("blk.40.attn_v.weight", 512, "Q4_K_M", grouped, index=41) == "Q5_K"
    assert chosen("blk.9.attn_v.weight", 512, "Q4_K_M", eight, index=9) == "Q8_0"
    assert chosen("blk.9.attn_k.weight", 512, "Q4_K_M", eight, index=9) == "Q8_0"


NAMES = st.sampled_from(
    ["token_embd", "output", "output_norm", "position_embd"]
    + [f"blk.{i}.{part}" for i in (0, 5, 31) for part in (
        "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_up", "ffn_gate", "ffn_down",
        "ffn_down_exps", "ffn_gate_inp", "attn_norm", "ssm_conv1d",
    )]
)  # fmt: skip


@given(
    NAMES,
    st.sampled_from(["weight", "bias"]),
    st.integers(1, 2048),
    st.sampled_from(list(FILE_TYPES)),
    st.builds(
        Facts,
        architecture=st.sampled_from(["llama", "qwen2", "falcon", "phi3"]),
        layers=st.sampled_from([32, 80]),
        heads=st.just(32),
        kv_heads=st.sampled_from([0, 1, 8, 32]),
        experts=st.sampled_from([0, 4, 8]),
        tied=st.booleans(),
        value_tensors=st.just(32),
        imatrix=st.booleans(),
    ),
    st.integers(0, 31),
)
def test_every_choice_divides_the_row(name, suffix, width, file_type, facts, index):
    it = tensor(f"{name}.{suffix}", width, 3)
    choice = policy.choose(it, FILE_TYPES[file_type], facts, Place(index, 32))
    assert width % TENSOR_TYPES[choice.type].block_elements == 0
    if policy.is_kept(it):
        assert choice == policy.Choice("BF16")


def test_rules_name_only_known_types_and_roles():
    roles = {role for _, role in policy.ROLES} | {"output", "token_embd"}
    for rule in mixtures.RULES:
        assert rule.role in roles
        assert rule.type in TENSOR_TYPES
        assert set(rule.file_types.split()) <= set(FILE_TYPES)


def test_file_type_numbers_are_llama_cpps():
    for row in FILE_TYPES.values():
        prefix = "ALL_" if row.name == "F32" else "MOSTLY_"
        assert gguf.LlamaFileType[prefix + row.name].value == row.number


# ---------------------------------------------------------------- the kernel


def test_broken_kernel_is_refused(monkeypatch):
    def zeros(kind, rows, out, start, count, width, weights):
        return (
            gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)][1]
            * count
            * (width // gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)][0])
        )

    monkeypatch.setattr(ggml, "_functions", lambda: iter([("broken 1.0", zeros)]))
    with pytest.raises(ExportError, match=r"kernel of broken 1\.0 is broken here"):
        ggml.load.__wrapped__()


def test_no_kernel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(ggml, "_functions", lambda: iter(()))
    with pytest.raises(ExportError, match=r"pip install 'ft-magic\[gguf\]'"):
        ggml.load.__wrapped__()


# ---------------------------------------------------------------- refusals leave nothing behind


def refused(source, tmp_path, match, file_type="Q4_K_M", **options):
    out = tmp_path / "out" / "q.gguf"
    with pytest.raises(ExportError, match=match):
        quantize.quantize(source, out, file_type, **options)
    assert not out.exists()
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_unknown_type_names_the_nearest(source, tmp_path):
    refused(source, tmp_path, "Did you mean 'Q4_K_M'", "q4_km")


def test_missing_file(tmp_path):
    refused(tmp_path / "none.gguf", tmp_path, "does not exist")


def test_quantized_input(source, tmp_path):
    first = quantize.quantize(source, tmp_path / "first.gguf", "Q8_0").path
    refused(first, tmp_path, "already quantized")


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q8_0", "F16"])
def test_weight_that_is_no_number(tmp_path, kind):
    src = tiny(tmp_path / "nan.gguf", layers=2, bad="blk.1.ffn_up.weight", source="f32")
    refused(src, tmp_path, r"blk\.1\.ffn_up\.weight holds a number that is not finite", kind)


def test_number_too_large_for_f16(tmp_path):
    path = tmp_path / "large.gguf"
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_block_count(1)
    w.add_tensor("blk.0.ffn_up.weight", np.full((4, 256), 1e5, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    refused(path, tmp_path, "more than f16 can", "F16")


def test_type_that_needs_an_importance_matrix(source, tmp_path):
    refused(source, tmp_path, "needs an importance matrix", "IQ2_XS")


@pytest.mark.parametrize("matrix", [np.ones(255), np.full(256, np.nan)])
def test_importance_matrix_that_does_not_fit(source, tmp_path, matrix):
    refused(source, tmp_path, "does not fit", imatrix={"blk.0.attn_q.weight": matrix})


def test_full_disk(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    refused(source, tmp_path, "needs .* GB")


def test_output_over_its_own_input(source):
    before = sha256(source)
    with pytest.raises(ExportError, match="is the input itself"):
        quantize.quantize(source, source, "Q4_K_M")
    assert sha256(source) == before


def test_failure_keeps_the_file_that_was_there(tmp_path):
    src = tiny(tmp_path / "nan.gguf", layers=2, bad="blk.1.ffn_up.weight")
    out = tmp_path / "q.gguf"
    out.write_text("earlier")
    with pytest.raises(ExportError):
        quantize.quantize(src, out, "Q4_K_M")
    assert out.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nan.gguf", "q.gguf"]


# ---------------------------------------------------------------- llama.cpp itself as the judge

ORACLE = """
import ctypes as C, json, os, sys
folder, jobs = sys.argv[1], json.loads(sys.argv[2])
load = lambda name: C.CDLL(os.path.join(folder, name), mode=C.RTLD_GLOBAL)
load("libggml-base.so")
ggml = load(next(n for n in os.listdir(folder) if n.startswith("libggml.v")))
llama = load(next(n for n in os.listdir(folder) if n.startswith("libllama.v")))
ggml.ggml_backend_load_all_from_path.argtypes = [C.c_char_p]
ggml.ggml_backend_load_all_from_path(folder.encode())
llama.llama_backend_init()
class Params(C.Structure):
    _fields_ = [("threads", C.c_int32), ("file_type", C.c_int), ("rest", C.c_byte * 240)]
llama.llama_model_quantize_default_params.restype = Params
llama.llama_model_quantize.argtypes = [C.c_char_p, C.c_char_p, C.POINTER(Params)]
for source, target, number in jobs:
    params = llama.llama_model_quantize_default_params()
    params.threads, params.file_type = 2, number
    assert llama.llama_model_quantize(source.encode(), target.encode(), C.byref(params)) == 0, target
"""

CASES = {
    "llama": {},
    "tied": {"tied": True, "kv": 1},
    "narrow": {"width": 96, "ffn": 256},
    "odd": {"width": 40, "ffn": 96, "layers": 3},
    "f16": {"source": "f16", "layers": 5},
    "f32": {"source": "f32", "layers": 17},
    "falcon": {"arch": "falcon", "layers": 16},
    "mixtral": {"experts": 8},
    "moe": {"arch": "qwen3moe", "experts": 16, "layers": 4},
    "80": {"layers": 80, "ffn": 256},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_files_equal_llama_cpps_own(tmp_path, exact_kernel, case):
    """The package @node-llama-cpp/linux-x64 3.22.1 (npm, MIT) holds the real llama_model_quantize."""
    package = os.environ.get("FT_MAGIC_ORACLE")
    if not package:
        pytest.skip(
            "set FT_MAGIC_ORACLE to the folder of @node-llama-cpp/linux-x64 (npm install --ignore-scripts)"
        )
    libraries = Path(package) / "bins" / "linux-x64"
    src = tiny(tmp_path / "s.gguf", **CASES[case])
    # The IQ kernels search for minutes on the larger files; their rules are covered by the smaller ones.
    small = src.stat().st_size < 8e6
    rows = [row for row in FILE_TYPES.values() if not row.needs_imatrix and (small or row.name[:2] != "IQ")]
    jobs = [(str(src), str(tmp_path / f"{row.name}.ref"), row.number) for row in rows]
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, str(libraries), json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    differ = [
        row.name
        for row in rows
        if sha256(quantize.quantize(src, tmp_path / "q.gguf", row.name).path)
        != sha256(tmp_path / f"{row.name}.ref")
    ]
    assert differ == []
