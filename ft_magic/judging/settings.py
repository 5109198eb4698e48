"""What judges: a local model, a reward run or an OpenAI-compatible endpoint, and by which criteria."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ft_magic import models
from ft_magic.errors import SpecError, nearest
from ft_magic.paths import runs_dir
from ft_magic.progress import Progress

CRITERIA = "It does what was asked, is correct, and says no more than is needed."
_KEYS = ("model", "base_url", "key_env", "criteria", "parameters", "parallel")
_KEY_ENV = re.compile(r"[A-Z_][A-Z0-9_]*")
_SENDABLE = re.compile(r"[\x21-\x7e]+")
_PARALLEL = 4  # requests at a time: OpenAI's lowest paid tier allows 500 a minute, about 8 of one second each
_HOW = (
    "Write judge: demo, a hub id, a folder, $run, or {base_url: http://..., model: name, key_env: VARIABLE}."
)


@dataclass(frozen=True)
class LocalModel:
    """A model that this machine loads.

    Attributes:
        name: as the user wrote it.
        base: model folder.
        adapter: adapter folder over it, or None.
        bits: 4 when the base is NF4-quantized, else 0.
        precision: fp32, bf16, fp16, or ``auto`` for what the device is good at.
    """

    name: str
    base: str
    adapter: str | None = None
    bits: int = 0
    precision: str = "auto"

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes its replies repeatable: the files' sizes and times stand for their content."""
        return ("local", self.bits, self.precision, _states(self.base, self.adapter))


