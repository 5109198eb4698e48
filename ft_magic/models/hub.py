"""Models from the Hugging Face hub, with an answer within seconds where there is no network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft_magic.errors import ModelError
from ft_magic.progress import Progress

# Everything a causal language model is loaded from; no pickles, no other frameworks' copies.
FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
COPIES = ["original/*", "onnx/*", "openvino/*", "consolidated*"]
# snapshot_download asks the hub without a time limit (huggingface_hub 1.33 waits for ever); so
# we ask first ourselves; one retry inside makes it twice this.
TIMEOUT_S = 5.0


def snapshot(hub_id: str, ways_on: str, progress: Progress) -> Path:
    """Return the local snapshot of a hub repository, downloading what is missing into the hub's own cache.

    Args:
        hub_id: ``org/name``.
        ways_on: what to write instead, for the errors.
        progress: told the bytes that have arrived.

    Raises:
        ModelError: no hub library, no network and no cached copy, no such repository, or no access to it.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise ModelError(
            f"Model '{hub_id}' is a hub id, and huggingface_hub is not installed.",
            f"Install it (pip install huggingface_hub). {ways_on}",
        ) from error
    token = os.environ.get("HF_TOKEN") or None  # None: the hub login, where there is one
    wanted: dict[str, Any] = {"allow_patterns": FILES, "ignore_patterns": COPIES, "token": token}
    try:
        if _answers(lambda: HfApi(token=token).model_info(hub_id, timeout=TIMEOUT_S)):
            bar = _reporting_bar(f"downloading {hub_id} (bytes)", progress)
            return Path(snapshot_download(hub_id, tqdm_class=bar, **wanted))
        return Path(snapshot_download(hub_id, local_files_only=True, **wanted))
    except Exception as error:  # its own, httpx's or requests' errors, by version
        raise _explained(hub_id, ways_on, error) from error


def has_answer(data_set: str) -> bool:
    """Return whether the hub answers within seconds when asked for a data set; True when it is set offline.

    ``datasets`` itself retries for half a minute where there is no network; offline it looks in its cache at once.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return True
    token = os.environ.get("HF_TOKEN") or None
    try:
        return _answers(lambda: HfApi(token=token).dataset_info(data_set, timeout=TIMEOUT_S))
    except Exception as error:  # noqa: BLE001  the hub answered with a refusal, which ``datasets`` explains
        return "HfHubHTTPError" in _kinds(error)


def _answers(ask: Callable[[], object]) -> bool:
    """Whether the hub can be reached; what it answers with is its error to raise."""
    try:
        ask()
    except Exception as error:
        if "HfHubHTTPError" in _kinds(error):
            raise
        return False
    return True


def _kinds(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _explained(hub_id: str, ways_on: str, error: Exception) -> ModelError:
    """Return the error that says which of the known reasons it was."""
    kinds = _kinds(error)
    if "GatedRepoError" in kinds:
        return ModelError(
            f"Model '{hub_id}' is gated: your account has not been given access.",
            f"Ask for access at https://huggingface.co/{hub_id} and set HF_TOKEN. {ways_on}",
        )
    if "RepositoryNotFoundError" in kinds:
        return ModelError(
            f"The hub has no model '{hub_id}', or it is private and HF_TOKEN does not open it.", ways_on
        )
    if "LocalEntryNotFoundError" in kinds:
        from huggingface_hub import constants

        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        return ModelError(
            f"Model '{hub_id}' is no folder here and not whole in the local hub cache, and {why}.", ways_on
        )
    first = (str(error).splitlines() or [""])[0]
    return ModelError(f"Model '{hub_id}' could not be fetched: {type(error).__name__}: {first}", ways_on)


def _reporting_bar(what: str, progress: Progress) -> type[Any]:
    """Return a tqdm class that draws nothing and passes the byte counter on."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

    class ReportingBar(tqdm):  # type: ignore[misc]  # for the same reason
        def display(self, *_: object, **__: object) -> None:
            if self.unit == "B":  # the other bar counts files
                progress(what, float(self.n), float(self.total or 0))

    return ReportingBar
