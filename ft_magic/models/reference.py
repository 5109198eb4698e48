"""From what a user calls a model to a folder: ``demo``, a folder, a GGUF file, a hub id."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from ft_magic.errors import ModelError, nearest
from ft_magic.models.shape import WAYS_ON
from ft_magic.paths import cache_dir
from ft_magic.progress import Progress, silent

DEMO = "demo"


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


WEIGHTS = ("*.safetensors", "*.bin")


def model_path(name: str) -> str:
    """Return the folder of a model as text: ``resolve`` for scripts.

    Raises:
        ModelError: see ``resolve``.
    """
    return str(resolve(name))


def resolve(reference: str, *, progress: Progress | None = None) -> Path:
    """Return the folder of a model: ``demo``, a local folder, a GGUF file, or a hub id ``org/name``.

    ``demo`` and GGUF files are dequantized on first use into the cache folder; hub ids are downloaded into
    the hub's own cache (token from ``HF_TOKEN`` or the hub login).

    Raises:
        ModelError: nothing usable is there.
    """
    report = progress or silent
    if reference == DEMO:
        from ft_magic.models import demo as demo_model

        return demo_model.ensure(report)
    place = Path(reference).expanduser()
    if place.is_dir():
        return _checked(place.absolute())
    if place.is_file():
        return _from_file(place.absolute(), report)
    if HUB_ID.fullmatch(reference) and reference[0] not in ".~":
        from ft_magic.models import hub

        return _checked(hub.snapshot(reference, WAYS_ON, report))
    raise ModelError(
        f"Model '{reference}' is no file or folder, and no hub id of the form org/name."
        f"{nearest(reference, [DEMO])}",
        WAYS_ON,
    )


def _checked(folder: Path) -> Path:
    """Return a local folder that holds a model.

    Raises:
        ModelError: it is empty, or has no ``config.json`` or no weights.
    """
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        raise ModelError(f"Model folder '{folder}' is empty.", WAYS_ON)
    if "config.json" in names:
        if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
            raise ModelError(
                f"Model folder '{folder}' has a config.json but no weights ({' or '.join(WEIGHTS)}).",
                "Download or copy the weights into it again.",
            )
        return folder
    if "adapter_config.json" in names:
        raise ModelError(
            f"'{folder}' holds an adapter, not a model.",
            "Name the base model here, or merge the adapter first and name the merged folder.",
        )
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        raise ModelError(
            f"Model folder '{folder}' has no config.json, only GGUF.",
            f"Name the file: '{folder / ggufs[0]}'.",
        )
    seen = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    raise ModelError(f"Model folder '{folder}' has no config.json (it has: {seen}).", WAYS_ON)


def _from_file(file: Path, progress: Progress) -> Path:
    """Return the folder of a dequantized GGUF file, made on first use.

    Raises:
        ModelError: another kind of file, or a GGUF file that cannot be dequantized.
    """
    if file.suffix != ".gguf":
        raise ModelError(
            f"Model '{file}' is a file; a model is a folder with config.json, or a .gguf file.", WAYS_ON
        )
    from ft_magic.cached_folder import cached_folder
    from ft_magic.models.dequantize import RECIPE, write_folder

    state = file.stat()
    # Name, size and time stand for the content: hashing a file of many GiB at every use would take seconds.
    key = sha256(f"{file}|{state.st_size}|{state.st_mtime_ns}".encode()).hexdigest()
    return cached_folder(
        cache_dir() / "models" / f"{file.stem}-{key[:12]}",
        {"source": str(file), "key": key, "recipe": RECIPE},
        lambda folder: write_folder(file, folder, progress=progress),
        # from the smallest common 4 bits a weight to 16
        needed_bytes=4 * state.st_size,
        progress=progress,
    )
