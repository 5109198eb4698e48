"""docs/methods.md says that a method is one row, one fixture, one sentence: this one is added here."""

from types import MappingProxyType

import pytest
from cells import make, train

from ft_magic import axes, spec
from ft_magic.axes import METHODS, Method

pytest.importorskip("torch", reason="training libraries are not installed")

APO = Method(
    name="apo",
    title="Anchored preference optimisation: raise the better answer, lower the worse one.",
    signals=("pair",),
    trainer="trl:DPOTrainer",
    config="trl:DPOConfig",
    feed="pairs",
    learning_rates=METHODS["dpo"].learning_rates,
    source="D'Oosterlinck et al. 2024, arXiv 2408.06266; TRL DPOTrainer",
    settings=MappingProxyType({"loss_type": "apo_zero"}),
    options=("beta",),
    sides=2,
    reference="precomputed",
    metrics=METHODS["dpo"].metrics,
)


def test_a_new_row_trains(tiny, tmp_path, monkeypatch):
    table = {**METHODS, "apo": APO}
    for module in (axes, spec, __import__("cells"), __import__("ft_magic.planning.decide", fromlist=["x"])):
        if hasattr(module, "METHODS"):
            monkeypatch.setattr(module, "METHODS", table)
    cell = train(make(tmp_path / "run", tiny, "apo", "lora", learning_rate=1e-2))
    # 1 - sigmoid(0) + sigmoid(0): both answers still stand where the reference has them.
    assert cell.events("step")[0]["loss"] == pytest.approx(1.0, abs=1e-5)
    assert cell.events("step")[-1]["metrics"]["rewards/margins"] > 0
