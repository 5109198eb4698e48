"""The command line: ``ft-magic VERB ...``, the verbs and messages of ``%ft``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ft_magic import __version__
from ft_magic.errors import FTError
from ft_magic.shell import requests

FAILED, USAGE, INTERRUPTED = 1, 2, 130  # as shells count: 130 is 128 + SIGINT


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line asks and return the exit code: 0, 1 for a failure, 2 for wrong usage.

    Args:
        words: what follows the program's name; by default this process's arguments.
    """
    words = list(sys.argv[1:] if words is None else words)
    if words in (["--version"], ["-V"]):
        print(f"ft-magic {__version__}")
        return 0
    try:
        request = requests.read(words, command="ft-magic")
    except FTError as error:
        return _complain(error, USAGE)
    if request is None:
        print(requests.overview("ft-magic"), file=sys.stdout if words else sys.stderr)
        return 0 if words else USAGE
    try:
        _show(requests.do(request, None), live=request.verb.live)
    except FTError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _show(result: Any, *, live: bool) -> None:
    """Print a result; a run that was followed to its end has been shown already."""
    if live and getattr(result, "status", "") in {"finished", "stopped"}:
        print(result.path)
    elif result is not None:
        print(result)


def _complain(error: FTError, code: int) -> int:
    # The same lines as in a notebook; with FT_MAGIC_TRACEBACK=1 they are the whole traceback.
    print("\n".join(line.rstrip("\n") for line in error._render_traceback_()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
