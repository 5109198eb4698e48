"""What a training step costs in memory, before it costs."""

from ft_magic.memory.parts import Memory, Workload, estimate, parameters

__all__ = ["Memory", "Workload", "estimate", "parameters"]
