"""A 4-bit base trains alike before and after it was evaluated."""

import pytest

torch = pytest.importorskip("torch", reason="training libraries are not installed")


def gradients(model):
    model.train()
    model.zero_grad()
    ids = torch.arange(3, 35)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.fixture
def quantized(tiny):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ft_magic.backends.quantized import keep_layout, nf4_config

    base = AutoModelForCausalLM.from_pretrained(
        tiny, quantization_config=nf4_config("fp32"), dtype=torch.float32
    )
    torch.manual_seed(0)
    return get_peft_model(
        keep_layout(base),
        LoraConfig(target_modules="all-linear", r=4, init_lora_weights=False, task_type="CAUSAL_LM"),
    )


def test_gradients_are_the_same_after_an_evaluation(quantized):
    before = gradients(quantized)
    quantized.eval()
    with torch.no_grad():
        evaluated = quantized(input_ids=torch.arange(3, 35)[None]).logits
    after = gradients(quantized)
    assert all(torch.equal(before[name], after[name]) for name in before)
    quantized.train()
    assert torch.equal(evaluated, quantized(input_ids=torch.arange(3, 35)[None]).logits)
