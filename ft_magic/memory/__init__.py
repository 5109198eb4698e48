"""What a training step costs in memory, before it costs."""

from ft_magic.memory.memory import Memory
from ft_magic.memory.parts import Workload, estimate
from ft_magic.memory.trained import Size, parameters, trained_parameters

__all__ = ["Memory", "Size", "Workload", "estimate", "parameters", "trained_parameters"]
