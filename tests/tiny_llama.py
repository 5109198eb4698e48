"""A random Llama of 60 thousand weights with a real byte-level tokenizer, as a folder and as a GGUF file.

Made in the test that needs it, in about a second, without a network: big enough for transformers, PEFT,
bitsandbytes and llama.cpp to treat it like any other model.
"""

from __future__ import annotations

import json
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXT = [
    "The quick brown fox jumps over the lazy dog. Name a colour. Blue is a colour.",
    "What is the capital of France? Paris is the capital of France, in 1789 and today.",
]
VOCABULARY = 320


def make_model(folder: Path, *, seed: int = 0, tied: bool = True, dtype: str = "bfloat16") -> Path:
    """Write a random Llama with its tokenizer as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied,
        bos_token_id=1, eos_token_id=2, pad_token_id=2, initializer_range=0.15, rms_norm_eps=1e-5,
    )  # fmt: skip
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def make_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE tokenizer with SmolLM2's pre-tokenizer, special tokens and a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXT * 20, trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)


def make_adapter(base: Path, folder: Path, *, seed: int = 1, scale: float = 0.1, **options: object) -> Path:
    """Write a LoRA adapter whose zero matrices are random instead, as training would leave them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(**settings),  # type: ignore[arg-type]
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:  # those that start as zeros
                parameter.normal_(0, scale)
    model.save_pretrained(folder)
    return folder


def write_gguf(
    folder: Path,
    out: Path,
    *,
    eos: int = 2,
    template: str = CHAT_TEMPLATE,
    add_bos: bool = False,
    noise: float = 0.0,
    pre: str = "smollm",
) -> Path:
    """Write a Llama folder as an f32 GGUF file; ``noise`` adds that share of each tensor's spread."""
    import gguf
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    config = json.loads((folder / "config.json").read_text())
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    writer = gguf.GGUFWriter(out, "llama")
    heads, key_value_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_value_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, folder, eos, template, add_bos=add_bos, pre=pre)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    random = np.random.default_rng(0)
    for name, tensor in weights.items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        array = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            array = _permute(array, heads if "q_proj" in name else key_value_heads)
        if noise and array.ndim == 2:
            array = array + random.normal(0, noise * array.std(), array.shape).astype(np.float32)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _add_tokenizer(writer, folder: Path, eos: int, template: str, *, add_bos: bool, pre: str) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())
    tokens = sorted(model["model"]["vocab"], key=model["model"]["vocab"].get)
    special = {token["content"] for token in model["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(add_bos)
    writer.add_chat_template(template)


def _permute(array, heads: int):
    """Reorder rotary halves as llama.cpp's llama architecture stores them."""
    return (
        array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
        .swapaxes(1, 2)
        .reshape(array.shape)
    )
