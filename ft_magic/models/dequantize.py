"""A GGUF file as a normal Hugging Face folder: bf16 safetensors, config and the exact tokenizer.

``transformers`` dequantizes the weights, in a process of its own so that the caller stays light. Its
tokenizer from the same file is wrong without a word (stop token ``<|im_start|>``, no pad token, digits not
split), so the tokenizer is rebuilt here from the file's own vocabulary, merges, token types and special ids.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_magic.errors import ModelError
from ft_magic.models.splitting import SPLITTINGS, Splitting, splitter
from ft_magic.progress import Progress, silent

RECIPE = 1  # raised when the folders written here change, so that cached ones are made again
CONTROL = 3  # gguf.TokenType.CONTROL
USER_DEFINED = 4  # gguf.TokenType.USER_DEFINED
# transformers' slot name -> the GGUF key `tokenizer.ggml.<key>_token_id`
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def write_folder(gguf_file: Path, folder: Path, *, probe: str = "", progress: Progress = silent) -> None:
    """Dequantize ``gguf_file`` into the existing, empty ``folder``, in a subprocess.

    Args:
        gguf_file: the model file.
        folder: where config, weights and tokenizer are written.
        probe: ``"prompt -> word"``: the finished model's next word after ``prompt`` must be ``word``.
        progress: told each stage.

    Raises:
        ModelError: the training libraries are missing, the file is no GGUF, its tokenizer is of a kind that
            is not rebuilt exactly, or the finished folder fails its check.
    """
    command = [sys.executable, "-m", "ft_magic.models.dequantize", str(gguf_file), str(folder), probe]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8", env=_environment()
        )
        try:
            problem = _follow(process, progress)
        finally:
            process.kill()
            process.wait()
        if problem is None and process.returncode == 0:
            return
        log.seek(0)
        last = (log.read().strip().splitlines() or [f"exit status {process.returncode}"])[-1]
    raise ModelError(*(problem or [f"'{gguf_file}' could not be dequantized: {last}"]))


def _environment() -> dict[str, str]:
    """Return the subprocess's environment: it finds this very package, and libraries draw nothing."""
    source = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONIOENCODING": "utf-8",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",  # nothing here comes from the hub
        "OMP_WAIT_POLICY": "PASSIVE",  # the kernel and the browser run beside it
    }


def _follow(process: subprocess.Popen[str], progress: Progress) -> list[str] | None:
    """Pass the subprocess's stages on; return the lines of the error it reported, or None."""
    problem: list[str] | None = None
    for line in process.stdout or ():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # a library printed something
        if isinstance(said, dict) and "error" in said:
            problem = [str(part) for part in said["error"]]
        elif isinstance(said, dict) and "stage" in said:
            progress(str(said["stage"]), float(said["done"]), float(said["total"]))
    process.wait()
    return problem


def main(gguf_file: Path, folder: Path, probe: str) -> None:
    """Do the work of ``write_folder``; runs in the subprocess and reports on standard output."""
    try:
        _say("reading the vocabulary", 0)
        fields = read_fields(gguf_file)
        write_tokenizer(fields, folder)
        _say("loading the training libraries", 1)
        _write_weights(gguf_file, folder, probe)
    except ModelError as error:
        print(json.dumps({"error": [error.problem, error.instead]}), flush=True)
        raise SystemExit(1) from error


def _say(stage: str, done: int) -> None:
    print(json.dumps({"stage": stage, "done": done, "total": 5}), flush=True)


