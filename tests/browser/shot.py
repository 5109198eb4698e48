"""Look at notebooks and pages in a real browser: screenshots of JupyterLab and of HTML files, light and dark.

    python tests/browser/shot.py notebooks/00_raw_to_model.ipynb --out /tmp/shots            (light and dark)
    python tests/browser/shot.py notebook.ipynb --run --trust --theme dark
    python tests/browser/shot.py notebook.ipynb --element .js-plotly-plot          (the first chart, twice as sharp)
    python tests/browser/shot.py ft_runs/run/report.html

Needs Debian's chromium (or $CHROMIUM) and an environment with jupyterlab; drives the browser by its own
debugging protocol through ``websocket-client``, which jupyter-server brings along. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
# Without the background-networking flags a browser in a closed network retries for ever.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--mute-audio",
    "--remote-debugging-port=0", "--remote-allow-origins=*",
)  # fmt: skip
# Chromium cannot capture a picture taller than this in one piece.
TALLEST = 15_000
WIDTH = 1180
KERNEL = "[...window.jupyterapp.shell.widgets('main')][0].sessionContext.session.kernel"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


class Browser:
    """One headless page."""

    def __init__(self, chromium: str = CHROMIUM) -> None:
        import websocket

        self._folder = tempfile.mkdtemp(prefix="shot-")
        command = [chromium, *FLAGS, f"--user-data-dir={self._folder}", "about:blank"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        port_file = Path(self._folder, "DevToolsActivePort")
        _until(
            lambda: port_file.exists() and port_file.read_text().count("\n") >= 1,
            30,
            "chromium did not start",
        )
        port = port_file.read_text().split("\n")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        self._socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=120)
        self._number = 0
        self.call("Page.enable")
        self.size(WIDTH, 900)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):
            self._socket.close()
        _end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method: str, **params):
        """Send one command of the debugging protocol and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def js(self, expression: str):
        """Evaluate an expression in the page, awaiting promises, and return its value."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(
                answer["exceptionDetails"].get("exception", {}).get("description", "error in page")
            )
        return answer["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 60) -> None:
        """Wait until an expression is true in the page."""
        _until(lambda: _quietly(self, condition), timeout_s, f"the page never came to: {condition}")

    def open(self, url: str, *, dark: bool = False) -> None:
        """Open an address, as a user who prefers dark pages if asked."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait("document.readyState == 'complete'")

    def size(self, width: int, height: int) -> None:
        """Set the window's size in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def shot_element(self, path: Path, selector: str) -> Path:
        """Save a picture of the first element that a CSS selector finds, twice as sharp as a screen."""
        box = self.js(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
        clip = {key: box[key] for key in ("x", "y", "width", "height")}
        answer = self.call(
            "Page.captureScreenshot", format="png", clip=clip | {"scale": 2}, captureBeyondViewport=True
        )
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def shot(self, path: Path, height: int) -> list[Path]:
        """Save a picture of the page's first ``height`` pixels, in several files if it is very tall."""
        pieces = math.ceil(height / TALLEST)
        paths = [path if pieces == 1 else path.with_stem(f"{path.stem}-{i + 1}") for i in range(pieces)]
        for i, piece in enumerate(paths):
            clip = {
                "x": 0,
                "y": i * TALLEST,
                "width": WIDTH,
                "height": min(TALLEST, height - i * TALLEST),
                "scale": 1,
            }
            answer = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
            piece.write_bytes(base64.b64decode(answer["data"]))
        return paths


@contextlib.contextmanager
def lab(folder: Path, theme: str = "light"):
    """Serve a folder with JupyterLab in the given theme; yields its address."""
    with tempfile.TemporaryDirectory(prefix="lab-") as scratch:
        settings = {
            "apputils-extension/themes": {"theme": THEMES[theme], "adaptive-theme": False},
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            # Draw every cell at once, so that one tall picture holds them all.
            "notebook-extension/tracker": {"windowingMode": "none"},
        }
        for name, values in settings.items():
            path = Path(scratch, "settings", "@jupyterlab", f"{name}.jupyterlab-settings")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        port = _free_port()
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1",
            "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True",
            "--ServerApp.port_retries=0",
        ]  # fmt: skip
        env = os.environ | {
            "JUPYTERLAB_SETTINGS_DIR": str(Path(scratch, "settings")),
            "JUPYTERLAB_WORKSPACES_DIR": str(Path(scratch, "workspaces")),
            "JUPYTER_RUNTIME_DIR": str(Path(scratch, "runtime")),
            "JUPYTER_CONFIG_DIR": str(Path(scratch, "config")),
        }
        log = Path(scratch, "log.txt")
        with log.open("wb") as out:
            server = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
            try:
                address = f"http://127.0.0.1:{port}"
                _until(lambda: _answers(f"{address}/api"), 60, "JupyterLab did not start", log)
                yield address
            finally:
                _end(server)


