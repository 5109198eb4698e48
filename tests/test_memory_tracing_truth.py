"""The traced step against the tensors of real training steps on the CPU, by part.

The real step runs TRL's trainers and this package's PPO loop on real tensors; PyTorch's profiler says what its allocator
gave out. Weights, gradients and states are counted from the tensors themselves.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

import peft
import torch
import transformers
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

import ft_magic
from ft_magic.backends.ppo_answers import Answers, Vocabulary
from ft_magic.backends.ppo_config import PPOConfig
from ft_magic.backends.ppo_learning import Learner, experience_of, learn
from ft_magic.backends.ppo_roles import POLICY, VALUE, Roles, Seat, add_value_adapter, new_head
from ft_magic.memory.cards import CPU
from ft_magic.memory.optimizers import OPTIMIZERS
from ft_magic.memory.setting import Adapter, Loss, Setting
from ft_magic.memory.tracing import trace

DEMO = Path(ft_magic.model_path("demo"))
WORDS = 49152  # of the bundled tokenizer, which the trainers ask for
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": WORDS,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
LORA = Adapter(rank=8)
STEP = Setting(
    micro_batch=2,
    length=64,
    adapter=None,
    weight_width=4,
    optimizer=OPTIMIZERS["adamw_torch"],
    loss=Loss("full"),
)


def real_model(setting, values, automatic=transformers.AutoModelForCausalLM):
    config = transformers.AutoConfig.for_model(**values)
    if automatic is transformers.AutoModelForSequenceClassification:
        config.num_labels = 1
    model = automatic.from_config(
        config,
        attn_implementation="eager" if setting.attention == "eager" else "sdpa",
        dtype=torch.float32 if setting.weight_width == 4 else torch.bfloat16,
    )
    model.config.use_cache = False
    if setting.adapter:
        task = "SEQ_CLS" if setting.method == "reward" else "CAUSAL_LM"
        lora = peft.LoraConfig(task_type=task, r=8, lora_alpha=8, target_modules="all-linear")
        model = peft.get_peft_model(model, lora)
    if setting.checkpointing == "layers":
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": setting.reentrant}
        )
        if setting.adapter:
            model.enable_input_require_grads()
    return model.train()


def allocations(work):
    """Run ``work``; return its result, the most bytes above the start, and the bytes left."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        result = work()
    rows = [row for row in profile.profiler.kineto_results.events() if row.name() == "[memory]"]
    now = most = 0
    for row in sorted(rows, key=lambda row: row.start_ns()):
        now += row.nbytes()
        most = max(most, now)
    return result, most, now


def size(tensors):
    return sum({row.data_ptr(): row.untyped_storage().nbytes() for row in tensors}.values())


def measured(models, loss_of, inputs):
    """Bytes of a second step by phase and by part."""
    weights = [row for model in models for row in (*model.parameters(), *model.buffers())]
    trained = [row for row in models[0].parameters() if row.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=False)
    loss_of().backward()
    optimizer.step()
    optimizer.zero_grad()
    states = size(value for row in optimizer.state.values() for value in row.values())
    held = size([*weights, *inputs]) + states
    loss, forward, kept = allocations(loss_of)
    _, backward, _ = allocations(loss.backward)
    gradients = size(row.grad for row in trained)
    _, update, _ = allocations(optimizer.step)
    return {
        "weights": size(weights),
        "gradients": gradients,
        "optimizer": states,
        "phases": {
            "forward": held + forward,
            "backward": held + kept + backward,
            "optimizer": held + gradients + update,
        },
    }


def held_weights(parts):
    return sum(parts.get(name, 0) for name in ("weights", "adapter", "other models"))


