"""What was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from statistics import mean, median
from typing import Any

Runs = list[dict[str, Any]]
REFERENCE, SAME_LABELS = "trl", "trl-labels"


def markdown(found: dict[str, Any]) -> str:
    """Return every table with a line on how it was made."""
    machine, work, runs = found["machine"], found["work"], found["runs"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    head = (
        f"`python {found['command']}` on {machine['processor']}, {machine['cores']} cores; {versions}. "
        f"{Path(work['model']).name}, {Path(work['data']).name}, {work['steps']} steps of {work['batch_examples']} "
        f"examples, LoRA rank {work['rank']} on every linear layer, fp32. "
        f"Load before a run: {min(r['load'] for r in runs):.1f} to {max(r['load'] for r in runs):.1f}."
    )
    counts = sorted({run["threads"] for run in runs})
    floors = {int(count): rates for count, rates in found["floor"].items()}
    tables = [
        speed(
            [run for run in runs if run["threads"] == count],
            found["titles"],
            _floors(runs, work, floors[count]),
        )
        for count in counts
    ]
    tables.append(rates_line(floors))
    return "\n\n".join([head, *tables, losses(runs, found["titles"]), cost(runs, found["long_run"])])


def rates_line(floors: dict[int, dict[str, float]]) -> str:
    """Return what the processor reaches in matrix products."""
    told = (
        f"{count} thread{'s' * (count > 1)}: "
        + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        for count, rates in floors.items()
    )
    return "Matrix products of the model's shapes, GFLOP/s: " + "; ".join(told) + "."


def _floors(runs: Runs, work: dict[str, Any], rates: dict[str, float]) -> dict[str, list[float]]:
    """Return the least seconds each step's arithmetic takes at the rate of PyTorch's own products, and of oneDNN's.

    Four operations a weight and token (forward and input gradient, weights frozen) where a token has a label,
    without the output layer where it has none; LoRA's and attention's own are left out.
    """
    sizes = next((run["sizes"] for run in runs if len(run["sizes"]) == work["steps"]), None)
    if sizes is None:
        return {}
    work_gflop = [
        4 * (work["body"] * size["tokens"] + work["head"] * size["trained_tokens"]) / 1e9
        for size in sizes[1:]
    ]
    return {name: [one / rates[name] for one in work_gflop] for name in ("torch", "onednn")}


def speed(runs: Runs, titles: dict[str, str], floors: dict[str, list[float]]) -> str:
    """Return times and memory by program, for one number of threads."""
    base = _of(runs, REFERENCE) or _of(runs, "ft_magic")
    rows = []
    for name, found in _by_program(runs):
        rows.append(
            (
                titles[name],
                f"{median(_steps(found, 'step_s')):.2f}",
                _ratio(found, base, "step_s"),
                f"{median(_steps(found, 'cpu_s')):.2f}",
                _ratio(found, base, "cpu_s"),
                *(_to_floor(found, least) for least in floors.values()),
                f"{max(run['training_peak_bytes'] for run in found) / 2**30:.2f}",
                f"{min(run['setup_s'] for run in found):.0f}",
            )
        )
    to = f"to {titles[base[0]['program']]}"
    columns = (
        "s a step",
        to,
        "cpu s a step",
        to,
        *(f"to {name}'s floor" for name in floors),
        "peak GiB in training",
        "s to the first step",
    )
    threads = runs[0]["threads"]
    title = f"**{threads} thread{'s' * (threads > 1)} on as many cores**, median of steps 2 and later"
    return title + "\n\n" + _table(("program", *columns), rows)


def losses(runs: Runs, titles: dict[str, str]) -> str:
    """Return losses by program, and how far they are from TRL's."""
    rows = []
    for name, found in _by_program(runs):
        first = found[0]
        rows.append(
            (
                titles[name],
                f"{first['losses'][0]:.6f}",
                f"{mean(first['losses']):.6f}",
                _apart(found, _of(runs, REFERENCE)),
                _apart(found, _of(runs, SAME_LABELS)),
            )
        )
    columns = ("first loss", "mean loss", "largest difference to TRL", "to TRL with ft_magic's labels")
    return "**Losses**\n\n" + _table(("program", *columns), rows)


def cost(runs: Runs, long_run: dict[str, Any] | None) -> str:
    """Return what events and chart take of the time, from ft_magic's runs."""
    ours = [run for run in runs if "telling_s" in run]
    if not ours:
        return ""
    telling = [run["telling_s"] / len(run["losses"]) / median(run["step_s"]) for run in ours]
    drawing = [sum(run["draw_s"]) / run["follow_s"] for run in ours]
    following = [run["follow_cpu_s"] / run["follow_s"] for run in ours]
    rows = [
        ("worker: events and requests, of a step", _percent(telling)),
        ("kernel: drawing the chart, of the run", _percent(drawing)),
        ("kernel: everything (cpu), of the run", _percent(following)),
    ]
    if long_run:
        rows += [(f"kernel: chart of {label}", _percent([share])) for label, share in long_run.items()]
    return "**Events and chart**\n\n" + _table(("what", "largest share of time"), rows)


def _by_program(runs: Runs) -> list[tuple[str, Runs]]:
    return [(name, _of(runs, name)) for name in dict.fromkeys(run["program"] for run in runs)]


def _of(runs: Runs, program: str) -> Runs:
    return [run for run in runs if run["program"] == program]


def _steps(runs: Runs, key: str) -> list[float]:
    return list(chain.from_iterable(run[key] for run in runs))


def _ratio(runs: Runs, base: Runs, key: str) -> str:
    """Return the median over steps of a program's time by TRL's at the same step: steps differ in length."""
    if not base:
        return ""
    steps = range(len(runs[0][key]))
    typical: Callable[[Runs, int], float] = lambda some, step: median(run[key][step] for run in some)  # noqa: E731
    return f"{median(typical(runs, step) / typical(base, step) for step in steps):.2f}"


def _to_floor(runs: Runs, floor_s: list[float]) -> str:
    """Return the median over steps of a program's time by the least its arithmetic takes."""
    return (
        f"{median(median(run['step_s'][i] for run in runs) / least for i, least in enumerate(floor_s)):.2f}"
    )


def _apart(runs: Runs, base: Runs) -> str:
    """Return the largest difference of losses to the base, and whether the rows were the same."""
    if not base:
        return ""
    gap = max(
        abs(ours - theirs)
        for run in runs
        for ours, theirs in zip(run["losses"], base[0]["losses"], strict=True)
    )
    rows = [list(chain.from_iterable(run["rows"])) for run in (base[0], *runs)]  # however they are grouped
    same = all(found == rows[0] for found in rows)
    return f"{gap:.1e} ({'same tokens and labels' if same else 'other labels'})"


def _percent(shares: Iterable[float]) -> str:
    return f"{100 * max(shares):.3f} %"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
