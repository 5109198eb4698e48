"""A shortage of memory: how it shows, and what it leaves behind. Light: torch is never imported here."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ft_magic.errors import RunError

# How allocators say that there is no more: torch on a GPU, torch on a CPU, cuBLAS and cuDNN (whose workspaces come
# from the driver), C++ (libraries without words of their own), bitsandbytes and the driver itself.
_WORDS = (
    "out of memory", "can't allocate memory", "not enough memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED", "std::bad_alloc", "cudaErrorMemoryAllocation",
)  # fmt: skip
# oneDNN names no cause. What it cannot do it refuses with its descriptor; a kernel or a buffer that cannot be made
# after that is memory that could not be had (seen with a limited address space).
_ONEDNN = re.compile(r"could not create a (primitive(?! desc)|memory)")


class ShortageError(RunError, MemoryError):
    """Something did not fit in memory.

    Args:
        problem: what did not fit.
        instead: what to change.
        part: which part of a step it was, by ``planning.smaller``'s names; empty where a smaller one would not help.
        step: last completed optimizer step; None where whoever raises it does not know.
        at_once: prompts that were answered at once, where that did not fit.
    """

    def __init__(
        self, problem: str, instead: str = "", *, part: str = "", step: int | None = None, at_once: int = 0
    ) -> None:
        super().__init__(problem, instead)
        self.part, self.step, self.at_once = part, step, at_once


def is_shortage(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, says that memory could not be allocated."""
    while error is not None:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"OutOfMemoryError", "MemoryError"}:
            return True
        told = str(error) if isinstance(error, RuntimeError) else ""
        if any(words in told for words in _WORDS) or _ONEDNN.search(told):
            return True
        error = error.__cause__
    return False


def one_line(error: BaseException) -> str:
    """Return an error's kind and the first line of its words."""
    return next(iter(f"{type(error).__name__}: {error}".splitlines()), type(error).__name__)


def forget(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold, which are the tensors that filled the memory, and return it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    free()


def free() -> None:
    """Return what nobody holds any more to the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    # glibc keeps freed pieces for later; the next attempt asks for pieces of other sizes (malloc_trim(3)).
    with suppress(OSError, AttributeError):  # other systems have no such call
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def told_as(part: str, at_once: int = 0) -> Iterator[None]:
    """Say of a shortage inside the block which part of a step it was.

    Raises:
        ShortageError: says so.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ShortageError) or not is_shortage(error):
            raise
        line = one_line(error)
        traceback.clear_frames(error.__traceback__)
    else:
        return
    raise ShortageError(line, part=part, at_once=at_once)


@contextmanager
def told_as_loading(model: str, advice: str) -> Iterator[None]:
    """Say of a shortage inside the block that the model itself is too large: smaller batches would not help.

    Raises:
        ShortageError: says so, with ``advice``.
    """
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        raise ShortageError(
            f"the weights of {model} do not fit in memory: {one_line(error)}", advice
        ) from None
