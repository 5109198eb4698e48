"""A shell like a notebook's, for tests: runs cells and raises their errors."""

from __future__ import annotations

from typing import Any

from IPython.core.interactiveshell import InteractiveShell


class NotebookShell:
    """One fresh IPython shell with ft_magic loaded; ``close`` forgets it."""

    def __init__(self) -> None:
        InteractiveShell.clear_instance()
        self.ip = InteractiveShell.instance()
        self.ip.run_line_magic("load_ext", "ft_magic")

    @property
    def variables(self) -> dict[str, Any]:
        return self.ip.user_ns

    def run(self, cell: str) -> Any:
        """Run a cell as a person does and return its last value; its error is raised, not printed only."""
        result = self.ip.run_cell(cell, store_history=True)
        result.raise_error()
        return result.result

    def close(self) -> None:
        """End the shell; the next one starts fresh."""
        if "ft" in self.ip.magics_manager.magics["line"]:
            self.ip.run_line_magic("unload_ext", "ft_magic")
        # Its history thread holds a database; closing it here keeps the test run free of warnings.
        self.ip.history_manager.end_session()
        InteractiveShell.clear_instance()