@contextlib.contextmanager
def opened(
    notebook: Path,
    *,
    theme: str = "light",
    run: bool = False,
    trust: bool = False,
    run_s: float = 900,
    ended: bool = True,
):
    """Open a copy of a notebook in JupyterLab and yield the page.

    Args:
        notebook: the file; it is copied, together with nothing else, and never written.
        theme: ``light`` or ``dark``.
        run: run all cells first.
        trust: open it as a trusted notebook; saved notebooks from elsewhere are untrusted.
        run_s: longest time the cells may take, in seconds.
        ended: whether to wait until all cells have run.
    """
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        copy = Path(shutil.copy(notebook, folder))
        if trust:
            command = [sys.executable, "-m", "jupyter", "trust", str(copy)]
            subprocess.run(command, check=True, capture_output=True)
        with lab(Path(folder), theme) as address, Browser() as page:
            page.open(f"{address}/doc/tree/{copy.name}", dark=theme == "dark")
            page.wait(
                "document.querySelectorAll('.jp-Cell').length > 0 && !document.querySelector('#jupyterlab-splash')"
            )
            if run:
                # Run before the kernel is there, JupyterLab asks which kernel to take.
                page.wait(f"{KERNEL}.connectionStatus == 'connected' && {KERNEL}.status == 'idle'")
                run_all = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
                page.js(f"void {run_all}.then(() => {{ window.ranAll = true; }})")
            if run and ended:
                page.wait("window.ranAll === true", run_s)
                busy = (
                    "[...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('*'))"
                )
                page.wait(f"!{busy}", run_s)
            yield page


def shoot_notebook(notebook: Path, out: Path, *, element: str = "", **how) -> list[Path]:
    """Save pictures of a notebook in JupyterLab: all of it, or one element; ``how`` is what ``opened`` takes."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{notebook.stem}-{how.get('theme', 'light')}.png"
    with opened(notebook, **how) as page:
        height = settle_notebook(page)
        return [page.shot_element(path, element)] if element else page.shot(path, height)


def settle_notebook(page: Browser) -> int:
    """Make the window as tall as the notebook in it and return the height in pixels."""
    outer = "document.querySelector('.jp-WindowedPanel-outer')"
    # Not scrollHeight: JupyterLab lets one scroll past the end by a window's height.
    height = _settle(
        page,
        "[...document.querySelectorAll('.jp-Cell')].at(-1).getBoundingClientRect().bottom"
        f" + {outer}.scrollTop + 40",
    )
    page.js(f"{outer}.scrollTop = 0")  # cells that ran have pulled the notebook down to the last of them
    time.sleep(1)
    return height


def shoot_page(file: Path, out: Path, *, theme: str = "light") -> list[Path]:
    """Save a picture of all of an HTML file, as a user who prefers the theme sees it."""
    out.mkdir(parents=True, exist_ok=True)
    with Browser() as page:
        page.open(file.absolute().as_uri(), dark=theme == "dark")
        height = _settle(page, "document.documentElement.scrollHeight")
        return page.shot(out / f"{file.stem}-{theme}.png", height)


def _settle(page: Browser, height: str) -> int:
    """Make the window as tall as its content, until the content's height no longer changes."""
    before = 0
    for _ in range(20):
        time.sleep(1)
        now = int(page.js(height))
        if now == before:
            return now
        before = now
        page.size(WIDTH, max(min(now, TALLEST), 400))
    return before


def _quietly(page: Browser, condition: str) -> bool:
    try:
        return bool(page.js(condition))
    except RuntimeError:
        return False  # the page is still loading


def _until(ready, timeout_s: float, problem: str, log: Path | None = None) -> None:
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            said = log.read_text()[-2000:] if log else ""
            raise TimeoutError(f"{problem} within {timeout_s:.0f} s\n{said}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end(process: subprocess.Popen) -> None:
    """End a process and what it started: it has a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="notebooks or HTML files")
    parser.add_argument("--out", type=Path, default=Path("shots"), help="folder of the pictures")
    parser.add_argument("--theme", choices=[*THEMES, "both"], default="both")
    parser.add_argument("--run", action="store_true", help="run all cells first (notebooks)")
    parser.add_argument("--trust", action="store_true", help="open as a trusted notebook")
    parser.add_argument("--element", default="", help="CSS selector of the one thing to show (notebooks)")
    given = parser.parse_args()
    for file in given.files:
        for theme in THEMES if given.theme == "both" else (given.theme,):
            if file.suffix == ".ipynb":
                paths = shoot_notebook(
                    file, given.out, theme=theme, run=given.run, trust=given.trust, element=given.element
                )
            else:
                paths = shoot_page(file, given.out, theme=theme)
            print(*paths, sep="\n")


if __name__ == "__main__":
    main()
