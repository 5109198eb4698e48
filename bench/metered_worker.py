"""Stands in for the worker's Python interpreter: the same worker, with the meter among the trainer's callbacks.

Called as ``metered_worker.py -m ft_magic.worker RUN_FOLDER`` through the spec's key ``python``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from meter import Meter
from transformers import trainer

from ft_magic import worker
from ft_magic.backends import cross_entropy, matmul
from ft_magic.backends.watch import Watch

_TELLING = ("on_step_begin", "on_step_end", "on_log")


class WorkerMeter(Meter):
    """Notes also how long telling events and looking for requests takes in each step."""

    def __init__(self, result: str, began_t: float) -> None:
        super().__init__(result, began_t)
        self.telling_s = 0.0

    def more(self) -> dict:
        return {"telling_s": self.telling_s}

    def timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method with its time added to ``telling_s``."""

        def call(*given: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*given, **named)
            finally:
                self.telling_s += time.perf_counter() - begun

        return call


def switch_off(ways: list[str]) -> None:
    """Take away ways to save time, to see what each is worth; what the environment decides, ``metered_python`` does."""
    if "matmul" in ways:
        os.environ[matmul.SWITCH] = "torch"
    if "loss" in ways:
        cross_entropy.use_own = lambda: False


def main() -> int:
    switch_off(os.environ.get("FT_MAGIC_BENCH_WITHOUT", "").split(","))
    meter = WorkerMeter(os.environ["FT_MAGIC_BENCH_RESULT"], float(os.environ["FT_MAGIC_BENCH_BEGAN_T"]))
    for name in _TELLING:
        setattr(Watch, name, meter.timed(getattr(Watch, name)))
    trainer.DEFAULT_CALLBACKS.append(meter)
    return worker.main(sys.argv[3:])


if __name__ == "__main__":
    raise SystemExit(main())
