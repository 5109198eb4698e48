"""Milliseconds the kernel needs to answer a change in the memory widget, over random choices of everything.

python bench/memory_widget.py --changes 2000
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

from ft_magic.axes import METHODS, UPDATES
from ft_magic.memory.cards import CARDS
from ft_magic.memory.question import OPTIMIZERS
from ft_magic.ui.memory_answer import answer
from ft_magic.ui.memory_choices import PRECISIONS, STOPS, demo_model, models_of, read_choice


def anything(dice, models):
    """Return a random choice."""
    words = {
        "model": [model.label for model in models],
        "method": list(METHODS),
        "update": list(UPDATES),
        "optim": ["", *OPTIMIZERS],
        "precision": list(PRECISIONS),
        "gpu": list(CARDS),
        "fill": ["", *STOPS],
        "gradient_checkpointing": [True, False],
        **STOPS,
    }
    return {name: dice.choice(values) for name, values in words.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=2000)
    changes = parser.parse_args().changes
    dice = random.Random(0)
    models = models_of("demo", "demo", demo_model().sizes)
    answer(read_choice({}, models), models)
    cpu, wall, largest = [], [], 0
    for _ in range(changes):
        message = anything(dice, models)
        started = time.process_time(), time.perf_counter()
        found = answer(read_choice(message, models), models)
        cpu.append(1e3 * (time.process_time() - started[0]))
        wall.append(1e3 * (time.perf_counter() - started[1]))
        largest = max(largest, len(json.dumps(found)))
    for name, times in (("cpu", sorted(cpu)), ("wall", sorted(wall))):
        tenth, last = times[int(0.9 * len(times))], times[-1]
        print(f"{name:4} ms: median {statistics.median(times):.1f}, 90 % {tenth:.1f}, worst {last:.1f}")
    print(f"{changes} changes; largest message {largest} bytes")


if __name__ == "__main__":
    main()
