"""How far two judges agree: share of equal verdicts, and Cohen's kappa."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Agreement of two judges on the same pairs.

    Attributes:
        count: pairs both judged; a tie is a verdict like the others.
        same: pairs with equal verdicts.
        by_chance: share of equal verdicts two judges with these habits would reach blindly.
        decided: pairs on which neither said tie.
        decided_same: of those, the ones with equal verdicts.
    """

    count: int
    same: int
    by_chance: float
    decided: int
    decided_same: int

    @property
    def share(self) -> float | None:
        """Share of equal verdicts, 0 to 1; None without pairs."""
        return self.same / self.count if self.count else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa, (share - chance) / (1 - chance); None where both always say the same word.

        Source: Cohen 1960, "A coefficient of agreement for nominal scales", formula 1.
        """
        if self.share is None or self.by_chance == 1:
            return None
        return (self.share - self.by_chance) / (1 - self.by_chance)


def agreement(ours: Sequence[str], theirs: Sequence[str]) -> Agreement:
    """Compare two lists of verdicts (``a``, ``b`` or ``tie``) on the same pairs."""
    pairs = list(zip(ours, theirs, strict=True))
    mine, other = Counter(ours), Counter(theirs)
    chance = sum(mine[word] * other[word] for word in mine) / len(pairs) ** 2 if pairs else 0.0
    decided = [(a, b) for a, b in pairs if "tie" not in (a, b)]
    return Agreement(
        count=len(pairs),
        same=sum(a == b for a, b in pairs),
        by_chance=chance,
        decided=len(decided),
        decided_same=sum(a == b for a, b in decided),
    )
