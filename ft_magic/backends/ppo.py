"""Train with proximal policy optimisation: answer, judge, learn, again. Worker only.

A step is one rollout over ``batch_size`` prompts and ``num_ppo_epochs`` passes over its answers. ``ppo_roles.py`` says
who is who, ``ppo_math.py`` what is computed, ``ppo_config.py`` the numbers and their sources.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments, get_scheduler

from ft_magic import atomic
from ft_magic.backends import PARTIAL, Emit, Job, Outcome, adapters, ppo_checkpoint, ppo_preflight, shortage
from ft_magic.backends.answering import noise_seed, padding_id, without_stop
from ft_magic.backends.ppo_answers import Answers, Vocabulary, sample
from ft_magic.backends.ppo_checkpoint import Going
from ft_magic.backends.ppo_config import config_of
from ft_magic.backends.ppo_learning import Learner, experience_of, learn
from ft_magic.backends.ppo_math import adapted_kl_coef, explained_variance, masked_mean, penalised_scores
from ft_magic.backends.ppo_roles import Roles, roles_of
from ft_magic.backends.ppo_rows import fed_rows, rows_of_step
from ft_magic.backends.ppo_scores import Panel, Scores, judged, panel_of
from ft_magic.backends.watch import Watch
from ft_magic.planning.smaller import GENERATE
from ft_magic.run_folder import checkpoint_step
from ft_magic.template import Tokenizer
from ft_magic.template.files import copy_tokenizer_files

_SAMPLE_PROMPTS = 2


@dataclass(frozen=True)
class Loop:
    """Everything a run of PPO holds.

    Attributes:
        job: what to do.
        learner: roles, optimizer and numbers.
        scheduler: of the learning rate, one move a step.
        panel: who judges answers.
        tokenizer: of the policy.
        rows: prompts to train on, with the columns rewards read.
        heldout: prompts held out.
        going: what changes from step to step.
    """

    job: Job
    learner: Learner
    scheduler: Any
    panel: Panel
    tokenizer: Tokenizer
    rows: Sequence[Mapping[str, Any]]
    heldout: Sequence[Mapping[str, Any]]
    going: Going

    @property
    def vocabulary(self) -> Vocabulary:
        """Stop and padding tokens."""
        return Vocabulary(frozenset(self.tokenizer.stop_ids), padding_id(self.tokenizer))


def train(job: Job, emit: Emit) -> Outcome:
    """Train the policy of a run."""
    began = time.monotonic()
    torch.manual_seed(job.plan.spec.seed)
    config_of(job.plan)  # refuse a wrong number before anything is loaded
    if job.plan.spec.report_to:
        emit(
            "warning",
            message="PPO reports to no tracker.",
            fix="Read the run's events, or leave report_to out.",
        )
    panel = panel_of(job.folder.path, job.plan, emit)
    roles = roles_of(job.plan, panel.shared.adapter if panel.shared else None, job.checkpoint)
    return run(job, emit, roles, panel, began_s=began)


def run(job: Job, emit: Emit, roles: Roles, panel: Panel, *, began_s: float) -> Outcome:
    """Train with the models and judges given.

    Args:
        job: what to do.
        emit: where events go.
        roles: policy, reference, values and perhaps a reward model.
        panel: who judges answers.
        began_s: monotonic time at which loading began.
    """
    plan, folder = job.plan, job.folder
    torch.manual_seed(plan.spec.seed)
    folder.checkpoints.mkdir(exist_ok=True)
    shutil.rmtree(folder.checkpoints / PARTIAL, ignore_errors=True)
    args = _arguments(plan, folder.checkpoints / PARTIAL)
    loop = _loop(job, emit, roles, panel, args)
    first = 1
    if job.checkpoint is not None:
        first = 1 + ppo_checkpoint.load(job.checkpoint, loop.learner, loop.scheduler, loop.going)
    if plan.settings.preflight and job.checkpoint is None:
        ppo_preflight.rehearse(loop, emit, _step, _evaluated)
    watch = Watch(job, emit, sample=lambda step: _show_samples(loop, step, emit))
    watch.now.tokens = float(loop.going.tokens)
    emit(
        "loaded",
        model=plan.model_name,
        trainable_parameters=sum(weight.numel() for weight in loop.learner.weights),
        total_parameters=roles.policy.causal.num_parameters(),
        seconds=time.monotonic() - began_s,
    )
    state = TrainerState(max_steps=plan.settings.total_steps, global_step=first - 1)
    _steps(loop, watch, args, state)
    if watch.now.failure is not None:
        raise watch.now.failure
    if watch.now.stop_reason and state.global_step < plan.settings.total_steps:
        return Outcome("stopped", state.global_step, watch.now.stop_reason)
    _save_result(loop, watch, state.global_step)
    return Outcome("finished", state.global_step)


def _arguments(plan: Any, output: Path) -> TrainingArguments:
    """Return what transformers needs to build the plan's optimizer and the watch to find checkpoints."""
    settings = plan.settings
    return TrainingArguments(
        output_dir=str(output),
        learning_rate=settings.learning_rate,
        optim=settings.optim,
        use_cpu=settings.device == "cpu",
        report_to=[],
    )


