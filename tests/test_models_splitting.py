"""Tokenizers rebuilt from GGUF files split text as llama.cpp does; llama.cpp itself is asked."""

import json
import shutil

import pytest
from tiny_llama import write_gguf

from ft_magic.models.dequantize import build_tokenizer, read_fields
from ft_magic.models.splitting import SPLITTINGS
from ft_magic.template.tokenizer import Tokenizer

pytest.importorskip("xllamacpp")
tokenizers = pytest.importorskip("tokenizers")

# What the ways of splitting differ in: digits, contractions, capitals, spaces, newlines, marks, other scripts.
TEXTS = (
    "I'll, you'LL, they'Ve; don't!",
    "1 12 123 1234 12345.678 ½ ٣٤",
    "a\n\n b\r\n\tc   d    e ",
    "x=f(y)**2//3; // end\n\n\n}",
    "naïve café Straße привет 你好 العربية 🙂🙂",
    "   three spaces, then...\n   three more",
    "<|im_start|>user\nHi<|im_end|>",
    "",
)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A tiny model whose merges run across words, digits and newlines, so that only splitting keeps them apart."""
    made = shutil.copytree(tiny, tmp_path_factory.mktemp("splitting") / "model")
    told = json.loads((made / "tokenizer.json").read_text(encoding="utf-8"))
    plain = tokenizers.Tokenizer(tokenizers.models.BPE())
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(told["model"]["vocab"]),
        special_tokens=[token["content"] for token in told["added_tokens"]],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator(TEXTS * 3, trainer)
    assert plain.get_vocab_size() == len(told["model"]["vocab"])
    (made / "tokenizer.json").write_text(plain.to_str(), encoding="utf-8")
    return made


@pytest.mark.parametrize("name", SPLITTINGS)
def test_ids_equal_those_of_llama_cpp(folder, tmp_path, name):
    from ft_magic.serve.llamacpp import Runtime

    file = write_gguf(folder, tmp_path / "model.gguf", pre=name)
    rebuilt = build_tokenizer(read_fields(file))
    with Runtime(file) as runtime:
        for text in TEXTS:
            ids = rebuilt.encode(text, add_special_tokens=False).ids
            assert ids == runtime.tokenize(text), text


def test_the_ways_of_splitting_are_told_apart(folder, tmp_path):
    found = {}
    for name in ("gpt-2", "smollm", "llama-bpe", "qwen2"):
        file = write_gguf(folder, tmp_path / f"{name}.gguf", pre=name)
        rebuilt = build_tokenizer(read_fields(file))
        found[name] = tuple(tuple(rebuilt.encode(text).tokens) for text in TEXTS)
    assert len(set(found.values())) == 4


@pytest.mark.parametrize("told", [True, False])
def test_bos_is_added_where_the_file_says_so(folder, tmp_path, told):
    file = write_gguf(folder, tmp_path / "model.gguf", pre="llama-bpe", add_bos=told)
    assert (build_tokenizer(read_fields(file)).encode("Hi").ids[0] == 1) == told
    assert Tokenizer.load(file).adds_bos == told
