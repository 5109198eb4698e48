"""All runs: listed newest first, opened by name, the last one remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_magic.errors import RunError, nearest
from ft_magic.paths import runs_dir
from ft_magic.run import Run


@dataclass(frozen=True, repr=False)
class Runs(Sequence[Run]):
    """Every run of the runs folder, newest first; shows itself as a table."""

    items: tuple[Run, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        from ft_magic.ui.runs import runs_text

        return runs_text(self.items)

    def _repr_html_(self) -> str:
        from ft_magic.ui.runs import runs_html

        return runs_html(self.items)


_last: Run | None = None


def remember(run: Run) -> Run:
    """Make a run the one ``last_run`` returns."""
    global _last  # noqa: PLW0603  the kernel's last run, by contract (``ft.last_run``)
    _last = run
    return run


def last_run() -> Run | None:
    """Return the run started or opened last in this process, or None."""
    return _last


def runs() -> Runs:
    """Return every run of the runs folder, newest first."""
    folders = [file.parent for file in runs_dir().glob("[!.]*/run.json")]
    folders.sort(key=_made_t, reverse=True)
    return Runs(tuple(Run(folder) for folder in folders))


def _made_t(folder: Path) -> float:
    """Unix time at which a run was planned: the plan is written once; a folder without one sorts by its state."""
    plan = folder / "plan.json"
    return (plan if plan.exists() else folder / "run.json").stat().st_mtime


def open_run(name: str | Path) -> Run:
    """Open a run by its name, the beginning of its name, its folder, or a mirror that holds this run alone.

    Raises:
        RunError: no such run, or several begin so.
    """
    path = Path(name).expanduser()
    for place in (path, runs_dir() / path):
        if (place / "run.json").is_file():
            return remember(Run(place))
    inside = [file.parent for file in path.glob("[!.]*/run.json")] if path.is_dir() else []
    if len(inside) == 1:  # a mirror
        return remember(Run(inside[0]))
    if inside:
        kept = ", ".join(sorted(str(folder) for folder in inside))
        raise RunError(f"'{path}' holds {len(inside)} runs.", f"Write one of: {kept}.")
    names = [run.name for run in runs()]
    begins = [known for known in names if known.startswith(str(name))]
    if len(begins) == 1:
        return remember(Run(runs_dir() / begins[0]))
    if begins:
        raise RunError(f"several runs begin with '{name}'.", f"Write one of: {', '.join(begins)}.")
    hint = nearest(str(name), names)
    raise RunError(f"there is no run '{name}' in {runs_dir()}.{hint}", "List the runs with %ft runs.")