def _loop(job: Job, emit: Emit, roles: Roles, panel: Panel, args: TrainingArguments) -> Loop:
    plan, folder, settings = job.plan, job.folder, job.plan.settings
    config = config_of(plan)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args, roles.policy.model)
    optimizer = kind(roles.rate_groups(plan, options["lr"]), **options)
    tokenizer = Tokenizer.load(plan.model_folder)
    limit = settings.eval_examples
    return Loop(
        job=job,
        learner=Learner(
            roles=roles,
            config=config,
            optimizer=optimizer,
            scaler=torch.amp.GradScaler(
                "cuda", enabled=settings.precision == "fp16" and settings.device == "cuda"
            ),
            temperature=settings.temperature,
            micro_batch_size=settings.micro_batch_size,
        ),
        scheduler=get_scheduler(
            plan.spec.lr_scheduler_type, optimizer, settings.warmup_steps, settings.total_steps
        ),
        panel=panel,
        tokenizer=tokenizer,
        rows=fed_rows(folder.train_rows, tokenizer, plan, emit, "training"),
        heldout=fed_rows(folder.heldout_rows, tokenizer, plan, emit, "held-out", limit) if limit else (),
        going=Going(config.kl_coef),
    )


def _steps(loop: Loop, watch: Watch, args: TrainingArguments, state: TrainerState) -> None:
    """Train step by step; events, requests and checkpoints in the order of transformers' trainer."""
    settings, control = loop.job.plan.settings, TrainerControl()
    while state.global_step < settings.total_steps and not control.should_training_stop:
        control.should_save = False
        watch.on_step_begin(args, state, control)
        logs = _step(loop, state.global_step)
        state.global_step += 1
        state.epoch = state.global_step * settings.batch_size / len(loop.rows)
        step = state.global_step
        control.should_save = step % settings.save_steps == 0 or step == settings.total_steps
        watch.on_step_end(args, state, control)
        watch.on_log(args, state, control, logs=logs)
        if loop.heldout and step % settings.eval_steps == 0 and watch.now.failure is None:
            watch.on_evaluate(args, state, control, metrics=_evaluated(loop))
        if control.should_save:
            written = Path(args.output_dir) / f"checkpoint-{step}"
            ppo_checkpoint.save(written, loop.job.plan, loop.learner, loop.scheduler, loop.going, state)
            watch.on_save(args, state, control)


def _step(loop: Loop, done: int) -> dict[str, float]:
    """Answer the next prompts, judge, learn; return what to chart.

    Args:
        loop: the run.
        done: steps before this one.
    """
    learner, config, going = loop.learner, loop.learner.config, loop.going
    seed, size = loop.job.plan.spec.seed, loop.job.plan.settings.batch_size
    rows = rows_of_step(loop.rows, done, size, seed)
    answers = _answers(loop, rows, [noise_seed(seed, done * size + place) for place in range(size)])
    scores = _judged(loop, answers, rows)
    stopped = torch.tensor(answers.stopped)
    worth = penalised_scores(scores.total, stopped, config.missing_eos_penalty)
    experience = experience_of(learner, answers, worth, going.kl_coef)
    rate = loop.scheduler.get_last_lr()[0]
    learned = learn(learner, answers, experience, seed=noise_seed(seed, -1 - done))
    loop.scheduler.step()
    going.tokens += answers.tokens
    kl = experience.answer_kl
    found = {
        "loss": learned["policy_loss"] + config.vf_coef * learned["value_loss"],
        "learning_rate": rate,
        "num_tokens": float(going.tokens),
        "reward": float(scores.total.mean()),
        "reward_std": float(scores.total.std(correction=0)),
        **_means(loop.panel, scores),
        "kl": kl,
        "kl_coef": going.kl_coef,
        "objective": float(worth.mean()) - going.kl_coef * kl,
        "entropy": float(masked_mean(experience.entropy, experience.mask)),
        "explained_variance": float(
            explained_variance(experience.values, experience.returns, experience.mask)
        ),
        "completions/mean_length": sum(map(len, answers.answers)) / len(answers),
        "missing_stop": 1 - float(stopped.float().mean()),
        **learned,
    }
    if config.kl_target is not None:
        going.kl_coef = adapted_kl_coef(going.kl_coef, kl, config.kl_target, config.kl_horizon, len(answers))
    return found


