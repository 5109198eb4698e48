"""The closed form against published measurements, by source. The rows are not part of this repository."""

import json
import os
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles

import pytest

import ft_magic as ft
from ft_magic.memory.inverse import card_named, fits

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
FILE = Path(os.environ.get("FT_MAGIC_DATA") or BESIDE) / "memory" / "measured_peaks.jsonl"

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"no measurements at {FILE}; set FT_MAGIC_DATA")


def rows():
    return [json.loads(text) for text in FILE.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def errors():
    found = defaultdict(list)
    for row in rows():
        if row["usable"] and row["n_gpus"] == 1 and row["kind"] == "measured":
            peak = ft.estimate_memory(record=row).peak_bytes
            found[row["group"]].append(abs(peak / 2**30 / row["peak_gib"] - 1))
    return found


def test_half_of_all_rows_are_within_two_percent_and_nine_of_ten_within_twenty(errors):
    every = [error for group in errors.values() for error in group]
    assert len(every) > 300
    assert median(every) < 0.02
    assert quantiles(every, n=10)[-1] < 0.20


@pytest.mark.parametrize("group", ["fitcheck_t4", "canifinetune_4080", "persona_tier1", "fms_acceleration"])
def test_a_known_stack_is_within_one_percent(errors, group):
    assert median(errors[group]) < 0.01


def test_reserved_memory_is_within_a_few_percent():
    apart = []
    for row in rows():
        reserved = (row.get("extra") or {}).get("peak_reserved_mib")
        if reserved:
            apart.append(abs(ft.estimate_memory(record=row).reserved_bytes / 2**20 / reserved - 1))
    assert median(apart) < 0.04


def test_what_ran_out_of_memory_is_said_not_to_fit():
    labels = [row for row in rows() if row["kind"] == "oom" and row["n_gpus"] == 1]
    ran = [
        row
        for row in rows()
        if row["group"] == "fms_acceleration" and row["kind"] == "measured" and row["n_gpus"] == 1
    ]
    card = card_named("A100-80")
    right = sum(not fits(ft.estimate_memory(record=row), card) for row in labels)
    right += sum(fits(ft.estimate_memory(record=row), card) for row in ran)
    assert right / (len(labels) + len(ran)) > 0.95


def test_the_measured_value_plays_no_part():
    row = next(row for row in rows() if row["usable"])
    assert ft.estimate_memory(record={**row, "peak_gib": None, "raw": None}) == ft.estimate_memory(record=row)
