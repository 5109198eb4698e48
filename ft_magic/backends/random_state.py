"""Every random number generator that training reads, kept and put back. Worker only."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class RandomState:
    """States of Python's, numpy's and torch's generators at one moment."""

    python: tuple[Any, ...]
    arrays: dict[str, Any]
    cpu: torch.Tensor
    gpus: tuple[torch.Tensor, ...]

    @classmethod
    def now(cls) -> RandomState:
        """Return the states as they are."""
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        arrays = dict(np.random.get_state(legacy=False))  # noqa: NPY002  what libraries draw from
        return cls(random.getstate(), arrays, torch.get_rng_state(), tuple(gpus))

    def put_back(self) -> None:
        """Make the next random numbers those that came after this moment."""
        random.setstate(self.python)
        np.random.set_state(self.arrays)  # noqa: NPY002  as above
        torch.set_rng_state(self.cpu)
        if self.gpus:
            torch.cuda.set_rng_state_all(list(self.gpus))
