"""The estimator against published peaks collected before it had seen one (``bench/data``)."""

import json
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

import ft_magic as ft
from ft_magic.memory.cards import find_card
from ft_magic.memory.inverse import fits

GIB = 2**30
ROWS = Path(__file__).parents[1] / "bench" / "data" / "published_peaks.jsonl"


@pytest.fixture(scope="module")
def frozen():
    if not ROWS.exists():
        pytest.skip("the published rows come with a checkout alone")
    return [json.loads(text) for text in ROWS.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def published(frozen):
    """The rows with the settings mended that were read wrongly from their sources."""
    rows = {row["id"]: dict(row) for row in frozen}
    for correction in json.loads(ROWS.with_name("corrections.json").read_text(encoding="utf-8")):
        for name in correction["rows"]:
            for key, value in correction["set"].items():
                old = rows[name][key]
                rows[name][key] = {**old, **value} if isinstance(value, dict) else value
    return list(rows.values())


@pytest.fixture(scope="module")
def errors(published):
    """The signed relative error of every scored row, by source."""
    found = {}
    for row in published:
        if row["kind"] == "measured" and row["usable"]:
            peak = ft.estimate_memory(record=row).peak_bytes / GIB
            found.setdefault(row["group"], []).append(peak / row["peak_gib"] - 1)
    return found


def test_the_rows_name_their_sources_and_are_many(published):
    scored = Counter(row["group"] for row in published if row["kind"] == "measured" and row["usable"])
    assert sum(scored.values()) >= 60
    assert len(scored) >= 10
    assert all(row["source"]["url"].startswith("https://") for row in published)
    assert len({row["id"] for row in published}) == len(published)


def test_every_row_is_answered(published):
    refused = []
    for row in published:
        try:
            assert ft.estimate_memory(record=row).peak_bytes > 0
        except ft.errors.FTError as refusal:
            refused.append((row["id"], refusal.problem))
    assert refused == []


@pytest.mark.parametrize(
    ("group", "half", "most"),
    [("agilerl_grpo", 0.05, 0.12), ("torchao_optim", 0.05, 0.06), ("axolotl_examples", 0.10, 0.30)],
)
def test_steps_whose_source_tells_them_well_are_met(errors, group, half, most):
    sizes = [abs(error) for error in errors[group]]
    assert median(sizes) <= half
    assert max(sizes) <= most


def test_a_notebook_of_qlora_on_a_t4_is_met(published):
    (row,) = (row for row in published if row["id"] == "trl_notebooks-001")
    # Qwen3-14B: nf4 weights, embeddings widened to fp32, activations offloaded, paged 8-bit states: 14.041 GiB.
    assert ft.estimate_memory(record=row).peak_bytes / GIB == pytest.approx(14.041, rel=0.06)


def test_the_rows_of_one_steady_step_stay_as_near_as_when_first_scored(errors):
    # First scored, blind: median 7.6 %, 90th percentile 39.1 %; see bench/memory_heldout.py.
    steady = sorted(
        abs(error)
        for group, found in errors.items()
        if group not in ("ms_swift", "qwen_readme")
        for error in found
    )
    assert median(steady) <= 0.07
    assert steady[int(0.9 * len(steady))] <= 0.35


def test_reserved_memory_of_rows_of_every_length_stays_within_bounds(errors):
    # The allocator keeps blocks of other lengths: first scored as one steady step, the median was -25 %.
    assert max(errors["ms_swift"]) <= 0.25
    assert median(errors["ms_swift"]) >= -0.25


def test_out_of_memory_reports_are_foretold(published):
    said = {
        row["id"]: fits(ft.estimate_memory(record=row), find_card(row["gpu"])) == (row["kind"] == "fits")
        for row in published
        if row["kind"] in ("oom", "fits")
    }
    assert all(said.values()), said
