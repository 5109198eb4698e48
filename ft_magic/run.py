"""Run: a folder and a handle on it. Everything that exists about one training is reached from here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic import events, follow
from ft_magic.errors import RunError
from ft_magic.events import Event
from ft_magic.run_folder import RunFolder

if TYPE_CHECKING:
    from ft_magic.evaluate.evaluation import Evaluation
    from ft_magic.export.certificate import Certificate
    from ft_magic.export.export import Export
    from ft_magic.planning.plans import Plan
    from ft_magic.serve.chat import Chat

_LONGEST_ANSWER_TOKENS = 96  # of an answer shown or scored, where nothing says how long answers are


class Run:
    """A handle on one run folder; holds no state of its own, so several handles on one run agree."""

    def __init__(self, path: Path | str) -> None:
        self.folder = RunFolder(Path(path).absolute())
        self.folder.state()

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def name(self) -> str:
        """Name of the run: its folder's name."""
        return self.folder.path.name

    @property
    def pid(self) -> int | None:
        """Process id of the last worker."""
        return self.folder.state().get("pid")

    @property
    def status(self) -> str:
        """One of planned, running, paused, stopped, failed, finished."""
        return self.folder.status()

    @property
    def plan(self) -> Plan:
        """What was decided, with reasons, and the memory and time measured since."""
        from ft_magic.planning.measured import as_measured
        from ft_magic.planning.plans import Plan

        return as_measured(Plan.read(self.folder.plan), self.events())

    def events(self) -> list[Event]:
        """Return every event so far, oldest first."""
        return events.read(self.folder.events)

    def metrics(self) -> list[dict[str, Any]]:
        """Return one dict a step (``step, loss, learning_rate, ...``), with ``eval_loss`` where evaluated.

        Steps repeated after a resume appear once, as trained last.
        """
        rows: dict[int, dict[str, Any]] = {}
        for event in events.of_kind(self.events(), "step", "eval"):
            row = rows.setdefault(event["step"], {"step": event["step"]})
            more = event.get("metrics") or {}
            if event.kind == "step":
                row |= {k: v for k, v in event.data.items() if k != "metrics"} | more
            else:
                loss = {} if event["loss"] is None else {"eval_loss": event["loss"]}
                row |= loss | {f"eval_{k}": v for k, v in more.items()}
        return [rows[step] for step in sorted(rows)]

    def chart(self) -> Any:
        """Return the run's charts as a plotly ``Figure``."""
        from ft_magic.ui.charts import figure

        return figure(self.events(), title=self.name)

    def logs(self, lines: int = 40) -> str:
        """Return the last lines of the worker's log."""
        return "\n".join(follow.tail(self.folder.log, lines))

    # -- while it runs

    def attach(self) -> Run:
        """Follow the run until it ends, with its live chart.

        Raises:
            RunError: it failed or its worker was killed.
        """
        from ft_magic.ui.live import Live

        follow.follow(self.folder, Live(self.name))
        return self

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait without showing anything; return the status when it ends or the time is up."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.folder.worker_alive() and (deadline is None or time.monotonic() < deadline):
            time.sleep(0.2)
        return self.status

    def stop(self, *, now: bool = False) -> None:
        """Ask the worker to finish its step, save and stop; ``now`` ends it at once.

        Raises:
            RunError: nothing is running.
        """
        self._ask("stop")
        if now:
            follow.stop_now(self.folder)

    def save(self) -> None:
        """Ask the worker for a checkpoint after its step."""
        self._ask("save")

    def pause(self) -> None:
        """Ask the worker to wait after its step; memory stays taken."""
        self._ask("pause")

    def sample(self) -> None:
        """Ask the worker to answer the first held-out prompts with the model as it is now."""
        self._ask("sample")

    def _ask(self, action: str) -> None:
        if not self.folder.worker_alive():
            raise RunError(
                f"run {self.name} is {self.status}: nothing is running.", "List the runs with %ft runs."
            )
        self.folder.ask(action)

    def resume(self, *, detach: bool = False) -> Run:
        """Go on from a pause or from the last checkpoint, exactly as if it had never stopped.

        Where memory ended the worker, the same batch is computed in smaller parts.

        Raises:
            RunError: the run has finished, or goes on already.
        """
        if self.status == "paused":
            self.folder.ask("resume")
            return self if detach else self.attach()
        if self.status == "finished":
            raise RunError(
                f"run {self.name} has finished.", f"Start from its result with model: {self.name}."
            )
        plan = self.plan
        follow.prepare_resume(self.folder)
        follow.start(
            self.folder, python=plan.spec.python, environment=dict(plan.environment), detached=detach
        )
        return self if detach else self.attach()

    # -- once it has finished

    def evaluate(
        self,
        *,
        samples: int = 8,
        score: Callable[[str, str, str], Any] | Run | None = None,
        max_new_tokens: int | None = None,
    ) -> Evaluation:
        """Compare before and after on the held-out rows: loss, answers, and a score where one is given.

        Args:
            samples: held-out prompts answered by both models.
            score: called as ``score(prompt, answer, expected)``; a number, a flag, or a dict of those. Or a reward run.
            max_new_tokens: longest answer, in tokens; default: as in training where the method let the model
                answer (``max_completion_length``), else 96.
        """
        from ft_magic.evaluate.evaluation import evaluate

        longest = max_new_tokens or self.plan.settings.max_completion_length or _LONGEST_ANSWER_TOKENS
        return evaluate(self, samples=samples, score=score, max_new_tokens=longest)

    def compare(
        self, prompts: Sequence[str] | None = None, *, max_new_tokens: int = _LONGEST_ANSWER_TOKENS
    ) -> Any:
        """Show the answers of the base and of this run side by side, for own prompts or held-out ones."""
        from ft_magic.evaluate.evaluation import compare

        return compare(self, prompts, max_new_tokens=max_new_tokens)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = _LONGEST_ANSWER_TOKENS,
        temperature: float = 0.0,
        base: bool = False,
    ) -> list[str]:
        """Answer prompts with the trained model (or with the base it started from).

        Args:
            prompts: user messages, rendered through the chat template where the model has one.
            max_new_tokens: longest answer, in tokens.
            temperature: 0 = always the likeliest token.
            base: answer with the model before training.
        """
        from ft_magic.evaluate.evaluation import generate

        return generate(self, prompts, max_new_tokens=max_new_tokens, temperature=temperature, base=base)

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Score answers with this reward run: higher is better."""
        from ft_magic.evaluate.scorer import scores

        return scores(self, prompts, answers)

    def merge(self, out: Path | str | None = None) -> Path:
        """Fold the adapter into its base and return the folder of the merged model (``merged`` by default)."""
        from ft_magic.export.export import merge

        return merge(self, Path(out) if out else None)

    def export(
        self, *, gguf: str | Sequence[str] = (), ollama: bool = False, folder: Path | str | None = None
    ) -> Export:
        """Merge, convert, quantize and prove that every form answers alike.

        Args:
            gguf: GGUF types such as ``q4_k_m`` and ``q8_0``, as a sequence or separated by commas.
            ollama: write a Modelfile beside the first GGUF.
            folder: where to put the result; by default the run folder.
        """
        from ft_magic.export.export import export

        return export(self, gguf=gguf, ollama=ollama, folder=Path(folder) if folder else None)

    def certificate(self) -> Certificate:
        """Return the certificate made by ``export``.

        Raises:
            ExportError: there is none yet.
        """
        from ft_magic.export.certificate import Certificate

        return Certificate.read(self.folder.certificate)

    def chat(self, gguf: str | Path | None = None) -> Chat:
        """Return a chat with a GGUF file of this run: a type such as ``q4_k_m``, a path, or the smallest one."""
        from ft_magic.export.export import find_gguf
        from ft_magic.serve.chat import Chat

        return Chat(find_gguf(self, gguf))

    def script(self) -> str:
        """Return the same run as a plain TRL script that needs no ft_magic."""
        from ft_magic.export.script import script

        return script(self.plan, self.path)

    def report(self) -> Path:
        """Write ``report.html`` from everything in the run folder and return its path."""
        from ft_magic.ui.report import write_report

        return write_report(self.path)

    def model(self) -> tuple[Any, Any]:
        """Load the trained model and its tokenizer into this process: (transformers model, tokenizer)."""
        from ft_magic.evaluate.generate import load

        loaded = load(**self.model_reference())
        return loaded.model, loaded.tokenizer

    def model_reference(self) -> dict[str, Any]:
        """Return how to load the trained model: base folder, adapter folder or None, bits, precision.

        Raises:
            RunError: the run has no result yet.
        """
        self.require_result()
        plan, full = self.plan, not self.folder.adapter.exists()
        return {
            "base": str(self.folder.model if full else plan.model_folder),
            "adapter": None if full else str(self.folder.adapter),
            "bits": plan.update.bits,
            "precision": plan.settings.precision,
        }

    def require_result(self) -> None:
        """Raise unless the run has a trained adapter or model.

        Raises:
            RunError: says what to do instead.
        """
        if not (self.folder.adapter.exists() or self.folder.model.exists()):
            way = f"Follow it with %ft attach {self.name}." if self.status in ("running", "planned") else ""
            raise RunError(
                f"run {self.name} is {self.status}, so it has no trained model yet.",
                way or f"Go on with %ft resume {self.name}.",
            )

    def emit(self, kind: str, **fields: Any) -> None:
        """Append an event to the run's record."""
        writer = events.Writer(self.folder.events)
        writer.emit(kind, **fields)
        writer.close()

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.status}>"

    def _repr_html_(self) -> str:
        from ft_magic.ui.runs import run_html

        return run_html(self)
