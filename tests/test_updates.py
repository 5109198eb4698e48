"""Every update on a tiny Llama: what trains, what stays, what is saved, what comes back."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from situations import situation

from ft_magic.axes import UPDATES
from ft_magic.errors import ExportError, ModelError, SpecError
from ft_magic.planning.decide import make
from ft_magic.spec import parse

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from ft_magic.backends import adapters, base_model, bottleneck, decoder  # noqa: E402  heavy: after importorskip

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # PEFT warns of positions it leaves to the model

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
ADAPTERS = [name for name, row in UPDATES.items() if row.family == "adapter"]
VIRTUAL = [name for name, row in UPDATES.items() if row.virtual_tokens]
RANK = 4
# The tiny Llama: width 64, feed-forward 128, keys and values 32 wide, 2 layers, 320 tokens.
OUTPUTS = 64 + 32 + 32 + 64 + 128 + 128 + 64  # q, k, v, o, gate, up, down
INPUTS = 64 + 64 + 64 + 64 + 64 + 64 + 128
LAYER = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128 + 2 * 64
LORA = 2 * RANK * (INPUTS + OUTPUTS)
TRAINABLE = {
    "full": 320 * 64 + 2 * LAYER + 64,
    "lora": LORA,
    "qlora": LORA,
    "dora": LORA + 2 * OUTPUTS,  # a magnitude for each output
    "rslora": LORA,
    "pissa": LORA,
    "loraplus": LORA,
    "vera": 2 * (7 * 256 + OUTPUTS),  # one vector as long as the rank, one as long as the output
    "ia3": 2 * (32 + 32 + 128),
    "adapter": 2 * 2 * (64 * 64 + 64 + 64 * 64 + 64),  # down and up with biases, two places a layer
    "prompt": 20 * 64,
    "prefix": 20 * 2 * 2 * 32,  # keys and values in each layer
    "ptuning": 20 * 64 + 3 * (64 * 64 + 64),  # and the three layers that write them
    "freeze": LAYER + 64,  # a quarter of two layers, rounded up, and the last norm
}


def plan_for(tiny: Path, update: str, method: str = "sft", **options: Any) -> Any:
    given = {"lora_r": RANK} if "lora_r" in UPDATES[update].options else {}
    spec = parse({"model": "x", "data": "x", "update": update, "method": method, **given, **options})
    return replace(make(spec, situation(rows=8, tokens=20)), model_folder=str(tiny))


def fresh(plan: Any) -> Any:
    """The base model, in training mode: 4-bit layers compute evaluation in another number format."""
    return base_model.load_model(plan).train()


def logits(model: Any, ids: Any = IDS, mask: Any = None) -> Any:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask).logits


def adapted(plan: Any) -> Any:
    torch.manual_seed(0)
    model, config = adapters.prepare(fresh(plan), plan)
    if config is not None:
        model = peft.get_peft_model(model, config).train()
        adapters.line_up(model)
    return model


@dataclass
class Trained:
    plan: Any
    model: Any
    start: Any  # logits before the first step
    before: dict[str, Any]  # trainable weights before the first step
    losses: list[float]


@pytest.fixture(scope="module", params=list(UPDATES))
def trained(request, tiny):
    if UPDATES[request.param].bits:
        pytest.importorskip("bitsandbytes")
    plan = plan_for(tiny, request.param)
    model = adapted(plan)
    start = logits(model)
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    before = {name: value.detach().clone() for name, value in weights.items()}
    rate = plan.settings.learning_rate
    kind = torch.optim.AdamW
    optimizer = adapters.optimizer(model, plan, kind, {"lr": rate}) or kind(weights.values(), lr=rate)
    losses = []
    for _ in range(6):
        loss = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Trained(plan, model, start, before, losses)


@pytest.fixture(scope="module")
def reloaded(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("result")
    adapters.save(trained.model, trained.plan, folder)
    if trained.plan.update.peft:
        return adapters.load(fresh(trained.plan), folder).train()
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def name_of(trained: Trained) -> str:
    return str(trained.plan.update.name)


def test_the_number_of_trainable_weights_is_the_formulas(trained):
    assert sum(value.numel() for value in trained.before.values()) == TRAINABLE[name_of(trained)]


def test_the_plan_counts_the_weights_that_train(trained):
    from ft_magic.memory import Size, trained_parameters
    from ft_magic.models import facts

    spec, folder = trained.plan.spec, Path(trained.plan.model_folder)
    size = Size(
        lora_r=spec.lora_r, vera_r=spec.vera_r, adapter_size=spec.adapter_size,
        num_virtual_tokens=spec.num_virtual_tokens, trainable_layers=spec.trainable_layers,
    )  # fmt: skip
    found = trained_parameters(facts(folder), trained.plan.update, size)
    assert found == TRAINABLE[name_of(trained)]


def test_the_default_rate_lowers_the_loss(trained):
    assert trained.losses[-1] < trained.losses[0] - 0.002


def test_only_what_should_change_changes(trained):
    changed = dict(trained.model.named_parameters())
    assert all(not torch.equal(changed[name], value) for name, value in trained.before.items())
    own = {
        name.replace(".base_layer", ""): value for name, value in base_of(trained.model).named_parameters()
    }
    compared = 0
    for name, value in fresh(trained.plan).named_parameters():
        if name not in trained.before:
            assert torch.equal(own[name], value), name
            compared += 1
    if trained.plan.update.family == "adapter":
        assert compared == 20  # every tensor of the base
    if name_of(trained) == "freeze":
        assert {name.rpartition(".layers.")[2][:2] for name in trained.before} == {"1.", "mo"}


def base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def test_training_starts_from_the_bases_answers_except_behind_virtual_tokens(trained):
    apart = float((trained.start - logits(fresh(trained.plan))).abs().max())
    if trained.plan.update.virtual_tokens:
        assert apart > 0.1
    else:
        # PiSSA adds and subtracts its starting product; every other update adds zeros or nothing.
        assert apart <= (1e-5 if name_of(trained) == "pissa" else 0)


def test_the_reference_is_the_base_at_all_times(trained):
    if trained.plan.update.family == "full":
        assert not hasattr(trained.model, "disable_adapter")
        return
    with trained.model.disable_adapter():
        off = logits(trained.model)
    assert torch.equal(off, logits(fresh(trained.plan)))
    assert float((logits(trained.model) - off).abs().max()) > 1e-3


def test_what_is_saved_gives_the_same_logits_on_a_fresh_base(trained, reloaded):
    torch.testing.assert_close(logits(reloaded), logits(trained.model), atol=1e-4, rtol=0)
    assert logits(reloaded).shape == (1, 6, 320)


def test_it_answers_and_padding_changes_nothing(trained, reloaded):
    """A row padded on the left answers as it does alone, virtual tokens in front of the padding or not."""
    model = reloaded.eval()
    padded = torch.tensor([[2, 2, 2, 5, 6, 7], [5, 6, 7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6])
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 2, "eos_token_id": 300}
    alone = model.generate(input_ids=IDS[:, :3], attention_mask=torch.ones(1, 3), **settings)
    together = model.generate(input_ids=padded, attention_mask=mask, **settings)
    assert alone[0, 3:].tolist() == together[0, 6:].tolist()
    if trained.plan.update.virtual_tokens:
        torch.testing.assert_close(
            logits(model, padded, mask)[0, 3:], logits(model, IDS[:, :3])[0], atol=1e-4, rtol=0
        )
    model.train()


def test_pissa_is_saved_as_a_plain_lora_adapter(tiny, tmp_path):
    plan = plan_for(tiny, "pissa")
    model = adapted(plan)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.add_(0.05 * torch.randn_like(value))
    adapters.save(model, plan, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2 * RANK, 4 * RANK)
    plain = peft.PeftModel.from_pretrained(fresh(plan), tmp_path)
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-4, rtol=0)
    merged = logits(model.merge_and_unload())
    torch.testing.assert_close(logits(plain), merged, atol=1e-4, rtol=0)


def test_pissa_starts_from_the_strongest_directions_of_each_weight(tiny):
    model = adapted(plan_for(tiny, "pissa"))
    layer = model.base_model.model.model.layers[1].mlp.up_proj
    weight = layer.base_layer.weight
    rest = weight - 2 * layer.lora_B.default.weight @ layer.lora_A.default.weight  # lora_alpha 8 over r 4
    # No product of this rank leaves less than the other singular values; noise has no clear strongest directions.
    least = torch.linalg.svdvals(weight)[RANK:].norm()
    assert float(least) * 0.9999 <= float(rest.norm()) <= float(least) * 1.02 < 0.95 * float(weight.norm())


def test_a_bottleneck_adds_what_its_formula_says(tiny):
    model = adapted(plan_for(tiny, "adapter", adapter_size=8))
    layer = model.base_model.model.model.layers[0].mlp.down_proj
    down, up = layer.lora_down.default, layer.lora_up.default
    with torch.no_grad():
        up.weight.normal_(0, 0.1)
        x = torch.randn(3, 128)
        plain = x @ layer.base_layer.weight.T
        inner = plain @ down.weight.T + down.bias
        gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        torch.testing.assert_close(layer(x), plain + gelu @ up.weight.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("placement", "places"), [("houlsby", 4), ("pfeiffer", 2)])
def test_bottlenecks_stand_where_the_papers_put_them(tiny, placement, places):
    model = adapted(plan_for(tiny, "adapter", adapter_placement=placement))
    found = [name for name, module in model.named_modules() if isinstance(module, bottleneck.Bottleneck)]
    assert len(found) == places
    assert {name.rpartition(".")[2] for name in found} == (
        {"o_proj", "down_proj"} if places == 4 else {"down_proj"}
    )


def test_a_fresh_process_loads_a_bottleneck_adapter(tiny, tmp_path):
    plan = plan_for(tiny, "adapter")
    model = adapted(plan)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_up" in name:
                value.normal_(0, 0.1)
    adapters.save(model, plan, tmp_path)
    code = (
        "import sys, torch; from ft_magic.evaluate import generate; loaded = generate.load(sys.argv[1], sys.argv[2]);"
        f"out = loaded.model(input_ids=torch.tensor({IDS.tolist()})).logits; print(out.abs().sum().item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[-1]) == pytest.approx(logits(model).abs().sum().item(), rel=1e-5)
    # Anything that does not know these layers must fail rather than read them as LoRA matrices.
    with pytest.raises(KeyError, match="BOTTLENECK"):
        peft.PeftModel.from_pretrained(fresh(plan), tmp_path)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2", "gpt_neox", "bloom"])
def test_projections_are_found_as_pefts_own_table_has_them(kind):
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as INNER
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as ALL

    model = small(kind)
    outputs = decoder.outputs(model, attention=False, feedforward=True)
    assert named(model, [*decoder.keys_and_values(model), *outputs]) == named(model, ALL[kind])
    assert named(model, outputs) == named(model, INNER[kind])


@pytest.mark.parametrize(
    ("kind", "expected"),
    # Where PEFT's table has queries instead of keys, the paper counts.
    [("qwen2", "k_proj v_proj down_proj"), ("phi", "k_proj v_proj fc2"), ("opt", "k_proj v_proj fc2")],
)
def test_keys_values_and_the_way_out_are_what_the_paper_scales(kind, expected):
    model = small(kind)
    found = [*decoder.keys_and_values(model), *decoder.outputs(model, attention=False, feedforward=True)]
    assert named(model, found) == named(model, expected.split())


def small(kind: str) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
    wide = {"opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "bloom": {}}.get(
        kind, {"intermediate_size": 64}
    )
    if kind == "gpt2":
        sizes, wide = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}, {}
    if kind == "bloom":
        sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}
    config = transformers.AutoConfig.for_model(kind, **sizes, **wide)
    return transformers.AutoModelForCausalLM.from_config(config)


def named(model: Any, endings: list[str]) -> set[str]:
    return {
        name for name, _ in model.named_modules() if any(f".{name}".endswith(f".{end}") for end in endings)
    }


def test_a_model_without_such_projections_is_refused_with_the_way_on(tiny):
    model = small("llama")
    for layer in model.model.layers:
        del layer.mlp.down_proj
    with pytest.raises(ModelError, match="feed-forward part") as caught:
        adapters.adapter_config(model, plan_for(tiny, "ia3"))
    assert "update: lora" in caught.value.instead


def test_more_layers_than_there_are_cannot_train(tiny):
    plan = plan_for(tiny, "freeze", trainable_layers=3)
    with pytest.raises(SpecError, match="3 is more than the 2 layers"):
        adapters.prepare(fresh(plan), plan)


def test_a_prefix_cannot_be_recomputed(tiny):
    plan = plan_for(tiny, "prefix")
    plan = replace(plan, settings=replace(plan.settings, gradient_checkpointing=True))
    with pytest.raises(SpecError, match="cannot recompute"):
        adapters.prepare(fresh(plan), plan)


def test_a_prefix_starts_as_the_keys_and_values_of_words(tiny, tmp_path):
    """With a prefix made of words, text reads as it does behind those words in the plain model."""
    plan = plan_for(tiny, "prefix", "dpo", num_virtual_tokens=3)
    model = trainer_of(plan, tmp_path, 1).model.eval()
    words = model.prompt_encoder["default"].embedding.weight.detach()
    base = fresh(plan).eval()
    keys = torch.stack(
        [base(torch.tensor([[1]]), use_cache=True).past_key_values.layers[n].keys for n in (0, 1)]
    )
    # Keys of each layer stand before its values, heads side by side; the first word is the one that texts begin with.
    found = words[0].reshape(2, 2, 2, 16)[:, 0]
    torch.testing.assert_close(found, keys[:, 0, :, 0], atol=1e-5, rtol=0)


def test_modules_to_save_train_whole(tiny):
    model = adapted(plan_for(tiny, "lora", modules_to_save=("embed_tokens",)))
    whole = [name for name, value in model.named_parameters() if value.requires_grad and "lora_" not in name]
    assert whole == ["base_model.model.model.embed_tokens.modules_to_save.default.weight"]


@pytest.mark.parametrize("update", [name for name in UPDATES if not UPDATES[name].bits])
def test_a_score_head_trains_and_reads_the_last_token(tiny, tmp_path, update):
    plan = plan_for(tiny, update, "reward")
    model = adapted(plan)
    heads = {name for name, value in model.named_parameters() if value.requires_grad and "score" in name}
    assert len(heads) == 1
    assert "lora" not in heads.pop()
    padded, mask = (
        torch.tensor([[5, 6, 7, 2, 2, 2], IDS[0].tolist()]),
        torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6]),
    )
    torch.testing.assert_close(
        logits(model, padded, mask)[0], logits(model, IDS[:, :3])[0], atol=1e-5, rtol=0
    )
    if plan.update.peft:
        adapters.save(model, plan, tmp_path)
        other = adapters.load(fresh(plan), tmp_path)  # its fresh head is replaced by the saved one
        torch.testing.assert_close(
            logits(other, padded, mask), logits(model, padded, mask), atol=1e-5, rtol=0
        )


def trainer_of(plan: Any, folder: Path, steps: int) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Prepared(DPOTrainer):
        def _prepare_dataset(self, dataset, *_, **__):
            return dataset

    rows = [
        {"prompt_ids": [5, 6, 7 + i], "chosen_ids": [8, 9, 10, 2], "rejected_ids": [11, 12 + i, 2]}
        for i in range(4)
    ]
    torch.manual_seed(0)
    model, config = adapters.prepare(fresh(plan), plan)
    arguments = DPOConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2, learning_rate=1e-3, use_cpu=True,
        bf16=False, logging_steps=1, report_to=[], save_steps=2, disable_tqdm=True, gradient_checkpointing=False,
        precompute_ref_log_probs=plan.update.family == "full", lr_scheduler_type="constant",
    )  # fmt: skip
    return adapters.trained_by(Prepared, plan)(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), peft_config=config,
        processing_class=transformers.AutoTokenizer.from_pretrained(plan.model_folder),
    )  # fmt: skip


@pytest.mark.parametrize("update", ["pissa", "loraplus", "vera", "ia3", "adapter", "ptuning", "freeze"])
def test_preference_training_holds_to_the_original_model_and_resumes_exactly(tiny, tmp_path, update):
    plan = plan_for(tiny, update, "dpo")
    whole = trainer_of(plan, tmp_path, 4)
    whole.train()
    first = next(entry["loss"] for entry in whole.state.log_history if "loss" in entry)
    if not plan.update.virtual_tokens:
        assert first == pytest.approx(math.log(2), abs=1e-5)
    half = trainer_of(plan, tmp_path / "other", 4)
    half.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in half.model.state_dict().items())
    adapters.save(whole.model, plan, tmp_path / "own")
    (tmp_path / "best").mkdir()
    adapters.save(half.model, plan, tmp_path / "best", best=tmp_path / "checkpoint-4")
    kept = [load_result(plan, tmp_path / name) for name in ("own", "best")]
    torch.testing.assert_close(logits(kept[0]), logits(kept[1]), atol=1e-5, rtol=0)


def load_result(plan: Any, folder: Path) -> Any:
    if plan.update.peft:
        return adapters.load(fresh(plan), folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_the_second_matrix_learns_faster_by_the_ratio(tiny, tmp_path):
    trainer = trainer_of(plan_for(tiny, "loraplus", "dpo", loraplus_lr_ratio=8), tmp_path, 1)
    trainer.create_optimizer()
    names = {id(value): name for name, value in trainer.model.named_parameters()}
    rates = {
        (group["lr"], "lora_B" in names[id(value)])
        for group in trainer.optimizer.param_groups
        for value in group["params"]
    }
    assert rates == {(1e-3, False), (8e-3, True)}
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == 2 * 14


@pytest.fixture
def run_folder(tmp_path):
    """A run folder with rows, and what IA3's configuration says once it is trained."""
    (tmp_path / "adapter").mkdir()
    found = {
        "target_modules": ["k_proj", "v_proj", "mlp.down_proj"],
        "feedforward_modules": ["mlp.down_proj"],
    }
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(found))
    (tmp_path / "data").mkdir()
    rows = [{"prompt": f"Name {i}.", "completion": "Blue."} for i in range(4)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.parametrize("update", [name for name in UPDATES if name not in ("qlora", "adapter")])
def test_the_script_of_an_update_runs_without_ft_magic(tiny, run_folder, monkeypatch, update):
    from ft_magic.export.script import script

    text = script(plan_for(tiny, update, max_steps=2, batch_size=2), run_folder)
    assert "ft_magic" not in text
    (run_folder / "script.py").write_text(text)
    monkeypatch.chdir(run_folder)
    trainer = runpy.run_path("script.py")["trainer"]
    assert trainer.state.global_step == 2
    assert sum(p.numel() for p in trainer.model.parameters() if p.requires_grad) == TRAINABLE[update]
    if UPDATES[update].peft:
        base = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
        result = peft.PeftModel.from_pretrained(base, "result").eval()
        # The trainer rounds to bfloat16 around its model; the model itself does not.
        trained = trainer.model.eval()
        ids = {
            "input_ids": IDS,
            "attention_mask": torch.ones_like(IDS),
            "max_new_tokens": 3,
            "do_sample": False,
        }
        assert result.generate(**ids).tolist() == trained.generate(**ids).tolist()


@pytest.mark.parametrize(("update", "method"), [("adapter", "sft"), ("prompt", "dpo"), ("lora", "ppo")])
def test_what_trl_cannot_say_has_no_script(tiny, run_folder, update, method):
    from ft_magic.export.script import script

    plan = replace(
        plan_for(tiny, update), spec=plan_for(tiny, update).spec.model_copy(update={"method": method})
    )
    with pytest.raises(ExportError) as caught:
        script(plan, run_folder)
    assert "spec.yaml" in caught.value.instead


def test_modules_found_in_training_are_not_guessed_in_a_script(tiny, tmp_path):
    from ft_magic.export.script import script

    with pytest.raises(ExportError, match="has not trained yet"):
        script(plan_for(tiny, "ia3"), tmp_path)
