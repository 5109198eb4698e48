"""Training rows from few examples or from documents, written by a model, filtered, with the origin of each row.

Self-instruct (Wang et al. 2022, arXiv 2212.10560): show a model some examples, ask for new ones, keep what is new
and sound. Every reply is stored at once; the same call goes on where it stopped.
"""

from ft_magic.synthesis.synthesise import synthesise

__all__ = ["synthesise"]
