"""A Modelfile for Ollama, and the lines that run an exported model in each runtime.

Written from Ollama's source (parser/parser.go, server/images.go of August 2026); untested in a real Ollama.
Ollama 0.30 and later use the chat template inside the GGUF file when the Modelfile has no TEMPLATE, so none
is written. Older versions guess one and often guess wrong: give ``template`` (Go's template language) there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ft_magic.errors import ExportError, nearest
from ft_magic.export.describe import describe, special_tokens

NAME = "Modelfile"


@dataclass(frozen=True)
class RunLines:
    """Shell lines that run an exported model.

    Attributes:
        llama_cpp: chat in the terminal.
        llama_cpp_server: an OpenAI-compatible server with a web page.
        ollama: register the model from its Modelfile, then chat; needs Ollama 0.30 or later.
        vllm: an OpenAI-compatible server on a GPU; empty where no merged folder is given, since vLLM reads
            that and no longer GGUF files by itself.
    """

    llama_cpp: str
    llama_cpp_server: str
    ollama: str
    vllm: str


def modelfile(
    gguf: Path, *, stops: Sequence[str], num_ctx: int, system: str | None = None, template: str | None = None
) -> str:
    """Return the text of a Modelfile that lies beside a GGUF file. Untested in a real Ollama.

    Args:
        gguf: the model file; the Modelfile names it relative to itself.
        stops: texts that end an answer, each one special token of the model.
        num_ctx: context length in tokens.
        system: system prompt used when a conversation brings none.
        template: Go template for Ollama before 0.30; None leaves the file's own chat template in force.

    Raises:
        ExportError: a stop is no single special token, the context is longer than the model's, a text cannot
            be written in a Modelfile, or the file has no chat template and none is given.
    """
    info = describe(gguf)
    _check_stops(gguf, stops)
    if not 0 < num_ctx <= (info.context_tokens or num_ctx):
        raise ExportError(
            f"num_ctx is {num_ctx}, and the model was made for 1 to {info.context_tokens} tokens.",
            f"Write at most num_ctx={info.context_tokens}.",
        )
    if not info.chat_template and template is None:
        raise ExportError(
            f"'{gguf.name}' has no chat template, so Ollama would pass on the bare text.",
            "Convert a folder with a chat template, or give template=... in Go's template language.",
        )
    lines = [f"FROM {_quoted('./' + gguf.name, 'the file name')}"]
    lines += [f"PARAMETER stop {_quoted(stop, 'a stop')}" for stop in stops]
    lines.append(f"PARAMETER num_ctx {num_ctx}")
    if template is not None:
        lines.append(f"TEMPLATE {_triple_quoted(template, 'the template')}")
    if system:
        lines.append(f"SYSTEM {_triple_quoted(system, 'the system prompt')}")
    return "\n".join(lines) + "\n"


def write_modelfile(
    gguf: Path,
    *,
    stops: Sequence[str],
    num_ctx: int,
    system: str | None = None,
    template: str | None = None,
    name: str = NAME,
) -> Path:
    """Write a Modelfile beside a GGUF file and return its path; arguments and errors as in ``modelfile``."""
    text = modelfile(gguf, stops=stops, num_ctx=num_ctx, system=system, template=template)
    path = gguf.with_name(name)
    part = path.with_name(f".{name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
    return path


def run_lines(gguf: Path, *, merged: Path | None = None, name: str | None = None) -> RunLines:
    """Return the shell lines that run an exported model.

    Args:
        gguf: the model file.
        merged: folder of the merged model, which vLLM reads.
        name: name to register with Ollama; from the file's name if not given.
    """
    file = shlex.quote(str(gguf))
    # Ollama's names: letters, digits, and . _ - inside.
    model = re.sub(r"[^a-z0-9._-]+", "-", (name or gguf.stem).lower()).strip("._-") or "model"
    folder = shlex.quote(str(gguf.parent / NAME))
    return RunLines(
        llama_cpp=f"llama-cli -m {file}",
        llama_cpp_server=f"llama-server -m {file} --port 8080",
        ollama=f"ollama create {model} -f {folder} && ollama run {model}",
        vllm=f"vllm serve {shlex.quote(str(merged))}" if merged else "",
    )


def _check_stops(gguf: Path, stops: Sequence[str]) -> None:
    if isinstance(stops, str) or not stops:
        raise ExportError(
            f"stops is {stops!r}; an answer needs at least one text that ends it.",
            "Give a list, e.g. stops=['<|im_end|>'].",
        )
    known = special_tokens(gguf)
    wrong = [stop for stop in stops if stop not in known]
    if wrong:
        raise ExportError(
            f"stop '{wrong[0]}' is no single special token of '{gguf.name}'.{nearest(wrong[0], known)}",
            f"The file's own are: {', '.join(describe(gguf).stop_tokens) or 'none'}.",
        )


def _quoted(text: str, what: str) -> str:
    """Return a text in quotes. Ollama takes off the outer ones and knows no escapes."""
    if "\n" in text or text.startswith('""'):
        raise ExportError(
            f"{what} {text!r} cannot be written in a Modelfile.", "Use a text without line breaks and quotes."
        )
    return f'"{_printable(text, what)}"'


def _triple_quoted(text: str, what: str) -> str:
    """Return a text of any number of lines between triple quotes, which it must not hold itself."""
    if '"""' in text:
        raise ExportError(
            f'{what} holds """, which ends a text in a Modelfile.', "Write it with other quotes, e.g. '''."
        )
    return f'"""{_printable(text, what)}"""'


def _printable(text: str, what: str) -> str:
    """Return the text if Ollama keeps every character: it drops those that do not print, without a word."""
    lost = sorted({char for char in text if not (char.isprintable() or char in "\n\t\r")})
    if lost:
        raise ExportError(
            f"{what} holds {', '.join(repr(char) for char in lost[:5])}, which Ollama drops.",
            "Replace such characters by ones that print.",
        )
    return text
