"""Merging: the weights are base + scaled B A, the folder is complete, and nothing wrong gets a final name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_llama import make_adapter, make_model

from ft_magic import jobs
from ft_magic.errors import ExportError
from ft_magic.export import export as exporting
from ft_magic.export import merge as merging
from ft_magic.export import trained
from ft_magic.export.certificate import certify
from ft_magic.export.merge import merge

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapter"))


def weights(folder: Path):
    from safetensors.torch import load_file

    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_each_merged_weight_is_base_plus_scaled_b_a_rounded_once(base, adapter, tmp_path):
    merge(base, adapter, tmp_path / "merged")
    before, delta, after = weights(base), weights(adapter), weights(tmp_path / "merged")
    assert after.keys() == before.keys()
    for name, weight in before.items():
        prefix = "base_model.model." + name.removesuffix(".weight")
        expected = weight.float()
        if prefix + ".lora_A.weight" in delta:
            # lora_alpha 8 over r 4
            expected = expected + 2 * (delta[prefix + ".lora_B.weight"] @ delta[prefix + ".lora_A.weight"])
        # At most one bfloat16 step apart: the sum may round the other way at a tie.
        torch.testing.assert_close(after[name].float(), expected, rtol=2**-8, atol=1e-6, msg=name)
        if not name.startswith("model.layers") or "norm" in name:
            assert torch.equal(after[name], weight), name


def test_the_result_says_what_was_compared_and_found(base, adapter, tmp_path):
    ids = [[5, 6, 7, 8], [9, 10]]
    found = merge(base, adapter, tmp_path / "merged", probe_ids=ids)
    assert found.tokens == 6
    assert found.compared_in == "float32"
    assert 0 < found.mean_kl < found.kl_limit == 0.002
    assert found.bytes == (tmp_path / "merged/model.safetensors").stat().st_size
    with torch.no_grad():
        expected = trained.logits(trained.load_trained(base, adapter), ids[0])
        other = trained.logits(trained.load_trained(tmp_path / "merged", None), ids[0])
    assert float((expected - other).abs().max()) <= found.max_abs_logit_difference


def test_tokenizer_files_are_the_bases_own_to_the_byte(base, adapter, tmp_path):
    merge(base, adapter, tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes(), name


def test_the_configuration_is_the_bases_own_without_quantization(base, adapter, tmp_path):
    source = shutil.copytree(base, tmp_path / "base")
    edit_json(
        source / "config.json", quantization_config={}, unknown_to_transformers=7, _name_or_path="/secret"
    )
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    (source / "config.json").write_text(json.dumps(config))
    merge(source, adapter, tmp_path / "merged", dtype="float32")
    written = json.loads((tmp_path / "merged/config.json").read_text())
    assert "quantization_config" not in written
    assert "_name_or_path" not in written
    assert written["unknown_to_transformers"] == 7
    assert written["dtype"] == "float32"
    assert written["tie_word_embeddings"] is True


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT warns at every step; that is why this is tested
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_one_of_two_tied_layers_changes_that_one_only(base, tmp_path, target):
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=[target])
    found = merge(base, adapter, tmp_path / "merged")
    after, embedding = weights(tmp_path / "merged"), weights(base)["model.embed_tokens.weight"]
    assert json.loads((tmp_path / "merged/config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(after["model.embed_tokens.weight"], embedding) == (target == "lm_head")
    assert torch.equal(after["lm_head.weight"], embedding) == (target == "embed_tokens")
    assert found.mean_kl < 0.002


def test_what_16_bits_would_round_away_is_written_in_32(base, adapter, tmp_path, monkeypatch):
    monkeypatch.setitem(merging.KL_LIMITS, "float32", 1e-7)  # rounding to bfloat16 costs about 1e-4 here
    told = []
    made = merging.merge(base, adapter, tmp_path / "out", progress=lambda what, *_: told.append(what))
    assert made.dtype == "float32"
    assert made.mean_kl < 1e-7
    assert "bfloat16 would round away part of what was learned: writing float32" in told
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_a_qlora_merge_is_the_model_as_trained(base, adapter, tmp_path):
    pytest.importorskip("bitsandbytes")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from ft_magic.backends.quantized import nf4_config

    ids = list(range(3, 60))
    four_bit = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=nf4_config("fp32"), dtype=torch.float32
    )
    # In training mode: evaluation of 4-bit weights on a CPU computes in bfloat16 where the processor can.
    expected = trained.logits(PeftModel.from_pretrained(four_bit, adapter).train(), ids)
    found = merge(base, adapter, tmp_path / "merged", base_bits=4)
    as_trained = trained.logits(trained.load_trained(tmp_path / "merged", None), ids)
    merge(base, adapter, tmp_path / "original", base_bits=4, into="original")
    original = trained.logits(trained.load_trained(tmp_path / "original", None), ids)
    kl = float(trained.kl_by_position(expected, as_trained).mean())
    assert found.mean_kl < 0.002
    assert kl < 0.002
    # NF4 moves the weights by about 8 %, bfloat16 by 0.2 %: the square of that in KL.
    assert float(trained.kl_by_position(expected, original).mean()) > 50 * kl


def test_a_full_fine_tune_takes_its_tokenizer_from_the_folder_named(base, tmp_path):
    tuned = make_model(tmp_path / "tuned", seed=7, dtype="float32")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tuned / name).unlink()
    merge(tuned, None, tmp_path / "merged", tokenizer_from=base)
    assert (tmp_path / "merged/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    before, after = weights(tuned), weights(tmp_path / "merged")
    assert all(torch.equal(after[name], before[name].to(torch.bfloat16)) for name in before)


def test_weights_that_are_not_finite_are_named_and_nothing_is_written(base, adapter, tmp_path):
    from safetensors.torch import save_file

    broken = shutil.copytree(adapter, tmp_path / "adapter")
    values = weights(adapter)
    name = next(name for name in values if "layers.1.mlp.down_proj.lora_B" in name)
    values[name][0, 0] = float("nan")
    save_file(values, broken / "adapter_model.safetensors")
    with pytest.raises(ExportError, match=r"KL nan"):
        merge(base, broken, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_weight_too_large_for_float16_is_refused(base, tmp_path):
    from safetensors.torch import save_file

    large = shutil.copytree(base, tmp_path / "base")
    values = weights(base)
    values["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(values, large / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"up_proj.weight holds values that are not finite in float16"):
        merge(large, None, tmp_path / "merged", dtype="float16")
    assert merge(large, None, tmp_path / "merged").mean_kl < 0.002


def test_what_is_read_back_from_disk_must_answer_alike(base, adapter, tmp_path, monkeypatch):
    written = merging._write_config

    def spoiled(model, source, folder):
        written(model, source, folder)
        edit_json(folder / "config.json", rms_norm_eps=1.0)

    monkeypatch.setattr(merging, "_write_config", spoiled)
    with pytest.raises(ExportError, match="Merged is not base"):
        merge(base, adapter, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_an_older_result_survives_a_failed_merge(base, adapter, tmp_path, monkeypatch):
    merge(base, adapter, tmp_path / "merged")
    before = (tmp_path / "merged/model.safetensors").read_bytes()
    monkeypatch.setattr(merging, "KL_LIMITS", {"float32": 0.0})
    with pytest.raises(ExportError):
        merge(base, None, tmp_path / "merged", dtype="float16")
    assert (tmp_path / "merged/model.safetensors").read_bytes() == before


def test_tokens_without_a_row_are_refused(base, tmp_path):
    larger = shutil.copytree(base, tmp_path / "base")
    tokenizer = json.loads((larger / "tokenizer.json").read_text())
    entry = tokenizer["added_tokens"][0] | {"id": 320, "content": "<|new|>"}
    tokenizer["added_tokens"].append(entry)
    (larger / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ExportError, match="321 tokens, the model 320 rows"):
        merge(larger, None, tmp_path / "merged")


def test_a_tokenizer_class_that_splits_otherwise_is_refused(base, tmp_path):
    other = shutil.copytree(base, tmp_path / "base")
    edit_json(other / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    with pytest.raises(ExportError, match="differently"):
        merge(other, None, tmp_path / "merged")


def test_an_adapter_for_another_base_is_refused(adapter, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    other = tmp_path / "other"
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(other)
    with pytest.raises(ExportError, match="does not fit this base model"):
        merge(other, adapter, tmp_path / "merged", tokenizer_from=adapter, probe_ids=[[1, 2]])


@pytest.mark.parametrize(
    ("update", "moved"), [("pissa", 0.1), ("loraplus", 0.1), ("vera", 0.8), ("ia3", 0.1), ("freeze", 0.1)]
)
def test_updates_that_merge_give_the_model_as_trained(base, tmp_path, update, moved):
    plan, result = trained_result(base, tmp_path, update, moved)
    adapter = result if plan.update.peft else None
    found = merge(base if adapter else result, adapter, tmp_path / "merged", tokenizer_from=base)
    assert found.mean_kl < 0.002
    ids = list(range(3, 40))
    before = trained.logits(trained.load_trained(base, None), ids)
    after = trained.logits(trained.load_trained(tmp_path / "merged", None), ids)
    assert float(trained.kl_by_position(before, after).mean()) > 5 * 0.002  # there was something to merge


def trained_result(base, folder, update, moved=0.1):
    """A plan, and its update with every weight moved at random by about ``moved``, saved as a run saves it."""
    from dataclasses import replace

    from peft import get_peft_model
    from situations import situation

    from ft_magic.backends import adapters, base_model
    from ft_magic.planning.decide import make
    from ft_magic.spec import parse

    torch.manual_seed(1)
    plan = make(parse({"model": "x", "data": "x", "update": update}), situation(rows=8, tokens=20))
    plan = replace(plan, model_folder=str(base))
    model, config = adapters.prepare(base_model.load_model(plan), plan)
    model = get_peft_model(model, config) if config else model
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(moved * torch.randn_like(value))
    (folder / "result").mkdir()
    adapters.save(model, plan, folder / "result")
    return plan, folder / "result"


@pytest.mark.parametrize(
    ("update", "reason"),
    [("prompt", "in front of the text"), ("prefix", "in front of the text"), ("ptuning", "in front of the text"),
     ("adapter", "adds layers")],
)  # fmt: skip
def test_updates_that_cannot_merge_say_so_before_any_work(base, tmp_path, monkeypatch, update, reason):
    plan, adapter = trained_result(base, tmp_path, update)
    monkeypatch.setattr(trained, "load_trained", None)
    monkeypatch.setattr(jobs, "call", None)
    with pytest.raises(ExportError, match=f"cannot be merged, so there is no GGUF.*{reason}") as caught:
        merge(base, adapter, tmp_path / "merged")
    assert "run.generate" in caught.value.instead
    with pytest.raises(ExportError, match="cannot be merged"):
        certify(base, adapter, base, [], [[1]], out=tmp_path / "certificate.json")
    run = SimpleNamespace(plan=plan, folder=SimpleNamespace(gguf=tmp_path, merged=tmp_path / "merged"))
    for ask in ({"gguf": "q8_0", "ollama": False}, {"gguf": (), "ollama": True}):
        with pytest.raises(ExportError, match=f"update: {update} cannot be merged"):
            exporting.export(run, folder=None, **ask)
    with pytest.raises(ExportError, match=f"update: {update} cannot be merged"):
        exporting.merge(run)


def test_a_reward_model_has_nothing_to_merge(base):
    from situations import situation

    from ft_magic.planning.decide import make
    from ft_magic.spec import parse

    plan = make(parse({"model": "x", "data": "x", "method": "reward"}), situation(rows=8, tokens=20))
    with pytest.raises(ExportError, match="gives scores") as caught:
        exporting.merge(SimpleNamespace(plan=plan))
    assert "rewards: $run" in caught.value.instead


def test_a_full_disk_is_noticed_before_anything_is_loaded(base, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50_000_000))
    monkeypatch.setattr(trained, "load_trained", None)
    with pytest.raises(ExportError, match=r"needs 0.05 GB, .* has 0.05 GB left"):
        merge(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base": Path("/nowhere")}, "no config.json"),
        ({"adapter": Path("/nowhere")}, "no adapter_config.json"),
        ({"dtype": "int8"}, "dtype 'int8' is not known"),
        ({"into": "both"}, "into='both' is not known"),
        ({"base_bits": 8}, "base_bits=8 is not known"),
    ],
)
def test_wrong_requests_say_what_to_write(base, adapter, tmp_path, given, message):
    request = {"base": base, "adapter": adapter, "out": tmp_path / "merged"} | given
    with pytest.raises(ExportError, match=message) as caught:
        merge(**request)
    assert caught.value.instead


def test_the_source_folder_is_never_overwritten(base, adapter):
    with pytest.raises(ExportError, match="the folder that is read"):
        merge(base, adapter, base)


def test_bfloat16_is_the_working_format_where_float32_does_not_fit(base, monkeypatch):
    weights_count = trained.count_weights(base)
    assert weights_count == sum(value.numel() for value in weights(base).values())
    for free_bytes, expected in ((weights_count * 4 * 1.7, "float32"), (weights_count * 4 * 1.5, "bfloat16")):
        monkeypatch.setattr(
            trained.hardware, "read", lambda free=free_bytes: SimpleNamespace(memory_free_bytes=free)
        )
        assert trained.working_dtype(base) == expected
    monkeypatch.setattr(trained.hardware, "read", lambda: SimpleNamespace(memory_free_bytes=weights_count))
    with pytest.raises(ExportError, match="GB of memory in bfloat16"):
        trained.working_dtype(base)
