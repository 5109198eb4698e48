"""Rewards: what scores the answers a model gives while it trains.

``prepare`` checks them in the notebook and writes them into the run folder; ``load`` reads them in the training
process. ``catalogue`` has the table of built-in ones.
"""

from ft_magic.rewards.items import describe
from ft_magic.rewards.loaded import Rewards, load, read_items
from ft_magic.rewards.prepared import Prepared, prepare

__all__ = ["Prepared", "Rewards", "describe", "load", "prepare", "read_items"]
