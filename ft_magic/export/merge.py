"""Fold an adapter into its base, and prove that the result is the same model.

The merged folder holds 16-bit safetensors, the base's own configuration and its tokenizer files unchanged.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_magic import atomic
from ft_magic.errors import ExportError
from ft_magic.export import trained
from ft_magic.export.refusals import check_adapter
from ft_magic.export.room import check_room
from ft_magic.progress import Progress, silent
from ft_magic.template.files import copy_tokenizer_files

# Largest mean KL in nats against base + adapter, by the number format both are computed in; measured on the
# 135M model with random adapters (lora and qlora) over the texts below.
# Folded, not yet rounded: float32 0.5e-9 (one LoRA matrix of 210 left out: 1.9e-5); bfloat16 0.0024-0.0041,
# because every activation is rounded.
FOLD_KL_LIMITS = {"float32": 1e-6, "bfloat16": 0.02}
# Written in 16 bits: float32 0.00009 to 0.0003 from rounding the weights. The limits are about six times
# that.
KL_LIMITS = {"float32": 0.002, "bfloat16": 0.02}
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# Largest piece in which weights are written: the writer copies one piece at a time.
SHARD_SIZE = "2GB"
DISK_MARGIN_BYTES = (
    50_000_000  # tokenizer files (up to 35 MB for vocabularies of 256,000), configuration, rounding
)
PROBE_TEXTS = (
    "The quick brown fox jumps over the lazy dog. In 1969, 33 333 people cheered.\n\n",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    "Caf\u00e9 na\u00efve \u4f60\u597d\u4e16\u754c \U0001f680 they're I'VE \u2014 quotes and\ttabs.",
)


@dataclass(frozen=True)
class Merged:
    """A merged model.

    Attributes:
        path: its folder.
        bytes: size of its weight files.
        max_abs_logit_difference: largest difference of any logit, merged against base + adapter.
        mean_kl: mean KL in nats over the full vocabulary, base + adapter against merged.
        tokens: positions compared.
        compared_in: number format both were computed in: float32, or bfloat16 where memory is short.
        kl_limit: the largest mean KL that was allowed.
        into: which base the adapter was folded into: ``trained`` or ``original``.
        dtype: number format of the weights written.
    """

    path: Path
    bytes: int
    max_abs_logit_difference: float
    mean_kl: float
    tokens: int
    compared_in: str
    kl_limit: float
    into: str
    dtype: str


class _TooCoarseError(Exception):
    """Writing in 16 bits moved the model too far."""


def merge(  # noqa: PLR0913  three folders and six options with defaults
    base: Path,
    adapter: Path | None,
    out: Path,
    *,
    base_bits: int = 0,
    dtype: str = "bfloat16",
    into: str = "trained",
    probe_ids: Sequence[Sequence[int]] = (),
    tokenizer_from: Path | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Write base + adapter as one model folder and compare its logits with base + adapter.

    Args:
        base: folder of the base model; of the fully fine-tuned model where there is no adapter.
        adapter: folder of the PEFT adapter, or None.
        out: folder to write; nothing stands there under its name before every check has passed.
        base_bits: 4 where training held the base in NF4.
        dtype: number format of the weights written: bfloat16, float16 or float32. Where 16 bits would lose what
            a short training has changed, float32 is written instead; ``Merged.dtype`` and the progress say so.
        into: ``trained`` folds a QLoRA adapter into the dequantized 4-bit base it was trained on (the result
            is the model as trained); ``original`` folds it into the 16-bit base (not the model as trained: KL
            0.36 against 0.0001 in one trial on the 135M model, yet sometimes the better model). Compare both
            on your own data.
        probe_ids: token ids to compare logits on; default: three built-in texts.
        tokenizer_from: folder whose tokenizer files are copied; default ``base``.
        progress: called as each part begins.

    Raises:
        ExportError: a folder or option is wrong, the disk is too full, weights are not finite, the tokenizer
            does not fit, or merged and base + adapter differ by more than rounding.
    """
    report = progress or silent
    _check_request(base, adapter, out, dtype, into)

    def again() -> Merged:
        """Merge once more, without rounding."""
        report(f"{dtype} would round away part of what was learned: writing float32", 0, 4)
        return merge(
            base, adapter, out, base_bits=base_bits, dtype="float32", into=into, probe_ids=probe_ids,
            tokenizer_from=tokenizer_from, progress=progress,
        )  # fmt: skip

    work = trained.working_dtype(base)
    report("loading the model as trained", 0, 4)
    model = trained.load_trained(base, adapter, base_bits=base_bits if into == "trained" else 0, dtype=work)
    tokenizer = tokenizer_from or base
    probes = [list(ids) for ids in probe_ids] or _built_in_probes(tokenizer)
    reference = [trained.logits(model, ids) for ids in probes]
    report("merging", 1, 4)
    if adapter is not None:
        model = _fold(model)
        _require(_difference(model, probes, reference), FOLD_KL_LIMITS[work])
    try:
        with atomic.new_folder(out) as folder:
            report("writing the merged model", 2, 4)
            _write(model, base, folder, dtype)
            copy_tokenizer_files(tokenizer, folder)
            _check_tokenizer(folder, rows=model.get_input_embeddings().weight.shape[0])
            del model
            gc.collect()  # wrappers refer to each other: their weights would stay until some later collection
            report("comparing merged with base + adapter", 3, 4)
            found = _difference(trained.load_trained(folder, None, dtype=work), probes, reference)
            # The fold itself was exact, so what is left is rounding; where 16 bits are all there is, it stands.
            if adapter is not None and found[1] > KL_LIMITS[work] and work == "float32" != dtype:
                raise _TooCoarseError
            _require(found, KL_LIMITS[work])
    except _TooCoarseError:
        return again()
    size_bytes = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    report("merged", 4, 4)
    return Merged(out, size_bytes, *found, work, KL_LIMITS[work], into, dtype)


