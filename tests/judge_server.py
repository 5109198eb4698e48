"""A stand-in for an OpenAI-compatible endpoint: answers from a script, on this machine, in a thread."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHOWN = re.compile(r"Request:\n(.*?)\n\nAnswer A:\n(.*?)\n\nAnswer B:\n(.*?)\n\nWhich", re.DOTALL)


class JudgeServer:
    """What was asked, and what is answered.

    ``answer(text)`` returns a reply's text, or (status, body, headers).
    """

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.url = ""
        self._lock = threading.Lock()

    def reply(
        self, path: str, headers: dict[str, str], body: dict[str, Any]
    ) -> tuple[int, Any, dict[str, str]]:
        with self._lock:  # one at a time, so that scripts of answers are deterministic
            self.paths.append(path)
            self.headers.append(headers)
            self.bodies.append(body)
            said = self.answer(body["messages"][0]["content"])
        if isinstance(said, str):
            return 200, {"choices": [{"message": {"role": "assistant", "content": said}}]}, {}
        return said


@contextmanager
def serving(answer: Callable[[str], Any]):
    """Give a running JudgeServer."""
    script = JudgeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, value, headers = script.reply(self.path, dict(self.headers), body)
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def longer(text: str) -> str:
    """Prefer the longer answer, the first one where both are as long."""
    _, a, b = SHOWN.search(text).groups()
    return "A" if len(a) >= len(b) else "B"
