"""A plotly ``Figure`` that is seen where plotly is not, too: exports show its picture.

Loaded by ``charts.figure`` only, because plotly is an extra and slow to import.
"""

from __future__ import annotations

import json
from typing import Any

from plotly.graph_objects import Figure

from ft_magic.ui.environment import front_end

# These draw plotly through HTML of their own.
_OWN_RENDERER = ("colab", "kaggle")


class RunFigure(Figure):  # type: ignore[misc]  # plotly ships no types
    """A normal ``Figure`` whose display carries a picture as well."""

    _picture, _words = "", ""

    @classmethod
    def of(cls, spec: dict[str, Any], picture: str, words: str = "Figure of a run") -> RunFigure:
        """Return a figure from plotly's JSON, with HTML and words to show where plotly's JSON is not drawn."""
        figure = cls(spec)
        figure._picture, figure._words = picture, words
        # A Figure takes plotly's default template, with its white ground, in place of an empty one.
        figure.update_layout(template="none")
        return figure

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if front_end() in _OWN_RENDERER:
            super()._ipython_display_()
            return
        # Not plotly's renderer: elsewhere it may put five megabytes of script into the notebook.
        drawn = {"application/vnd.plotly.v1+json": json.loads(self.to_json())}
        display({**drawn, "text/html": self._picture, "text/plain": self._words}, raw=True)
