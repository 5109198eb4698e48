"""Data: read anything, detect its shape, normalise it, say what is off."""

from ft_magic.data.data import Data, Dropped, DroppedRow
from ft_magic.data.load import load_data
from ft_magic.data.report.finding import Finding
from ft_magic.data.report.quality import Report

__all__ = ["Data", "Dropped", "DroppedRow", "Finding", "Report", "load_data"]
