"""Template: rows as tokens with a mask of what is trained, and the audit of every row."""

from ft_magic.template.audit import Audit, check_template
from ft_magic.template.render import Rendered, RenderedPair, prompt_ids, render, render_pair
from ft_magic.template.tokenizer import Tokenizer

__all__ = [
    "Audit",
    "Rendered",
    "RenderedPair",
    "Tokenizer",
    "check_template",
    "prompt_ids",
    "render",
    "render_pair",
]
