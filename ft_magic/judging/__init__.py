"""A judge: what compares two answers, or grades one.

Local models are read by log-probabilities, reward runs by their scores, endpoints by a letter or a number. Every
pair is read in both orders; only a verdict that survives the swap counts, the rest are ties (Zheng et al. 2023,
arXiv 2306.05685). Every reply is stored at once, so that nothing is asked or paid twice.
"""

from ft_magic.judging.judgement import Judgement, judge
from ft_magic.judging.preferences import prefer, score
from ft_magic.judging.settings import Judge

__all__ = ["Judge", "Judgement", "judge", "prefer", "score"]
