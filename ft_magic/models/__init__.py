"""Models: found by name, folder, file or hub id, and described without loading them."""

from ft_magic.models.reference import model_path, resolve
from ft_magic.models.shape import DECODERS, ModelFacts, facts

__all__ = ["DECODERS", "ModelFacts", "facts", "model_path", "resolve"]
