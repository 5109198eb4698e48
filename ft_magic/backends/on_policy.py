"""DPO on answers of the model itself: online DPO and self-play. Imported in the worker alone.

TRL's DPOTrainer computes the loss, with its whole family; these classes make the pairs it reads. Answers to all prompts
of an optimizer step are sampled at once, before it is split into micro-batches, so the split changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from ft_magic import atomic
from ft_magic.backends import Emit
from ft_magic.backends.answering import answer_ids, noise_seed, without_stop
from ft_magic.backends.scoring import Scorer
from ft_magic.template import Tokenizer

Pair = dict[str, Any]
_TOLD_APART_PAIRS = 64  # pairs on which a round of self-play is judged
_TWO_SIDED_95 = 1.96


@dataclass
class OnPolicyConfig(DPOConfig):  # type: ignore[misc]  # trl ships no complete types
    """TRL's DPO arguments, and how answers are sampled."""

    max_completion_length: int = field(default=128, metadata={"help": "longest answer, in tokens"})
    temperature: float = field(default=1.0, metadata={"help": "spread of sampled answers"})
    iterations: int = field(default=1, metadata={"help": "rounds of self-play"})


class OnPolicyTrainer(DPOTrainer):  # type: ignore[misc]  # trl ships no complete types
    """Makes the pairs of a step from its prompts, then lets DPO learn them.

    Args:
        rows: the training rows as tokens, in the order of the data set's ``row`` column.
        light: tokenizer of the model.
        emit: where warnings go.
        folder: run folder's data folder, where made answers are kept.
        scorer: judges answers, for online DPO.
    """

    control: Any

    def __init__(
        self,
        *,
        rows: Sequence[Pair],
        light: Tokenizer,
        emit: Emit,
        folder: Path,
        scorer: Scorer | None,
        **kwargs: Any,
    ) -> None:
        self.rows, self.light, self.emit, self.folder, self.scorer = rows, light, emit, folder, scorer
        super().__init__(**kwargs)
        self._collate_pairs: Any = self.data_collator
        self.data_collator: Any = _as_list

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt", "row"]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """Return the micro-batches of a step as pairs."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        places = [item["row"] for batch in batches for item in batch]
        pairs = iter(self.pairs(places))
        return [self._collate_pairs([next(pairs) for _ in batch]) for batch in batches], None

    def pairs(self, places: Sequence[int]) -> list[Pair]:
        """Return a pair for each row: ``prompt_ids``, ``chosen_ids``, ``rejected_ids``."""
        raise NotImplementedError

    def held_out(self, rows: Sequence[Pair]) -> dict[str, float]:
        """Return what is measured on held-out rows."""
        raise NotImplementedError

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the held-out rows and tell the callbacks."""
        del ignore_keys
        places = (self.eval_dataset if eval_dataset is None else eval_dataset)["row"]
        found = self.held_out([self.rows[place] for place in places])
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def answers(self, prompts: Sequence[Sequence[int]], temperature: float) -> list[list[int]]:
        """Return the policy's answer to each prompt as token ids."""
        model = self.accelerator.unwrap_model(self.model)
        length = self.args.max_completion_length
        return answer_ids(model, self.light, prompts, max_new_tokens=length, temperature=temperature)

    def sample(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return a sampled answer to each prompt as token ids, and note how long they are.

        The chance of a step comes from seed and step alone, so that a resumed run samples what it would have.
        """
        devices = list(range(torch.cuda.device_count()))
        with torch.random.fork_rng(devices):
            torch.manual_seed(noise_seed(self.args.seed, self.state.global_step))
            found = self.answers(prompts, self.args.temperature)
        lengths = self._metrics["train"]["completions/mean_length"]
        lengths.append(sum(map(len, found)) / max(1, len(found)))
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Return an answer as text, without its stop token."""
        return self.light.decode(without_stop(ids, self.light))


class OnlineDPOTrainer(OnPolicyTrainer):
    """Two answers a prompt; the better one by a judge or by rewards is chosen (arXiv 2402.04792)."""

    def pairs(self, places: Sequence[int]) -> list[Pair]:
        """Return sampled pairs; a tie becomes a pair of the same answer, which moves nothing."""
        rows = [self.rows[place] for place in places]
        prompts = [row["prompt_ids"] for row in rows]
        both = self.sample([*prompts, *prompts])
        first, second = both[: len(rows)], both[len(rows) :]
        verdicts = self._verdicts(rows, first, second)
        ties = sum(verdict < 0 for verdict in verdicts)
        self._metrics["train"]["ties"].append(ties / len(rows))
        made = []
        for prompt, a, b, verdict in zip(prompts, first, second, verdicts, strict=True):
            better, worse = (b, a) if verdict == 1 else (a, b if verdict == 0 else a)
            made.append({"prompt_ids": prompt, "chosen_ids": better, "rejected_ids": worse})
        return made

    def held_out(self, rows: Sequence[Pair]) -> dict[str, float]:
        """Return the mean of each reward over the likeliest answers; nothing where a judge compares answers."""
        if self.scorer is None:
            return {}
        found = self.answers([row["prompt_ids"] for row in rows], 0.0)
        return self.scorer.totals(rows, [self.text(ids) for ids in found])[1]

    def _verdicts(
        self, rows: Sequence[Pair], first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]
    ) -> list[int]:
        if self.scorer is None:
            raise RuntimeError("online DPO was built without a scorer")
        answers = [[self.text(ids) for ids in side] for side in (first, second)]
        verdicts, metrics = self.scorer.prefer(rows, *answers)
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        return verdicts