def assert_equal(real, setting, values=TINY, slack=0.005):
    timeline = {row.name: row for row in trace(values, setting, CPU, depth="full").timeline}
    assert held_weights(timeline["forward"].parts) == pytest.approx(real["weights"], rel=1e-4)
    assert timeline["optimizer"].parts["gradients"] == real["gradients"]
    # AdamW's counters of four bytes a tensor are no state the trace counts on every device
    assert timeline["forward"].parts["optimizer"] == pytest.approx(real["optimizer"], rel=0.01)
    for name, peak in real["phases"].items():
        assert timeline[name].allocated_bytes == pytest.approx(peak, rel=slack), name
        # what is neither weight nor gradient nor state: activations and logits
        passing = timeline[name].allocated_bytes - held_weights(timeline[name].parts)
        rest = peak - real["weights"]
        assert passing == pytest.approx(rest, rel=3 * slack), name
    return timeline


def ids_of(setting):
    ids = torch.randint(3, WORDS, (setting.micro_batch * setting.sides, setting.length))
    return ids, torch.ones_like(ids)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"adapter": LORA, "checkpointing": "layers"},
        {"adapter": LORA, "checkpointing": "layers", "reentrant": True, "attention": "eager"},
        {"adapter": LORA, "weight_width": 2},
    ],
    ids=["full", "lora-recomputed", "lora-reentrant-eager", "lora-bf16"],
)
def test_a_supervised_step(changed):
    setting = replace(STEP, **changed)
    ids, mask = ids_of(setting)
    model = real_model(setting, TINY)
    real = measured([model], lambda: model(input_ids=ids, attention_mask=mask, labels=ids).loss, (ids, mask))
    timeline = assert_equal(real, setting)
    if not changed:
        # log-softmax, gradient of the loss and of the softmax in fp32, of the 2 x 64 tokens; fp32 logits have gone
        copies = timeline["backward"].parts["logits and loss"] / (128 * WORDS * 4)
        assert copies == pytest.approx(3, abs=1.05)


def trainer_of(kind, config, model, rows, **more):
    class Prepared(kind):
        def _prepare_dataset(self, dataset, *_, **__):
            return dataset

    return Prepared(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(DEMO),
        **more,
    )


def arguments(kind, folder, **more):
    return kind(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False, **more
    )


@pytest.mark.parametrize("update", ["full", "lora"])
def test_a_preference_step_with_its_reference(tmp_path, update):
    setting = replace(
        STEP,
        method="dpo",
        sides=2,
        adapter=LORA if update == "lora" else None,
        reference="adapter" if update == "lora" else "copy",
        frozen_copies=int(update == "full"),
    )
    model = real_model(replace(setting, adapter=None), TINY)
    copy = real_model(setting, TINY).requires_grad_(requires_grad=False).eval() if update == "full" else None
    row = {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7]}
    # a model that wears an adapter already gets a second one as its reference; a new adapter is given beside it
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=8, target_modules="all-linear")
    trainer = trainer_of(
        DPOTrainer,
        arguments(DPOConfig, tmp_path),
        model,
        [row],
        ref_model=copy,
        peft_config=lora if update == "lora" else None,
    )
    model = trainer.model.train()
    ids, mask = ids_of(setting)

    def loss():
        inputs = {"input_ids": ids, "attention_mask": mask, "completion_mask": mask}
        return trainer._compute_loss(model, inputs, False)

    assert_equal(measured([model] if copy is None else [model, copy], loss, (ids, mask)), setting)


def test_a_reward_step(tmp_path):
    setting = replace(STEP, method="reward", sides=2, adapter=LORA, length=128)
    model = real_model(setting, TINY, transformers.AutoModelForSequenceClassification)
    row = {"chosen_ids": [6], "rejected_ids": [7], "chosen_input_ids": [6], "rejected_input_ids": [7]}
    trainer = trainer_of(RewardTrainer, arguments(RewardConfig, tmp_path), model, [row])
    ids, mask = ids_of(setting)

    def loss():
        return trainer.compute_loss(model, {"input_ids": ids, "attention_mask": mask})

    assert_equal(measured([model], loss, (ids, mask)), setting, slack=0.01)


