"""ft.judge: two answers to each prompt, compared by a model; the result shows itself and becomes pairs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ft_magic import jobs
from ft_magic.data import Data, load_data
from ft_magic.errors import DataError, SpecError
from ft_magic.judging import preferences, settings
from ft_magic.judging.agreement import Agreement, agreement
from ft_magic.judging.questions import Reply, answer_words, prompt_words
from ft_magic.judging.replies import judge_job
from ft_magic.progress import Progress
from ft_magic.ui.live import ProgressLine
from ft_magic.ui.show import Shown, shown_table

_WINNERS: Mapping[int, str] = {preferences.A: "a", preferences.B: "b", preferences.TIE: "tie"}
_OWN_KEYS = (("a", "b"), ("answer_a", "answer_b"))


@dataclass(frozen=True)
class Contest:
    """A prompt with two answers, strings or message lists, and the user's own verdict where there is one."""

    prompt: Any
    a: Any
    b: Any
    vote: str | None = None

    def texts(self) -> tuple[str, str, str]:
        """Return prompt and answers as the judge reads them."""
        return prompt_words(self.prompt), answer_words(self.a), answer_words(self.b)


@dataclass(frozen=True)
class Verdict:
    """The judge's word on one contest.

    Attributes:
        contest: prompt and answers.
        first: probability that a is better, read with a first; None where not asked or not readable.
        second: probability that b is better, read with b first; None likewise.
        winner: ``a``, ``b`` or ``tie``.
        why: why it is a tie: ``same`` answers, the judge changed its mind with the ``order``, ``unread`` reply.
    """

    contest: Contest
    first: float | None
    second: float | None
    winner: str
    why: str = ""


@dataclass(frozen=True, repr=False)
class Judgement:
    """What a judge said about two answers to each prompt.

    Attributes:
        judge: its model's name.
        criteria: by which it judged.
        verdicts: one a contest, in order.
        asked: replies that had to be asked; the others were stored before.
        path: file that holds the replies.
        agreement: with the user's own votes, None without votes.
    """

    judge: str
    criteria: str
    verdicts: tuple[Verdict, ...]
    asked: int
    path: Path
    agreement: Agreement | None = None

    def __len__(self) -> int:
        return len(self.verdicts)

    @property
    def counts(self) -> dict[str, int]:
        """Contests won by ``a``, won by ``b``, and ``tie``."""
        found = Counter(verdict.winner for verdict in self.verdicts)
        return {word: found[word] for word in ("a", "b", "tie")}

    @property
    def ties(self) -> dict[str, int]:
        """Ties by reason: ``order``, ``same``, ``unread``."""
        found = Counter(verdict.why for verdict in self.verdicts if verdict.winner == "tie")
        return {why: found[why] for why in ("order", "same", "unread")}

    @property
    def first_share(self) -> float | None:
        """Share of readings won by the answer shown first: 0.5 without position bias; None without readings."""
        read = [value for v in self.verdicts for value in (v.first, v.second) if value is not None]
        return (
            sum(1.0 if value > 0.5 else 0.5 if value == 0.5 else 0.0 for value in read) / len(read)
            if read
            else None
        )

    def pairs(self) -> Data:
        """Return the decided contests as preference rows; ties are left out and counted in the lineage.

        Raises:
            DataError: there are only ties.
        """
        rows = []
        for found in self.verdicts:
            sides = {"a": found.contest.a, "b": found.contest.b}
            if found.winner in sides:
                chosen = sides.pop(found.winner)
                (rejected,) = sides.values()
                rows.append({"prompt": found.contest.prompt, "chosen": chosen, "rejected": rejected})
        if not rows:
            raise DataError(
                f"judge {self.judge} left no pair: {self._tie_words()}.",
                "Use a stronger judge, other criteria, or answers that differ more (a higher temperature).",
            )
        lineage = (
            f"{len(self)} contests judged by {self.judge}, each in both orders; criteria: {self.criteria}",
            f"{len(rows)} pairs kept; {self._tie_words()}",
        )
        source = str(self.path)
        return Data(tuple(rows), "pair", f"judged by {self.judge}", source, "judged", lineage=lineage)

    def _tie_words(self) -> str:
        ties = self.ties
        return (
            f"{self.counts['tie']} ties left out ({ties['order']} changed with the order, {ties['same']} equal "
            f"answers, {ties['unread']} unreadable replies)"
        )

    def shown(self) -> Shown:
        """Return counts, ties, bias, agreement and the first contests."""
        total, counts, ties = len(self), self.counts, self.ties
        read = total - ties["same"] - ties["unread"]
        rows: list[list[object]] = [
            ["answer a better", _of(counts["a"], total)],
            ["answer b better", _of(counts["b"], total)],
            ["tie: verdict changed with the order", _of(ties["order"], total)],
            ["tie: equal answers, not asked", _of(ties["same"], total)],
            ["tie: reply could not be read", _of(ties["unread"], total)],
            ["same verdict in both orders", _of(read - ties["order"], read)],
            ["the answer shown first preferred", _percent(self.first_share)],
        ]
        if (found := self.agreement) is not None:
            kappa = "undefined (one word only)" if found.kappa is None else f"{found.kappa:+.2f}"
            rows += [
                ["agrees with your votes", _of(found.same, found.count)],
                ["agrees where neither is a tie", _of(found.decided_same, found.decided)],
                ["Cohen's kappa", kappa],
            ]
        notes = [f"{self.asked} replies asked, the others were stored before in {self.path}."]
        title = f"Judge {self.judge}, {total} contests, each read in both orders. Criteria: {self.criteria}"
        examples = [[*v.contest.texts(), v.winner] for v in self.verdicts[:4]]
        table = shown_table(rows, ("", ""), title=title, notes=notes)
        head = ("prompt", "a", "b", "better")
        return table + shown_table(examples, head, title=f"{len(examples)} of {total} contests")

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        shown = self.shown()
        return {"text/html": shown.html, "text/plain": shown.text}

    def __repr__(self) -> str:
        return self.shown().text