def read_fields(gguf_file: Path) -> dict[str, Any]:
    """Return the metadata of a GGUF file by key.

    Raises:
        ModelError: no ``gguf`` package, or not a GGUF file.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise _no_libraries(gguf_file, error) from error
    try:
        reader = GGUFReader(gguf_file)
    except (ValueError, IndexError, OSError) as error:
        raise ModelError(
            f"'{gguf_file}' is not a whole GGUF file ({error}).", "Copy or download the file again."
        ) from error
    return {key: field.contents() for key, field in reader.fields.items()}


def _no_libraries(gguf_file: Path, error: ImportError) -> ModelError:
    return ModelError(
        f"'{gguf_file.name}' must be dequantized, but {sys.executable} lacks '{error.name}'.",
        "Install the training libraries: pip install 'ft-magic[train]'.",
    )


def write_tokenizer(fields: Mapping[str, Any], folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` of a GGUF file's exact tokenizer.

    The configuration is written by hand: the class name ``PreTrainedTokenizerFast`` is read by transformers 4
    and 5 alike as "use tokenizer.json as it is", where a model's own class would rebuild parts of it.

    Raises:
        ModelError: the tokenizer is of a kind that is not rebuilt exactly.
    """
    tokenizer = build_tokenizer(fields)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = _tokenizer_config(fields)
    text = json.dumps(settings, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def build_tokenizer(fields: Mapping[str, Any]) -> Any:
    """Return the ``tokenizers.Tokenizer`` of a GGUF file's metadata.

    Raises:
        ModelError: a kind whose splitting is not known: a near miss is silent.
    """
    way = splitting_of(fields)
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False,
            ignore_merges=way.ignore_merges,
        )
    )  # fmt: skip
    tokenizer.pre_tokenizer = splitter(way)
    tokenizer.decoder = decoders.ByteLevel()
    for token, is_special in _added_tokens(fields).values():
        added = AddedToken(token, special=is_special, normalized=False)
        (tokenizer.add_special_tokens if is_special else tokenizer.add_tokens)([added])
    bos = fields.get("tokenizer.ggml.bos_token_id")
    if bos is not None and adds_bos(fields):
        name = fields["tokenizer.ggml.tokens"][bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, bos)]
        )
    return tokenizer


def splitting_of(fields: Mapping[str, Any]) -> Splitting:
    """Return how the file's tokenizer splits text.

    Raises:
        ModelError: it is of a kind that is not known.
    """
    model, name = fields.get("tokenizer.ggml.model"), str(fields.get("tokenizer.ggml.pre"))
    if model == "gpt2" and name in SPLITTINGS:
        return SPLITTINGS[name]
    raise ModelError(
        f"The GGUF file's tokenizer is of kind '{model}/{name}'; exactly rebuilt are gpt2/ "
        f"{', '.join(SPLITTINGS)}.",
        "Name the original Hugging Face folder or hub id the GGUF file was made from.",
    )


def adds_bos(fields: Mapping[str, Any]) -> bool:
    """Return whether a runtime puts the bos token before a text."""
    return bool(fields.get("tokenizer.ggml.add_bos_token", splitting_of(fields).adds_bos))


def _added_tokens(fields: Mapping[str, Any]) -> dict[int, tuple[str, bool]]:
    """Return id -> (token, whether it is special) of the tokens that are never split or merged."""
    pairs = zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True)
    return {i: (t, kind == CONTROL) for i, (t, kind) in enumerate(pairs) if kind in (CONTROL, USER_DEFINED)}


def _tokenizer_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``tokenizer_config.json``: special tokens, template, length."""
    tokens = fields["tokenizer.ggml.tokens"]
    named = {slot: fields.get(f"tokenizer.ggml.{key}_token_id") for slot, key in SPECIAL.items()}
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    settings = {
        "added_tokens_decoder": {
            str(i): {"content": token, "special": is_special, **plain}
            for i, (token, is_special) in _added_tokens(fields).items()
        },
        "chat_template": fields.get("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields.get(f"{fields['general.architecture']}.context_length"),
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{slot: tokens[number] for slot, number in named.items() if number is not None},
    }
    return {key: value for key, value in settings.items() if value is not None}


def _write_weights(gguf_file: Path, folder: Path, probe: str) -> None:
    """Write config and bf16 weights beside the tokenizer that is already there, and check them together."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise _no_libraries(gguf_file, error) from error
    _say("dequantizing", 2)
    # save_pretrained refuses a model that still counts as quantized; dequantize=True makes it a plain one.
    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    _say("writing bf16 weights", 3)
    model.save_pretrained(folder)
    if probe:
        _say("checking the written model", 4)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        _check(model, AutoTokenizer.from_pretrained(folder), probe)
    _say("finished", 5)


def _check(model: Any, tokenizer: Any, probe: str) -> None:
    """Raise ModelError unless the model's likeliest next word after the prompt is the probe's."""
    prompt, _, wanted = probe.partition(" -> ")
    logits = model(**tokenizer(prompt, return_tensors="pt")).logits
    got = tokenizer.decode(logits[0, -1].argmax()).strip()
    if got != wanted:
        raise ModelError(
            f"The dequantized model continues '{prompt}' with '{got}', not '{wanted}': it was misread.",
            "Install the versions of transformers and gguf that ft-magic[train] names.",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
