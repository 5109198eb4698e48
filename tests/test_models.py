import hashlib
import http.server
import json
import socket
import threading
import time

import pytest

from ft_magic import models
from ft_magic.errors import ModelError


def folder_with(place, config, weights=b""):
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    (place / "model.safetensors").write_bytes(weights)
    return place


def refusal(reference):
    with pytest.raises(ModelError) as caught:
        models.resolve(str(reference))
    return caught.value


def test_a_local_folder_is_its_own_answer_and_absolute(tmp_path, monkeypatch):
    folder_with(tmp_path / "mine", {})
    monkeypatch.chdir(tmp_path)
    assert models.resolve("mine") == tmp_path / "mine"
    assert models.model_path("mine") == str(tmp_path / "mine")


def test_a_folder_wins_over_a_hub_id_of_the_same_shape(tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    folder_with(tmp_path / "org" / "name", {})
    monkeypatch.chdir(tmp_path)
    assert models.resolve("org/name") == tmp_path / "org" / "name"


def test_an_empty_folder_is_refused(tmp_path):
    assert "is empty" in refusal(tmp_path).problem


def test_a_folder_without_config_says_what_it_has(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert "no config.json (it has: notes.txt)" in refusal(tmp_path).problem


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "no weights" in refusal(tmp_path).problem


def test_an_adapter_folder_is_told_from_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    error = refusal(tmp_path)
    assert "holds an adapter" in error.problem
    assert "merge" in error.instead


def test_a_folder_of_gguf_files_names_the_file_to_write(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"")
    assert str(tmp_path / "m.gguf") in refusal(tmp_path).instead


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.txt").write_text("x")
    assert "is a file" in refusal(tmp_path / "model.txt").problem


def test_a_path_that_does_not_exist_names_the_ways_on(tmp_path):
    error = refusal(tmp_path / "nowhere" / "deep")
    assert "no file or folder" in error.problem
    assert "'demo'" in error.instead


def test_a_misspelt_demo_gets_a_suggestion():
    assert "Did you mean 'demo'?" in refusal("deom").problem


def test_a_hub_id_offline_is_one_clear_line(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    error = refusal("nobody/nothing")
    assert "HF_HUB_OFFLINE is set" in error.problem
    assert "\n" not in error.problem
    assert "'demo'" in error.instead
    assert "local model folder" in error.instead


@pytest.fixture
def online(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def silent_hub(online, tmp_path, monkeypatch):
    """A hub that accepts connections and never answers: what a firewall that drops packets looks like."""
    import huggingface_hub.constants

    from ft_magic.models import hub

    monkeypatch.setattr(hub, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        monkeypatch.setattr(
            huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}"
        )
        yield


def test_a_hub_that_never_answers_does_not_hang(silent_hub):
    began_s = time.monotonic()
    error = refusal("nobody/nothing")
    assert "cannot be reached" in error.problem
    assert time.monotonic() - began_s < 20  # the library alone waits for ever


COMMIT = "a" * 40
HUB_FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "model.safetensors": b"x" * 100_000,
    "pytorch_model.bin": b"a pickle",
    "onnx/model.safetensors": b"a copy",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The few answers of the hub's HTTP interface that a download needs; one repository, ``org/name``."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        headers, status = {}, 200
        if "/api/models/org/name/tree" in self.path:
            rows = [
                {"type": "file", "path": k, "size": len(v), "oid": "b" * 40} for k, v in HUB_FILES.items()
            ]
            body = json.dumps(rows).encode()
        elif "/api/models/org/name" in self.path:
            body = json.dumps({"id": "org/name", "sha": COMMIT, "siblings": [], "tags": []}).encode()
        elif "/org/name/resolve/" in self.path:
            body = HUB_FILES[self.path.split("?")[0].split("/", 5)[5]]
            headers = {"ETag": hashlib.sha1(body).hexdigest(), "X-Repo-Commit": COMMIT}
        else:
            body, status = b"{}", 404
            headers = {"X-Error-Code": "GatedRepo" if "gated" in self.path else "RepoNotFound"}
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  http.server's own naming


@pytest.fixture
def local_hub(online, tmp_path, monkeypatch):
    import huggingface_hub.constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    files = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    yield server
    server.shutdown()
    server.server_close()


def test_a_hub_id_becomes_a_folder_with_weights_config_and_tokenizer_only(local_hub):
    told = []
    folder = models.resolve("org/name", progress=lambda *what: told.append(what))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert {what for what, *_ in told} == {"downloading org/name (bytes)"}
    assert max(done for _, done, _ in told) == 100_000 + 8 + 2  # the three files


def test_a_downloaded_model_needs_no_network_afterwards(local_hub):
    folder = models.resolve("org/name")
    local_hub.shutdown()
    local_hub.server_close()
    assert models.resolve("org/name") == folder


def test_a_hub_id_that_does_not_exist_is_told_from_no_network(local_hub):
    assert "The hub has no model 'org/other'" in refusal("org/other").problem


def test_a_gated_model_says_where_to_ask(local_hub):
    error = refusal("org/gated")
    assert "is gated" in error.problem
    assert "https://huggingface.co/org/gated" in error.instead


def test_a_gguf_file_of_another_tokenizer_is_refused_with_a_way_on(tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "cache"))
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    error = refusal(tmp_path / "m.gguf")
    assert "kind 'llama/None'" in error.problem
    assert "original Hugging Face folder" in error.instead
    assert [p.name for p in (tmp_path / "cache" / "models").iterdir() if p.is_dir()] == []


def test_a_broken_gguf_file_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert "not a whole GGUF file" in refusal(tmp_path / "m.gguf").problem


# What SmolLM2-135M-Instruct's config says, by transformers 4's and 5's names.
SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}


def test_facts_of_the_demo_model_from_its_config(tmp_path):
    facts = models.facts(folder_with(tmp_path / "m", {**SMOLLM2, "torch_dtype": "bfloat16"}))
    assert facts.parameters == 134_515_008  # counted over the tensors of its GGUF file
    assert (facts.head_dim, facts.kv_heads, facts.max_length_tokens) == (64, 3, 8192)
    assert (facts.dtype, facts.quantized, facts.tied_embeddings) == ("bfloat16", False, True)


def test_facts_see_quantized_weights(tmp_path):
    config = {**SMOLLM2, "quantization_config": {"quant_method": "gptq"}}
    assert models.facts(folder_with(tmp_path / "m", config)).quantized


def test_facts_read_the_language_part_of_a_model_that_sees(tmp_path):
    config = {"model_type": "some_vision_model", "text_config": SMOLLM2}
    assert models.facts(folder_with(tmp_path / "m", config)).layers == 30


def test_facts_of_an_unknown_architecture_are_counted_in_the_weights(tmp_path):
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]},
            "b": {"dtype": "F32", "shape": [], "data_offsets": [60, 64]},
        }
    ).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(64)
    folder = folder_with(tmp_path / "m", {**SMOLLM2, "model_type": "new"}, weights)
    assert models.facts(folder).parameters == 3 * 5 + 1


def test_facts_refuse_a_config_that_is_no_decoder(tmp_path):
    with pytest.raises(ModelError, match=r"num_attention_heads.*model_type is 't5'"):
        models.facts(folder_with(tmp_path / "m", {"model_type": "t5"}))


def test_facts_refuse_a_broken_config(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        models.facts(tmp_path)
