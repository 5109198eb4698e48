"""A byte-level tokenizer of 256 bytes, a few merges and special tokens, saved as a model folder."""

import json

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful test assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN_CHATML = CHATML.replace("You are a helpful test assistant.", "")
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]")
_MERGES = [
    ("h", "e"),
    ("l", "l"),
    ("he", "ll"),
    ("hell", "o"),
    ("t", "h"),
    ("Ġ", "th"),
    ("a", "n"),
    ("Ġ", "a"),
]


def byte_level(specials=SPECIALS):
    """Return a byte-level BPE tokenizer whose first ids are the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*specials, *alphabet, *(left + right for left, right in _MERGES)]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=_MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def sentencepiece_like(specials=SPECIALS):
    """Return a tokenizer that puts a space before every text it is given, as Llama 2's does."""
    alphabet = [*map(chr, range(33, 127)), "▁", "\n", "é"]
    vocabulary = {word: index for index, word in enumerate([*specials, "<unk>", *alphabet])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def save(folder, tokenizer=None, *, template=CHATML, stops=None, **named):
    """Write a model folder that holds only a tokenizer; ``stops`` are eos ids of generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or byte_level()).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    config |= {"clean_up_tokenization_spaces": False, **named}
    if template:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v}), encoding="utf-8"
    )
    if stops is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}), encoding="utf-8")
    return folder