@dataclass(frozen=True)
class RewardRun:
    """A finished reward run: two answers are compared by its scores.

    Attributes:
        name: of the run.
        path: its folder.
    """

    name: str
    path: str

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes its replies repeatable."""
        return ("reward", _states(f"{self.path}/adapter", f"{self.path}/model"))


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server.

    Attributes:
        base_url: up to and with ``/v1``.
        name: the model's name there.
        key_env: environment variable that holds the key; None for servers without one.
        parameters: fields of the request beside the messages.
        parallel: requests at a time.
    """

    base_url: str
    name: str
    key_env: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    parallel: int = _PARALLEL

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes its replies repeatable."""
        return ("endpoint", self.base_url, self.name, sorted(self.parameters.items()))

    def key(self) -> str | None:
        """Return the key from the environment; it is never stored or shown.

        Raises:
            SpecError: the variable is not set, or holds what no header can carry.
        """
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise SpecError(
                f"judge: the environment variable {self.key_env} is not set.",
                f"Set it before, for example in a terminal: export {self.key_env}=...",
            )
        # HTTP libraries repeat a header they cannot send in their error, and with it the key.
        if not _SENDABLE.fullmatch(key):
            raise SpecError(
                f"judge: {self.key_env} holds no key: spaces or special characters.", "Set it again."
            )
        return key


@dataclass(frozen=True)
class Judge:
    """Who judges, by which criteria."""

    source: LocalModel | Endpoint | RewardRun
    criteria: str = CRITERIA

    @property
    def name(self) -> str:
        """Its model's name."""
        return self.source.name

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that ``from_dict`` reads, in another process too."""
        return {"criteria": self.criteria, "source": asdict(self.source)}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Judge:
        """Read what ``to_dict`` returned."""
        source = raw["source"]
        kind: type[LocalModel | Endpoint | RewardRun] = (
            Endpoint if "base_url" in source else LocalModel if "base" in source else RewardRun
        )
        return Judge(kind(**source), raw["criteria"])


def described(value: Any) -> Any:
    """Return a judge as the spec keeps it: text or a mapping; a run becomes its name."""
    if isinstance(value, Mapping):
        return {key: described(part) if key == "model" else part for key, part in value.items()}
    return value.name if _is_run(value) else value


def read(value: Any, criteria: str | None = None, progress: Progress | None = None) -> Judge:
    """Return the judge a user named.

    Args:
        value: ``demo``, a hub id, a folder, a ``Run`` or its name; or a mapping with ``model``, ``criteria``,
            and for an endpoint ``base_url``, ``key_env``, ``parameters``, ``parallel``.
        criteria: what a better answer is; by default the mapping's, or ``CRITERIA``.
        progress: told how far a download is.

    Raises:
        SpecError: it cannot be understood.
        ModelError: there is no such model.
    """
    given = dict(value) if isinstance(value, Mapping) else {"model": value}
    _check_keys(given)
    asked = criteria or given.get("criteria")
    if asked is not None and not isinstance(asked, str):
        raise SpecError(f"judge: criteria is a {type(asked).__name__}.", "Write a sentence.")
    if "base_url" in given:
        return Judge(_endpoint(given), asked or CRITERIA)
    for key in ("key_env", "parameters", "parallel"):
        if key in given:
            raise SpecError(f"judge: {key} belongs to an endpoint, and no base_url is given.", _HOW)
    source = _local(given["model"], progress)
    if not isinstance(source, RewardRun):
        return Judge(source, asked or CRITERIA)
    if asked:
        raise SpecError(
            f"judge: run {source.name} is a reward model; it has learned its criteria and reads none.",
            "Leave criteria out, or name a model that answers.",
        )
    return Judge(source, f"what reward run {source.name} learned")


def check(value: Any, progress: Progress | None = None) -> None:
    """See that a judge can be asked, before anything is made for it.

    Raises:
        SpecError: it cannot be understood, or the key's environment variable is not set.
        ModelError: there is no such model.
    """
    source = read(value, progress=progress).source
    if isinstance(source, Endpoint):
        source.key()


def _check_keys(given: Mapping[str, Any]) -> None:
    for key in given:
        if key not in _KEYS:
            # The value may be a secret, so it is not shown.
            hint = nearest(str(key), _KEYS) if "key" not in str(key) else ""
            raise SpecError(
                f"judge: unknown key '{key}'.{hint}",
                f"Keys: {', '.join(_KEYS)}. A secret key stays in an environment variable: key_env: ITS_NAME.",
            )
    if not given.get("model"):
        raise SpecError("judge: no model is named.", _HOW)


def _endpoint(given: Mapping[str, Any]) -> Endpoint:
    url, key_env, parallel = given["base_url"], given.get("key_env"), given.get("parallel", _PARALLEL)
    parts = urlsplit(str(url))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError("judge: base_url is no http address.", "Write base_url: http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise SpecError(
            "judge: base_url holds a user, password or query, which would be kept in the run's files.",
            "Put the key in an environment variable and write key_env: ITS_NAME.",
        )
    if key_env is not None and not _KEY_ENV.fullmatch(str(key_env)):
        raise SpecError(
            "judge: key_env is no name of an environment variable (capitals, digits, underscores).",
            "Write the variable's name, as OPENAI_API_KEY, never the key itself.",
        )
    if not isinstance(given["model"], str):
        raise SpecError("judge: model is no name the endpoint could know.", _HOW)
    if not isinstance(parallel, int) or parallel < 1:
        raise SpecError(f"judge: parallel is {parallel!r}.", "Write how many requests run at a time, as 4.")
    parameters = given.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise SpecError("judge: parameters is no mapping.", "Write parameters: {max_tokens: 16}.")
    address = str(url).rstrip("/").removesuffix("/chat/completions")
    return Endpoint(address, given["model"], key_env, dict(parameters), parallel)


def _local(value: Any, progress: Progress | None) -> LocalModel | RewardRun:
    from ft_magic.run import Run

    if isinstance(value, str) and (runs_dir() / value / "run.json").is_file():
        value = Run(runs_dir() / value)
    if isinstance(value, Run):
        if value.plan.method.score_head:
            value.require_result()
            return RewardRun(value.name, str(value.path))
        return LocalModel(value.name, **value.model_reference())
    if not isinstance(value, str | Path):
        raise SpecError(f"judge: a {type(value).__name__} is no model.", _HOW)
    return LocalModel(str(value), str(models.resolve(str(value), progress=progress)))


def _states(*folders: str | None) -> list[tuple[str, int, int]]:
    """Return name, size and time of every file of the folders that exist."""
    places = [Path(folder) for folder in folders if folder is not None and Path(folder).is_dir()]
    files = sorted(file for place in places for file in place.iterdir() if file.is_file())
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _is_run(value: Any) -> bool:
    from ft_magic.run import Run

    return isinstance(value, Run)
