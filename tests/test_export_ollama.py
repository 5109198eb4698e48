"""Modelfiles: read back by the rules of Ollama's own parser, and refused where it would lose something."""

from __future__ import annotations

import re
import shlex

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.errors import ExportError
from ft_magic.export.ollama import modelfile, run_lines, write_modelfile


def make(path, *, template="{{ messages }}", context=2048):
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_block_count(1)
    w.add_context_length(context)
    w.add_tokenizer_model("gpt2")
    w.add_token_list(["Hello", "<|im_end|>", "<|endoftext|>", "</s>"])
    w.add_token_types([1, 3, 3, 4])
    w.add_eos_token_id(1)
    if template:
        w.add_chat_template(template)
    w.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("ollama") / "tuned model.gguf")


def parse(text: str) -> list[tuple[str, str]]:
    """Read a Modelfile as Ollama does: a value runs to the first line end at which its quotes are closed."""
    commands, rest = [], text
    while rest := rest.lstrip():
        word, rest = rest.split(" ", 1)
        if word == "PARAMETER":
            word, rest = rest.split(" ", 1)
        value, ends = "", False
        while not ends:
            line, _, rest = rest.partition("\n")
            value += line
            bare = value.strip()
            quote = '"""' if bare.startswith('"""') else '"' if bare.startswith('"') else ""
            ends = not quote or (len(bare) >= 2 * len(quote) and bare.endswith(quote))
            assert ends or rest, f"quotes of {word} never close"
            value += "" if ends else "\n"
        commands.append((word, bare[len(quote) : len(bare) - len(quote)] if quote else bare))
    return commands


def test_modelfile_names_the_file_its_stops_and_no_template(model):
    text = modelfile(
        model, stops=["<|im_end|>", "<|endoftext|>"], num_ctx=2048, system="Be brief.\nAnswer in JSON."
    )
    assert parse(text) == [
        ("FROM", "./tuned model.gguf"),
        ("stop", "<|im_end|>"),
        ("stop", "<|endoftext|>"),
        ("num_ctx", "2048"),
        ("SYSTEM", "Be brief.\nAnswer in JSON."),
    ]


def test_template_for_old_versions(model):
    go = "{{ if .System }}<s>{{ .System }}{{ end }}\n{{ .Prompt }}"
    text = modelfile(model, stops=["</s>"], num_ctx=512, system=None, template=go)
    assert dict(parse(text))["TEMPLATE"] == go
    assert "SYSTEM" not in text


@given(
    system=st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" \n\t"), max_size=60)
)
def test_system_prompt_comes_back_as_written_or_is_refused(model, system):
    try:
        text = modelfile(model, stops=["<|im_end|>"], num_ctx=512, system=system)
    except ExportError:
        assert '"""' in system
        return
    assert dict(parse(text)).get("SYSTEM", "") == system


@pytest.mark.parametrize("system", ['say """ now', "zero\x00byte", "no\u00a0break", "bell\x07"])
def test_text_that_ollama_would_cut_or_drop(model, system):
    with pytest.raises(ExportError, match="the system prompt holds"):
        modelfile(model, stops=["<|im_end|>"], num_ctx=512, system=system)


@pytest.mark.parametrize("stop", ["Hello", "<|im_ned|>", "<|im_end|><|endoftext|>", ""])
def test_stop_that_is_no_single_special_token(model, stop):
    with pytest.raises(ExportError, match="no single special token") as caught:
        modelfile(model, stops=["<|endoftext|>", stop], num_ctx=512)
    assert "<|im_end|>" in caught.value.instead


def test_near_miss_is_named(model):
    with pytest.raises(ExportError, match=re.escape("Did you mean '<|im_end|>'")):
        modelfile(model, stops=["<|im_ned|>"], num_ctx=512)


@pytest.mark.parametrize("stops", [[], "<|im_end|>"])
def test_stops_must_be_a_list_of_at_least_one(model, stops):
    with pytest.raises(ExportError, match="at least one"):
        modelfile(model, stops=stops, num_ctx=512)


@pytest.mark.parametrize("num_ctx", [0, -1, 2049])
def test_context_the_model_was_not_made_for(model, num_ctx):
    with pytest.raises(ExportError, match="made for 1 to 2048 tokens"):
        modelfile(model, stops=["<|im_end|>"], num_ctx=num_ctx)


def test_model_without_any_chat_template(tmp_path):
    bare = make(tmp_path / "bare.gguf", template="")
    with pytest.raises(ExportError, match="has no chat template"):
        modelfile(bare, stops=["<|im_end|>"], num_ctx=512)
    assert "TEMPLATE" in modelfile(bare, stops=["<|im_end|>"], num_ctx=512, template="{{ .Prompt }}")


def test_written_beside_the_model(tmp_path):
    path = write_modelfile(make(tmp_path / "m.gguf"), stops=["<|im_end|>"], num_ctx=512)
    assert path == tmp_path / "Modelfile"
    assert path.read_text(encoding="utf-8").startswith('FROM "./m.gguf"\n')
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Modelfile", "m.gguf"]


def test_run_lines_survive_the_shell(model, tmp_path):
    lines = run_lines(model, merged=tmp_path / "a b")
    assert shlex.split(lines.llama_cpp) == ["llama-cli", "-m", str(model)]
    assert shlex.split(lines.ollama)[:5] == [
        "ollama",
        "create",
        "tuned-model",
        "-f",
        str(model.parent / "Modelfile"),
    ]
    assert shlex.split(lines.vllm) == ["vllm", "serve", str(tmp_path / "a b")]
    assert run_lines(model).vllm == ""
    assert run_lines(model, name="../Évil; rm").ollama.split()[2] == "vil-rm"
