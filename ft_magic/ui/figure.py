"""A plotly ``Figure`` that is seen where plotly is not, too: exports show its picture.

Loaded by ``charts.figure`` only, because plotly is an extra and slow to import.
"""

from __future__ import annotations

from typing import Any

from plotly.graph_objects import Figure


class RunFigure(Figure):  # type: ignore[misc]  # plotly ships no types
    """A normal ``Figure`` whose display carries a picture as well."""

    _picture = ""

    @classmethod
    def of(cls, spec: dict[str, Any], picture: str) -> RunFigure:
        """Return a figure from plotly's JSON, with HTML to show where plotly's JSON is not drawn."""
        figure = cls(spec)
        figure._picture = picture
        # A Figure takes plotly's default template, with its white ground, in place of an empty one.
        figure.update_layout(template="none")
        return figure

    def _ipython_display_(self) -> None:
        from IPython.display import display

        # What plotly's renderer for this front end gives, which may have HTML of its own (Colab).
        bundle = self._repr_mimebundle_(include=None, exclude=None)
        display({"text/html": self._picture, "text/plain": "Figure of a run", **bundle}, raw=True)