class SpinTrainer(OnPolicyTrainer):
    """Self-play (arXiv 2401.01335): the human answer is chosen, the last round's own answer rejected.

    A round's answers and their log-probabilities under the policy that wrote them, which is the round's
    reference, are kept in ``data/spin-ROUND.jsonl``: a resumed run reads them instead of writing new ones.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs["args"].precompute_ref_log_probs = True
        super().__init__(**kwargs)
        self._round, self._made = -1, list[Pair]()
        self.steps_a_round = max(1, -(-self.args.max_steps // self.args.iterations))

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # made with each round's answers instead

    def pairs(self, places: Sequence[int]) -> list[Pair]:
        """Return the round's pairs in the round's own order, whatever rows the loader drew."""
        now = self.state.global_step // self.steps_a_round
        if now != self._round:
            self._begin(now, len(places))
        step = self.state.global_step % self.steps_a_round
        start = step * len(places)
        return [self._made[(start + offset) % len(self._made)] for offset in range(len(places))]

    def held_out(self, rows: Sequence[Pair]) -> dict[str, float]:
        """Return the distance to the demonstrations: negative log-likelihood in nats a token."""
        pairs = [
            {
                "prompt_ids": r["prompt_ids"],
                "chosen_ids": r["completion_ids"],
                "rejected_ids": r["completion_ids"][:1],
            }
            for r in rows
        ]
        tokens = sum(len(pair["chosen_ids"]) for pair in pairs)
        return {"loss": -sum(chosen for chosen, _ in self._logps(pairs)) / tokens}

    def _begin(self, number: int, batch: int) -> None:
        """Start a round: judge the last one, then write or read the answers of this one."""
        if number and not self._made:  # a resumed run
            self._made = self._read(number - 1)
        begins = self.state.global_step % self.steps_a_round == 0
        if number and begins and not self._told_apart():
            self.emit(
                "warning",
                message=f"after {number} rounds the model can no longer tell its answers from the human ones.",
                fix="Self-play stops here; more rounds would learn noise.",
            )
            self.control.should_training_stop = True
        path = self._file(number)
        if path.exists():
            self._made = self._read(number)
        elif not self.control.should_training_stop:
            self._made = self._write(number, self.steps_a_round * batch)
            atomic.write_text(path, "".join(json.dumps(pair) + "\n" for pair in self._made))
        self._round = number

    def _file(self, number: int) -> Path:
        return self.folder / f"spin-{number}.jsonl"

    def _read(self, number: int) -> list[Pair]:
        return [json.loads(line) for line in self._file(number).read_text(encoding="utf-8").splitlines()]

    def _write(self, number: int, count: int) -> list[Pair]:
        """Answer a round's prompts with the policy as it is; leave out answers equal to the human ones."""
        places = self.train_dataset["row"]  # the rows after them are held out
        order = torch.randperm(
            len(places), generator=torch.Generator().manual_seed(self.args.seed + number)
        ).tolist()
        rows = [self.rows[places[at]] for at in order[:count]]
        answers = self.sample([row["prompt_ids"] for row in rows])
        made = [
            {"prompt_ids": row["prompt_ids"], "chosen_ids": row["completion_ids"], "rejected_ids": answer}
            for row, answer in zip(rows, answers, strict=True)
        ]
        different = [pair for pair in made if pair["chosen_ids"] != pair["rejected_ids"]]
        if len(different) < len(made):
            self.emit(
                "warning",
                message=f"round {number + 1}: {len(made) - len(different)} of {len(made)} answers are the human ones.",
                fix="They are left out of the round: there is nothing to tell apart."
                if different
                else "There is nothing to tell apart, so this round learns nothing.",
            )
        self._compare(made := different or made)
        return made

    def _compare(self, pairs: Sequence[Pair]) -> None:
        """Note each answer's log-probability under the policy as it is: the round's reference."""
        for pair, (chosen, rejected) in zip(pairs, self._logps(pairs), strict=True):
            pair["ref_chosen_logps"], pair["ref_rejected_logps"] = chosen, rejected

    def _logps(self, pairs: Sequence[Pair]) -> Iterator[tuple[float, float]]:
        """Yield log-probabilities (chosen, rejected) of pairs under the policy as it is, in nats."""
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        size = self.args.per_device_train_batch_size
        for start in range(0, len(pairs), size):
            bare = [{key: pair[key] for key in _TOKENS} for pair in pairs[start : start + size]]
            inputs = self._prepare_inputs(self._collate_pairs(bare))
            with torch.no_grad():
                logits = model(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
                ).logits[:, :-1]
            chances = torch.log_softmax(logits.float(), -1)
            found = chances.gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
            sums = (found * inputs["completion_mask"][:, 1:]).sum(-1)
            yield from zip(*(part.tolist() for part in sums.chunk(2)), strict=True)
        model.train(was_training)

    def _told_apart(self) -> bool:
        """Return whether human answers gained on the last round's own ones in clearly more than half the pairs.

        So few pairs that not even all of them would be clear are no reason to stop.
        """
        pairs = self._made[:_TOLD_APART_PAIRS]
        wins = sum(
            chosen - pair["ref_chosen_logps"] > rejected - pair["ref_rejected_logps"]
            for pair, (chosen, rejected) in zip(pairs, self._logps(pairs), strict=True)
        )
        share = wins / len(pairs)
        self._metrics["train"]["told_apart"].append(share)
        clear = 0.5 + _TWO_SIDED_95 * 0.5 / len(pairs) ** 0.5
        return bool(share > clear) or clear >= 1


_TOKENS = ("prompt_ids", "chosen_ids", "rejected_ids")


def _as_list(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return rows