def _check_request(base: Path, adapter: Path | None, out: Path, dtype: str, into: str) -> None:
    trained.check_folders(base, adapter)
    if adapter is not None:
        check_adapter(adapter)
    if dtype not in BYTES:
        raise ExportError(f"dtype '{dtype}' is not known.", f"Write one of: {', '.join(BYTES)}.")
    if into not in ("trained", "original"):
        raise ExportError(f"into='{into}' is not known.", "Write 'trained' or 'original'.")
    if out.resolve() in (base.resolve(), adapter.resolve() if adapter else None):
        raise ExportError(f"{out} is the folder that is read.", "Give another folder for the merged model.")
    needed_bytes = trained.count_weights(base) * BYTES[dtype] + DISK_MARGIN_BYTES
    check_room(out.parent, needed_bytes, "The merged model")


def _built_in_probes(tokenizer: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    encode = AutoTokenizer.from_pretrained(tokenizer)
    return [encode(text)["input_ids"] for text in PROBE_TEXTS]


def _fold(model: Any) -> Any:
    """Merge a PEFT model's adapter into its base weights and return the base model."""
    _untie(model)
    return model.merge_and_unload()


def _untie(model: Any) -> None:
    """Give the output layer weights of its own where it shares the input's and the adapter touches either.

    Merging adds to weights in place: an adapter on one of two layers that share a matrix would change both.
    PEFT then notes in the configuration that they are two.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    adapted = isinstance(inputs, BaseTunerLayer) or isinstance(outputs, BaseTunerLayer)
    if adapted and outputs is not None and inputs.weight is outputs.weight:
        layer = getattr(outputs, "base_layer", outputs)
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)


def _write(model: Any, base: Path, folder: Path, dtype: str) -> None:
    """Write weights and configuration; refuse weights that are not finite in the format written."""
    import torch

    model.to(getattr(torch, dtype))
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ExportError(
                f"The merged weight {name} holds values that are not finite in {dtype}.",
                "Write dtype='bfloat16' where this was float16; else training diverged: lower learning_rate.",
            )
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    _write_config(model, base, folder)


def _write_config(model: Any, base: Path, folder: Path) -> None:
    """Write the base's own config.json with only what merging changed.

    The one transformers 5 writes has new field names (``rope_parameters``) that older readers ignore,
    silently.
    """
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    name = "dtype" if "dtype" in config else "torch_dtype"
    config[name] = str(next(model.parameters()).dtype).removeprefix("torch.")
    for field in ("tie_word_embeddings", "vocab_size"):
        if field in config or field == "tie_word_embeddings":
            config[field] = getattr(model.config, field)
    atomic.write_json(folder / "config.json", config)


def _check_tokenizer(folder: Path, rows: int) -> None:
    """Check that every token has a row, and that the raw tokenizer file reads text as transformers does."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder)
    if len(loaded) > rows:
        raise ExportError(
            f"The tokenizer has {len(loaded)} tokens, the model {rows} rows: the last ones have no weights.",
            "Train without adding tokens (reuse one that exists), or resize the embeddings before training.",
        )
    if not (folder / "tokenizer.json").is_file():
        return
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in PROBE_TEXTS:
        if (
            raw.encode(text, add_special_tokens=False).ids
            != loaded(text, add_special_tokens=False)["input_ids"]
        ):
            raise ExportError(
                f"tokenizer.json and transformers' tokenizer split {text[:40]!r} differently.",
                "The tokenizer files do not fit this model type; take them from the original base model.",
            )


def _difference(
    model: Any, probes: Sequence[Sequence[int]], reference: Sequence[Any]
) -> tuple[float, float, int]:
    """Return largest logit difference, mean KL in nats and positions compared: model against reference."""
    largest, kl_sum, tokens = 0.0, 0.0, 0
    for ids, expected in zip(probes, reference, strict=True):
        found = trained.logits(model, ids)
        largest = max(largest, float((found - expected).abs().max()))
        kl_sum += float(trained.kl_by_position(expected, found).sum())
        tokens += len(ids)
    return largest, kl_sum / tokens, tokens


def _require(found: tuple[float, float, int], limit: float) -> None:
    _, kl, tokens = found
    if not kl <= limit:  # also true for NaN
        raise ExportError(
            f"Merged is not base + adapter: mean KL {kl:.2g} nats over {tokens} tokens, allowed {limit}.",
            "Nothing was written. Was the adapter trained on this base, and with these bits (base_bits)?",
        )
