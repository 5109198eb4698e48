"""Models: found by name, folder, file or hub id, and described without loading them."""

from ft_magic.models.families import FAMILIES
from ft_magic.models.reference import model_path, resolve
from ft_magic.models.shape import ModelFacts, facts, read_config

__all__ = ["FAMILIES", "ModelFacts", "facts", "model_path", "read_config", "resolve"]