def judge(
    rows: Any,
    *,
    judge: Any,
    criteria: str | None = None,
    votes: Any = None,
    folder: Path | str | None = None,
) -> Judgement:
    """Compare two answers to each prompt by a model, each pair in both orders.

    Args:
        rows: dicts with ``prompt``, ``a``, ``b``; or preference rows in any form ``load_data`` reads, whose
            ``chosen`` is then taken as the user's own vote (which answer becomes a is drawn from the texts).
        judge: ``demo``, a hub id, a folder, a run or its name; or an endpoint, ``{"base_url": ..., "model": ...,
            "key_env": "OPENAI_API_KEY"}``.
        criteria: what makes an answer better, in words.
        votes: the user's own verdicts, ``a``, ``b`` or ``tie`` a row, or None.
        folder: where ``verdicts.jsonl`` is kept beside the cache; None for the cache alone.

    Raises:
        SpecError: judge or votes cannot be understood.
        DataError: the rows hold no two answers to a prompt.
        RunError: the endpoint cannot be reached; what was answered is stored.
    """
    contests = with_votes(contests_of(rows), votes)
    with ProgressLine("Judging") as progress:
        who = settings.read(judge, criteria, progress)
        return decide(who, contests, Path(folder) if folder else None, progress)


def decide(
    who: settings.Judge, contests: Sequence[Contest], folder: Path | None, progress: Progress
) -> Judgement:
    """Ask a judge about contests; a local one in the warm process.

    Raises:
        RunError: the endpoint cannot be reached; what was answered is stored.
    """
    questions = [question for contest in contests for question in preferences.readings(*contest.texts())]
    arguments: dict[str, Any] = {
        "judge": who.to_dict(),
        "questions": [asdict(question) for question in questions],
        "folder": str(folder.absolute()) if folder else None,
    }
    if isinstance(who.source, settings.Endpoint):
        raw = judge_job(**arguments, progress=progress)
    else:
        raw = jobs.call("judge", arguments, progress)
    rest = iter([Reply(**reply) for reply in raw["replies"]])
    verdicts = tuple(_verdict(contest, rest) for contest in contests)
    voted = [v for v in verdicts if v.contest.vote is not None]
    shared = agreement([v.winner for v in voted], [str(v.contest.vote) for v in voted]) if voted else None
    return Judgement(who.name, who.criteria, verdicts, raw["asked"], Path(raw["path"]), shared)


def _verdict(contest: Contest, rest: Any) -> Verdict:
    _, a, b = contest.texts()
    if a == b:
        return Verdict(contest, None, None, "tie", "same")
    first, second = next(rest), next(rest)
    winner = _WINNERS[preferences.verdict(first, second)]
    unread = first.value is None or second.value is None
    why = "" if winner != "tie" else "unread" if unread else "order"
    return Verdict(contest, first.value, second.value, winner, why)


def contests_of(rows: Any) -> list[Contest]:
    """Return rows of any accepted form as contests.

    Raises:
        DataError: they hold no two answers to a prompt.
    """
    if isinstance(rows, Sequence) and not isinstance(rows, str) and rows and isinstance(rows[0], Mapping):
        for a, b in _OWN_KEYS:
            if all(isinstance(row, Mapping) and {"prompt", a, b} <= row.keys() for row in rows):
                return [Contest(row["prompt"], row[a], row[b]) for row in rows]
    data = load_data(rows)
    if data.signal != "pair":
        raise DataError(
            f"{data.name} carries '{data.signal}' rows, and a judge compares two answers to a prompt.",
            "Give rows with prompt, a and b, or preference rows with prompt, chosen and rejected.",
        )
    return [_from_pair(row) for row in data]


def _from_pair(row: Mapping[str, Any]) -> Contest:
    """Hide which answer was chosen: with the better one always a, agreement could not be told from habit."""
    chosen, rejected = row["chosen"], row["rejected"]
    if _digest(answer_words(chosen)) <= _digest(answer_words(rejected)):
        return Contest(row["prompt"], chosen, rejected, "a")
    return Contest(row["prompt"], rejected, chosen, "b")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def with_votes(contests: Sequence[Contest], votes: Any) -> list[Contest]:
    """Return the contests with the user's own verdicts.

    Raises:
        SpecError: not one of a, b, tie for each contest.
    """
    if votes is None:
        return list(contests)
    words = [str(vote).lower() for vote in votes] if not isinstance(votes, str) else []
    if len(words) != len(contests) or not set(words) <= {"a", "b", "tie"}:
        raise SpecError(
            f"votes cannot be used: {len(words)} for {len(contests)} contests.",
            "Give a list with one of 'a', 'b', 'tie' for each row.",
        )
    return [
        Contest(contest.prompt, contest.a, contest.b, word)
        for contest, word in zip(contests, words, strict=True)
    ]


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({part / whole:.0%})" if whole else "")


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.0%} (50% without position bias)"
