"""Reads ``datasets`` objects, and data sets of the hub through them."""

from __future__ import annotations

import importlib.util
from itertools import islice
from typing import Any

from ft_magic.data.reading.asked import Asked
from ft_magic.data.reading.files import Raw
from ft_magic.data.row import shortened
from ft_magic.errors import DataError, nearest

_WAY_ON = "Use a local file (.jsonl, .csv, .parquet ...), a DataFrame or a list of dicts."


def read_dataset(src: Any, asked: Asked) -> Raw:
    """Read a ``datasets`` object, streamed ones too; of several splits the one asked for, else ``train``.

    Raises:
        DataError: it has no such split, or several and no ``train``.
    """
    notes: tuple[str, ...] = ()
    if isinstance(src, dict):
        name = _split_name(list(src), asked.split)
        others = [other for other in src if other != name]
        src = src[name]
        notes = (f"split {name}",)
        if others:
            notes = (*notes, f"other splits, not read: {', '.join(others)} (split=)")
    else:
        asked.check("a datasets object of one split")
    description = getattr(getattr(src, "info", None), "dataset_name", None) or "dataset"
    records = list(islice(iter(src), asked.limit))
    return Raw(str(description), f"datasets object {description}", records, notes)


def _split_name(names: list[str], asked: str | None) -> str:
    if asked is not None and asked not in names:
        raise DataError(
            f"There is no split '{asked}'.{nearest(asked, names)}", f"Splits are: {', '.join(names)}."
        )
    if asked is not None:
        return asked
    if "train" in names or len(names) == 1:
        return "train" if "train" in names else names[0]
    raise DataError(
        f"The DatasetDict has the splits {', '.join(names)} and no 'train'.",
        f"Give one: d['{names[0]}'], or split='{names[0]}'.",
    )


def read_hub(name: str, asked: Asked) -> Raw:
    """Read a data set of the hub; with a limit its first rows are streamed and the rest stays there.

    Raises:
        DataError: datasets is not installed, there is no network, or no such data set, split or revision.
    """
    if importlib.util.find_spec("datasets") is None:
        raise DataError(
            f"'{name}' is no file here; reading it from the hub needs the package datasets.",
            f"pip install datasets. {_WAY_ON}",
        )
    import datasets

    from ft_magic.models import hub

    if not hub.has_answer(name):
        raise DataError(f"'{name}' is no file here, and the hub cannot be reached.", _WAY_ON)
    try:
        loaded = datasets.load_dataset(name, **_options(asked))
        raw = read_dataset(loaded, Asked(limit=asked.limit))
    except DataError:
        raise
    except Exception as error:  # any failure of the hub client means the same to the reader
        raise DataError(
            f"'{name}' is no file here and could not be read from the hub ({shortened(str(error), 120)}).",
            _WAY_ON,
        ) from error
    asked_for = [f"{part} {value}" for part, value in asked.parts.items() if part != "split" or not raw.notes]
    return Raw(name.rpartition("/")[2], f"hub data set {name}", raw.records, (*asked_for, *raw.notes))


def _options(asked: Asked) -> dict[str, Any]:
    from huggingface_hub import constants

    options: dict[str, Any] = {"name": asked.subset, "split": asked.split, "revision": asked.revision}
    # Neither the hub's cache nor slices (train[:10]) can be streamed.
    if asked.limit is not None and not constants.HF_HUB_OFFLINE and "[" not in (asked.split or ""):
        options["streaming"] = True
    return {key: value for key, value in options.items() if value is not None}