def _answers(loop: Loop, rows: Sequence[Mapping[str, Any]], seeds: Sequence[int] | None) -> Answers:
    """Let the policy answer; the likeliest tokens without seeds."""
    settings = loop.job.plan.settings
    size = settings.generation_batch_size or loop.learner.config.generation_batch_size or settings.batch_size
    prompts = [row["prompt_ids"] for row in rows]
    parts = []
    with shortage.told_as(GENERATE, min(size, len(rows))), loop.learner.roles.policy.taken() as seat:
        for start in range(0, len(rows), size):
            chosen = slice(start, start + size)
            parts.append(
                sample(
                    seat, prompts[chosen], loop.vocabulary, longest=settings.max_completion_length,
                    temperature=loop.learner.temperature, seeds=None if seeds is None else seeds[chosen],
                )
            )  # fmt: skip
    return Answers(
        tuple(prompt for part in parts for prompt in part.prompts),
        tuple(answer for part in parts for answer in part.answers),
        loop.vocabulary,
    )


def _judged(loop: Loop, answers: Answers, rows: Sequence[Mapping[str, Any]]) -> Scores:
    learner = loop.learner
    return judged(
        loop.panel,
        learner.roles.reward,
        answers,
        rows,
        loop.tokenizer,
        micro_batch_size=learner.micro_batch_size,
    )


def _means(panel: Panel, scores: Scores) -> dict[str, float]:
    means = scores.each.mean(1).tolist()
    return {f"rewards/{name}/mean": mean for name, mean in zip(panel.names, means, strict=True)}


def _evaluated(loop: Loop) -> dict[str, float]:
    """Return the mean reward of greedy answers to the held-out prompts, and their log-ratio to the reference.

    The log-ratio is no unbiased estimate of the KL here, because greedy answers are not drawn from the policy.
    """
    answers = _answers(loop, loop.heldout, None)
    scores = _judged(loop, answers, loop.heldout)
    experience = experience_of(loop.learner, answers, scores.total, loop.going.kl_coef)
    reward = float(scores.total.mean())
    found = {"reward": reward, "kl": experience.answer_kl, **_means(loop.panel, scores)}
    return {f"eval_{name}": value for name, value in found.items()}


def _show_samples(loop: Loop, step: int, emit: Emit) -> None:
    """Tell how the policy answers the first held-out prompts now."""
    rows = (loop.heldout or loop.rows)[:_SAMPLE_PROMPTS]
    for row, answer in zip(rows, _answers(loop, rows, None).answers, strict=True):
        text = loop.tokenizer.decode(without_stop(answer, loop.tokenizer))
        emit("sample", step=step, prompt=loop.tokenizer.decode(row["prompt_ids"]), text=text)


def _save_result(loop: Loop, watch: Watch, step: int) -> None:
    """Write the policy under its final name, of the best step when stopping early."""
    plan, folder = loop.job.plan, loop.job.folder
    best = folder.checkpoints / f"checkpoint-{watch.now.best_step}"
    earlier = watch.now.best_step and best.exists() and checkpoint_step(best) < step
    with atomic.new_folder(folder.adapter if plan.update.peft else folder.model) as temporary:
        with loop.learner.roles.policy.taken() as seat:
            adapters.save(seat.model, plan, temporary, best if earlier else None)
        copy_tokenizer_files(Path(plan.model_folder), temporary)
