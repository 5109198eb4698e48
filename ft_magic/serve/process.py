"""The llama.cpp child process: started, asked, noticed when dead, never left behind."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import weakref
from collections.abc import Generator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from ft_magic.errors import ExportError
from ft_magic.serve.llamacpp_server import KEY_VARIABLE

# A 20 GB file on a slow disk takes minutes to load, a long prompt on a slow processor minutes to read.
START_TIMEOUT_S = 600.0
REQUEST_TIMEOUT_S = 600.0
# llama.cpp's threads meet many times a token. Spinning there, the default, is faster on an idle machine (48
# tokens of the 135M model on two cores: 0.3 s against 0.55) and ruinous beside any other work (10 to 44 s
# against 0.54).
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}


class ServerProcess:
    """One GGUF file in one llama.cpp process, asked by ``urllib`` over a local port.

    Args:
        gguf: the file.
        context_tokens: context to reserve.
        threads: processor threads.

    Raises:
        ExportError: no such file, not a GGUF file, no runtime installed, or llama.cpp cannot load the file.
    """

    def __init__(self, gguf: Path, context_tokens: int, threads: int) -> None:
        check_file(gguf)
        self.gguf = gguf
        self._key = secrets.token_hex(16)
        # 127.0.0.1 must never go through a proxy that the environment names for the rest of the world.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process writes to it
        self._process = _spawn(gguf, context_tokens, threads, self._key, self._errors)
        self._end = weakref.finalize(self, _end_process, self._process)
        ready = self._wait_until_ready()
        self.load_s = float(ready["load_s"])
        self._address = str(ready["address"])

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process and free its memory; again is harmless."""
        self._end()
        self._errors.close()

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send one request (GET without a body) and return its JSON answer.

        Raises:
            ExportError: llama.cpp refused the request, gave no answer, or has ended.
        """
        with self._open(path, body) as response:
            try:
                return dict(json.load(response))
            except (OSError, HTTPException, ValueError) as error:
                raise self._broken(error) from error

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Send one request and yield the JSON of each server-sent event as it comes.

        Raises:
            ExportError: llama.cpp refused the request, broke off, or has ended.
        """
        with self._open(path, body) as response:
            try:
                for line in response:
                    if line.startswith(b"data: {"):
                        yield json.loads(line[6:])
                    elif line.startswith(b"data: [DONE]"):
                        return
            except (OSError, HTTPException, ValueError) as error:
                raise self._broken(error) from error
            raise self._broken(None)

    def _open(self, path: str, body: Mapping[str, Any] | None) -> Any:
        if not self.alive:
            raise self._broken(None)
        request = urllib.request.Request(  # noqa: S310 - the address is our own child's, on this machine
            self._address + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        try:
            return self._opener.open(request, timeout=REQUEST_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            raise _refused(error) from error
        except (OSError, HTTPException) as error:
            raise self._broken(error) from error

    def _wait_until_ready(self) -> dict[str, Any]:
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        output = self._process.stdout
        assert output is not None
        threading.Thread(target=lambda: lines.put(output.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            self.close()
            raise ExportError(
                f"llama.cpp did not finish loading {self.gguf.name} in {START_TIMEOUT_S:.0f} s.",
                "Try a smaller file type (q4_k_m), or a disk that is not on the network.",
            ) from None
        except BaseException:
            self.close()
            raise
        if line:
            return dict(json.loads(line))
        code = self._process.wait()
        raise _start_failure(self.gguf, code, _last_lines(self._errors))

    def _broken(self, error: Exception | None) -> ExportError:
        """Return the error for a request without an answer: has the process ended, or not?"""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            problem = f"llama.cpp gave no usable answer for {self.gguf.name} ({error or 'it broke off'})."
            return ExportError(problem, "Ask for fewer tokens, or load the file again.")
        if self._errors.closed:
            return ExportError(f"The runtime of {self.gguf.name} was closed.", "Open it again to go on.")
        last = _last_lines(self._errors)
        return ExportError(
            f"llama.cpp ended ({_exit_text(code)}) while {self.gguf.name} was in use. {last}".rstrip(),
            "Load the file again; where memory ran out, take a smaller file type or context_tokens.",
        )


def check_file(gguf: Path) -> None:
    """Refuse what cannot be loaded before a process is started for it.

    Raises:
        ExportError: no such file, not a GGUF file, or the runtime is not installed.
    """
    if not gguf.is_file():
        raise ExportError(
            f"No file {gguf}.", "Give the path of a .gguf file; an export writes them into RUN/gguf/."
        )
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ExportError(
                f"{gguf} is not a GGUF file (its first bytes are not 'GGUF').", "Export the run again."
            )
    if importlib.util.find_spec("xllamacpp") is None:
        raise ExportError(
            "The llama.cpp runtime (package xllamacpp) is not installed.", "Run: pip install 'ft-magic[gguf]'"
        )


def _spawn(
    gguf: Path, context_tokens: int, threads: int, key: str, errors: IO[bytes]
) -> subprocess.Popen[bytes]:
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [
        sys.executable, "-m", "ft_magic.serve.llamacpp_server", str(gguf.resolve()),
        "--ctx", str(context_tokens), "--threads", str(threads),
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=WAITING | os.environ | {KEY_VARIABLE: key, "PYTHONPATH": os.pathsep.join(paths)},
        # Interrupting a cell signals the notebook's whole process group; the runtime must survive that.
        start_new_session=True,
    )


def _end_process(process: subprocess.Popen[bytes]) -> None:
    """Close the child's input, which ends it; kill it where that does not help."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# The head of a traceback, its indented frames, and the error it ends with.
_TRACEBACK = re.compile(r"Traceback \(most|\s{2,}|(?!ModuleNotFound|Import)\w*(?:Error|Exception)\b")


def _last_lines(errors: IO[bytes], count: int = 6) -> str:
    """Return the last lines the child wrote to standard error, without the clock of llama.cpp's log."""
    errors.seek(0)
    text = errors.read().decode(errors="replace")
    # Where llama.cpp said why, Python's traceback adds nothing; its log comes from a thread, so before, amid or after.
    said = [
        re.sub(r"^[\d.]+ [EW] ", "", line)
        for line in text.splitlines()
        if line.strip() and not _TRACEBACK.match(line) and "send_error" not in line
    ]
    return " | ".join([line.strip() for line in said or text.splitlines() if line.strip()][-count:])


def _exit_text(code: int) -> str:
    if code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _start_failure(gguf: Path, code: int, last: str) -> ExportError:
    problem = f"llama.cpp could not load {gguf.name} ({_exit_text(code)})."
    # SIGILL is POSIX signal 4; Windows reports 0xC000001D for the same.
    if code in (-4, 0xC000001D):
        return ExportError(
            problem,
            "This processor lacks AVX2, which the prebuilt runtime needs; run the file on another machine.",
        )
    if "ModuleNotFoundError" in last or "ImportError" in last:
        return ExportError(f"{problem} {last}", "Run: pip install --force-reinstall 'ft-magic[gguf]'")
    return ExportError(
        f"{problem} Its last words: {last or 'none'}",
        "The file may be cut short (compare its size, export it again) or the memory too small.",
    )


def _refused(error: urllib.error.HTTPError) -> ExportError:
    """Turn an HTTP error of llama.cpp into one of ours, with the context error in plain words."""
    text = error.read().decode(errors="replace")
    try:
        said = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        said = {"message": text[:300]}
    if said.get("type") == "exceed_context_size_error":
        return ExportError(
            f"The prompt has {said['n_prompt_tokens']} tokens, but the context holds {said['n_ctx']}.",
            "Shorten the prompt, or load the file with a larger context_tokens.",
        )
    return ExportError(
        f"llama.cpp refused the request (HTTP {error.code}): {said.get('message', text[:300])}"
    )
