"""A real kernel in a process of its own, driven as a front end drives it."""

import os
import queue
import sys
import time
from contextlib import contextmanager

import jupyter_client
import pytest

TIMEOUT_S = 60


class Kernel:
    """A started kernel and what it answers."""

    def __init__(self, manager, client):
        self.manager, self.client = manager, client

    def run(self, code):
        """Run a cell and return its outputs: (type, text/plain or error lines)."""
        sent = self.client.execute(code)
        outputs = []
        while True:
            message = self.client.get_iopub_msg(timeout=TIMEOUT_S)
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return outputs
            if kind in ("execute_result", "display_data"):
                outputs.append((kind, content["data"].get("text/plain", "")))
            elif kind == "error":
                outputs.append((kind, content["traceback"]))
            elif kind == "stream":
                outputs.append((kind, content["text"]))

    def complete(self, code):
        """Return the completions at the end of ``code``."""
        sent = self.client.complete(code, len(code))
        while True:
            try:
                reply = self.client.get_shell_msg(timeout=TIMEOUT_S)
            except queue.Empty:
                pytest.fail("no completion came")
            if reply["parent_header"].get("msg_id") == sent:
                return reply["content"]["matches"]

    def start(self, code):
        """Send a cell without waiting for its end; return its message id."""
        return self.client.execute(code)

    def outputs(self, sent, timeout_s=TIMEOUT_S):
        """Return the outputs of a cell sent with ``start`` once it has ended: (type, whole mime bundle or text)."""
        found, deadline = [], time.monotonic() + timeout_s
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return found
            if kind in ("execute_result", "display_data", "update_display_data"):
                found.append((kind, content))
            elif kind == "error":
                found.append((kind, "\n".join(content["traceback"])))
            elif kind == "stream":
                found.append((kind, content["text"]))


@contextmanager
def started(runs, **more):
    """Give a kernel whose runs folder is ``runs``."""
    environment = os.environ | {"FT_MAGIC_RUNS": str(runs), "JUPYTER_PLATFORM_DIRS": "1"} | more
    manager = jupyter_client.KernelManager()
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager.start_kernel(env=environment)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT_S)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
