"""Prompting, retrieval or fine-tuning: a short form and measurements go through one table of rules.

``rules.py`` is the table; ``figures.py`` says what is measured, ``form.py`` what only a person can say.
"""

from ft_magic.advising.advice import Advice
from ft_magic.advising.consultation import advise

__all__ = ["Advice", "advise"]
