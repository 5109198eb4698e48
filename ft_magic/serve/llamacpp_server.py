"""llama.cpp's own server in a process of its own: ``python -m ft_magic.serve.llamacpp_server GGUF``.

A process, because a broken file can end llama.cpp with a signal, and the notebook must survive that. It
prints one JSON line with its address when it is ready, and ends when its standard input closes: it never
outlives its parent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

KEY_VARIABLE = "FT_MAGIC_SERVER_KEY"
_LOG_S = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Serve one GGUF file on a free local port until standard input closes."""
    parser = argparse.ArgumentParser(prog="ft_magic.serve.llamacpp_server", description=main.__doc__)
    parser.add_argument("gguf")
    parser.add_argument("--ctx", type=int, default=2048, help="context in tokens")
    parser.add_argument("--threads", type=int, default=1, help="threads for prompts and answers")
    given = parser.parse_args(arguments)
    started_s = time.monotonic()
    try:
        server = start(given.gguf, given.ctx, given.threads)
    except RuntimeError:
        time.sleep(_LOG_S)  # llama.cpp's log is written by a thread of its own, and it says why
        raise
    ready = {"address": server.listening_address, "load_s": round(time.monotonic() - started_s, 3)}
    print(json.dumps(ready), flush=True)
    sys.stdin.buffer.read()
    # The server's own threads would keep a normal exit waiting for open connections.
    os._exit(0)


def start(gguf: str, context_tokens: int, threads: int) -> Any:
    """Load a file into an in-process llama.cpp server and return the server.

    Raises:
        RuntimeError: llama.cpp cannot load the file; its own error lines are on standard error.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.n_ctx = context_tokens
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.verbosity = 1  # errors only; they are what a failed start shows to the user
    params.warmup = False
    params.fit_params = False  # the context is as asked, never silently smaller
    params.cache_ram_mib = 0  # default 8192: old prompts kept in memory, of no use to one conversation
    params.force_pure_content_parser = True  # the text as generated, with nothing parsed out of it
    params.ui = False
    # Other users of the machine can reach a local port; the key stays between parent and child.
    params.api_keys = [key] if (key := os.environ.pop(KEY_VARIABLE, "")) else []
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(main())