def test_a_step_on_sampled_answers_and_the_sampling(tmp_path):
    setting = replace(
        STEP,
        method="grpo",
        adapter=LORA,
        answer_length=48,
        generation_batch=8,
        loss=Loss("log_probs", scaled=False),
    )
    model = real_model(setting, TINY)
    config = arguments(
        GRPOConfig, tmp_path, num_generations=2, per_device_train_batch_size=2, temperature=1.0
    )
    trainer = trainer_of(
        GRPOTrainer, config, model, [{"prompt": "x"}] * 2, reward_funcs=lambda **_: [0.0, 1.0]
    )
    ids, mask = ids_of(setting)
    inputs = {
        "prompt_ids": ids[:, :16],
        "prompt_mask": mask[:, :16],
        "completion_ids": ids[:, 16:],
        "completion_mask": mask[:, 16:],
        "advantages": torch.ones(2),
        "num_items_in_batch": torch.tensor(96),
    }
    trainer.current_gradient_accumulation_steps = 1
    real = measured([model], lambda: trainer._compute_loss(model, inputs), (ids, mask))
    timeline = assert_equal(real, setting)
    model.eval()
    prompts = torch.randint(3, WORDS, (8, 16))
    model.config.use_cache = True
    _, most, _ = allocations(
        lambda: model.generate(
            input_ids=prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=48, do_sample=True,
            top_k=0, use_cache=True,
        )
    )  # fmt: skip
    sampled = timeline["generation"].allocated_bytes - held_weights(timeline["generation"].parts)
    assert sampled == pytest.approx(most + real["optimizer"], rel=0.1)


@pytest.mark.parametrize("update", ["full", "lora"])
def test_a_step_of_ppo_with_its_roles(update):
    setting = replace(
        STEP, method="ppo", adapter=LORA if update == "lora" else None, answer_length=48, generation_batch=2
    )
    policy = real_model(setting, TINY)
    models = [policy]
    if update == "lora":
        head = add_value_adapter(policy, None, None)
        roles = Roles(Seat(policy, POLICY), Seat(policy), Seat(policy, VALUE, head))
    else:
        reference = real_model(setting, TINY).requires_grad_(requires_grad=False)
        trunk = real_model(setting, TINY).base_model
        head = new_head(trunk)
        roles = Roles(Seat(policy), Seat(reference), Seat(trunk, "", head))
        models += [reference, trunk]
    weights = list(roles.trained().values())
    optimizer = torch.optim.AdamW(weights, foreach=False)
    numbers = PPOConfig(num_ppo_epochs=1)
    learner = Learner(roles, numbers, optimizer, torch.amp.GradScaler("cpu", enabled=False), 1.0, 2)
    answers = Answers(((5,) * 16,) * 2, ((6,) * 48,) * 2, Vocabulary(frozenset(), 0))

    def step():
        found = experience_of(learner, answers, torch.zeros(2), numbers.kl_coef)
        learn(learner, answers, found, seed=0)

    step()
    states = size(value for row in optimizer.state.values() for value in row.values())
    held = size([row for model in (*models, head) for row in (*model.parameters(), *model.buffers())])
    _, most, _ = allocations(step)
    traced = trace(TINY, setting, CPU, depth="full")
    assert traced.trained_parameters == sum(row.numel() for row in weights)
    timeline = {row.name: row for row in traced.timeline}
    assert held_weights(timeline["forward"].parts) == pytest.approx(held, rel=1e-3)
    assert timeline["forward"].parts["optimizer"] == pytest.approx(states, rel=0.01)
    assert timeline["optimizer"].parts["gradients"] == sum(row.nbytes for row in weights)
    peak = max(timeline[name].allocated_bytes for name in ("scoring", "forward", "backward", "optimizer"))
    assert peak == pytest.approx(held + states + most, rel=0.01)


@pytest.mark.slow
def test_a_supervised_step_of_the_small_model():
    config = json.loads((DEMO / "config.json").read_text())
    setting = replace(STEP, adapter=LORA, micro_batch=1, length=256)
    ids, mask = ids_of(setting)
    model = real_model(setting, config)
    real = measured([model], lambda: model(input_ids=ids, attention_mask=mask, labels=ids).loss, (ids, mask))
    assert_equal(real, setting, config)
