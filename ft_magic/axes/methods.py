"""The second axis: which loss is minimised. A new method is one row here.

Learning rates for adapters are, where no recipe says otherwise, about ten times those for all weights (Schulman et
al. 2025, "LoRA Without Regret").
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ft_magic.axes.rows import Method


def _rates(adapter: float, full: float) -> Mapping[str, float]:
    return MappingProxyType({"adapter": adapter, "full": full})


_MARGINS = ("rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected")
_SAMPLING = ("max_completion_length", "temperature")
# Losses of TRL's DPOTrainer (1.14) that stand on their own; each is cited in TRL's paper index.
_DPO_LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sigmoid_norm",
)  # fmt: skip

_ROWS = (
    Method(
        name="sft",
        title="Supervised fine-tuning: imitate the answers; loss on the answer tokens only.",
        signals=("demo",),
        trainer="trl:SFTTrainer",
        config="trl:SFTConfig",
        feed="labels",
        # 2e-4 adapter: QLoRA paper table 9 and Unsloth's default; 2e-5 full: TRL SFTConfig's default.
        learning_rates=_rates(2e-4, 2e-5),
        source="Ouyang et al. 2022, arXiv 2203.02155; TRL SFTTrainer",
        backends=("trl", "unsloth"),
        options=("packing", "train_on"),
    ),
    Method(
        name="cpt",
        title="Continued pretraining: learn the language and facts of raw text; loss on every token.",
        signals=("text",),
        trainer="trl:SFTTrainer",
        config="trl:SFTConfig",
        feed="labels",
        # 5e-5 adapter: Unsloth's continued-pretraining notebooks; 2e-5 full: TRL SFTConfig's default.
        learning_rates=_rates(5e-5, 2e-5),
        source="Gururangan et al. 2020, arXiv 2004.10964; TRL SFTTrainer",
        backends=("trl", "unsloth"),
        options=("packing",),
    ),
    Method(
        name="reward",
        title="Reward model: a scalar head learns to score better answers higher.",
        signals=("pair",),
        trainer="trl:RewardTrainer",
        config="trl:RewardConfig",
        feed="whole_pairs",
        # 1e-4 adapter: TRL RewardConfig's default, meant for LoRA; 9e-6 full: InstructGPT, appendix C.
        sides=2,
        learning_rates=_rates(1e-4, 9e-6),
        source="Ouyang et al. 2022, arXiv 2203.02155; TRL RewardTrainer",
        score_head=True,
        metrics=("accuracy", "margin", "mean_reward"),
    ),
    Method(
        name="dpo",
        title="Direct preference optimisation: raise the better answer over the worse one.",
        signals=("pair",),
        trainer="trl:DPOTrainer",
        config="trl:DPOConfig",
        feed="pairs",
        # 1e-6 full: TRL DPOConfig's default; 5e-6 adapter: Unsloth's and Zephyr's LoRA recipes.
        sides=2,
        learning_rates=_rates(5e-6, 1e-6),
        source="Rafailov et al. 2023, arXiv 2305.18290; TRL DPOTrainer",
        backends=("trl", "unsloth"),
        options=("beta", "loss_type"),
        losses=_DPO_LOSSES,
        reference="precomputed",
        metrics=_MARGINS,
    ),
    Method(
        name="ipo",
        title="DPO with a squared loss that stops at a margin, so it cannot overfit certain preferences.",
        signals=("pair",),
        trainer="trl:DPOTrainer",
        config="trl:DPOConfig",
        feed="pairs",
        sides=2,
        learning_rates=_rates(5e-6, 1e-6),  # as dpo
        source="Azar et al. 2023, arXiv 2310.12036; TRL DPOTrainer",
        settings=MappingProxyType({"loss_type": "ipo"}),
        options=("beta",),
        reference="precomputed",
        metrics=_MARGINS,
    ),
    Method(
        name="orpo",
        title="Odds-ratio preference optimisation: imitate the better answer and repel the worse, in one step.",
        signals=("pair",),
        trainer="trl.experimental.orpo:ORPOTrainer",
        config="trl.experimental.orpo:ORPOConfig",
        feed="pairs",
        # 5e-6 full: ORPO paper for Mistral 7B; 5e-5 adapter: ten times that.
        sides=2,
        learning_rates=_rates(5e-5, 5e-6),
        source="Hong et al. 2024, arXiv 2403.07691; TRL ORPOTrainer",
        options=("beta",),
        metrics=(*_MARGINS, "log_odds_ratio", "nll_loss"),
    ),
    Method(
        name="simpo",
        title="Simple preference optimisation: length-normalised margins, no reference model.",
        signals=("pair",),
        trainer="trl.experimental.cpo:CPOTrainer",
        config="trl.experimental.cpo:CPOConfig",
        feed="pairs",
        # 1e-6 full: SimPO paper, section 4 (3e-7 to 1e-6); 1e-5 adapter: ten times that.
        sides=2,
        learning_rates=_rates(1e-5, 1e-6),
        source="Meng et al. 2024, arXiv 2405.14734; TRL CPOTrainer with loss_type simpo",
        # beta 2, gamma / beta 0.5: SimPO paper, table 8; no imitation term.
        settings=MappingProxyType({"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0}),
        options=("beta",),
        metrics=_MARGINS,
    ),
    Method(
        name="cpo",
        title="Contrastive preference optimisation: preferences plus imitation of the better answer, no reference.",
        signals=("pair",),
        trainer="trl.experimental.cpo:CPOTrainer",
        config="trl.experimental.cpo:CPOConfig",
        feed="pairs",
        sides=2,
        learning_rates=_rates(1e-5, 1e-6),  # 1e-6 full: TRL CPOConfig's default
        source="Xu et al. 2024, arXiv 2401.08417; TRL CPOTrainer",
        options=("beta", "loss_type"),
        losses=("sigmoid", "hinge", "ipo"),
        metrics=(*_MARGINS, "nll_loss"),
    ),
    Method(
        name="kto",
        title="Kahneman-Tversky optimisation: single answers marked good or bad, no pairs needed.",
        signals=("label",),
        trainer="trl:KTOTrainer",
        config="trl:KTOConfig",
        feed="judged",
        # 1e-6 full: TRL KTOConfig's default; 5e-6 adapter: the top of the range TRL's guide gives for KTO.
        learning_rates=_rates(5e-6, 1e-6),
        source="Ethayarajh et al. 2024, arXiv 2402.01306; TRL KTOTrainer",
        options=("beta", "loss_type"),
        losses=("kto", "apo_zero_unpaired"),
        reference="precomputed",
        least_micro_batch=2,  # TRL's trainer asks for it
        metrics=("rewards/margins", "rewards/chosen", "rewards/rejected", "kl"),
    ),
    Method(
        name="grpo",
        title="Group-relative policy optimisation: several answers a prompt, better than their mean is reinforced.",
        signals=("prompt",),
        trainer="trl:GRPOTrainer",
        config="trl:GRPOConfig",
        feed="prompts",
        # 1e-6 full: TRL GRPOConfig's default; 5e-6 adapter: Unsloth's GRPO notebooks.
        learning_rates=_rates(5e-6, 1e-6),
        source="Shao et al. 2024, arXiv 2402.03300; TRL GRPOTrainer",
        options=("beta", "loss_type", "rewards", "num_generations", *_SAMPLING),
        needs=("rewards",),
        losses=("dapo", "grpo", "dr_grpo", "bnpo"),
        reference="live",
        generates=True,
        goal="reward",
        metrics=("reward", "kl", "completions/mean_length", "frac_reward_zero_std", "reward_std", "entropy"),
    ),
    Method(
        name="rloo",
        title="REINFORCE leave-one-out: each answer is judged against the mean of the others.",
        signals=("prompt",),
        trainer="trl:RLOOTrainer",
        config="trl:RLOOConfig",
        feed="prompts",
        learning_rates=_rates(5e-6, 1e-6),  # 1e-6 full: TRL RLOOConfig's default; adapter as grpo
        source="Ahmadian et al. 2024, arXiv 2402.14740; TRL RLOOTrainer",
        options=("beta", "rewards", "num_generations", *_SAMPLING),
        needs=("rewards",),
        reference="live",
        generates=True,
        goal="reward",
        metrics=("reward", "kl", "completions/mean_length", "frac_reward_zero_std", "reward_std", "entropy"),
    ),
    Method(
        name="ppo",
        title="Proximal policy optimisation: a learned value function, clipped steps, a leash to the reference.",
        signals=("prompt",),
        trainer="ft_magic.backends.ppo:train",
        config="ft_magic.backends.ppo_config:PPOConfig",
        feed="prompts",
        # 3e-6 full: TRL PPOConfig's default (1.12, the last with PPO); 1.4e-5 adapter: TRL's sentiment example.
        learning_rates=_rates(1.4e-5, 3e-6),
        source="Schulman et al. 2017, arXiv 1707.06347; Ziegler et al. 2019, arXiv 1909.08593; ft_magic's own loop",
        backends=("ppo",),
        options=("beta", "rewards", *_SAMPLING),
        needs=("rewards",),
        reference="live",
        generates=True,
        goal="reward",
        metrics=(
            "reward",
            "kl",
            "clip_fraction",
            "completions/mean_length",
            "value_loss",
            "explained_variance",
            "entropy",
            "missing_stop",
            "reward_std",
        ),
    ),
    Method(
        name="online_dpo",
        title="Online DPO: the model answers each prompt twice, a judge or reward picks the better, DPO learns it.",
        signals=("prompt",),
        trainer="ft_magic.backends.on_policy:OnlineDPOTrainer",
        config="ft_magic.backends.on_policy:OnPolicyConfig",
        feed="prompts",
        # 5e-7 full: TRL OnlineDPOConfig's default; 5e-6 adapter: ten times that.
        sides=2,
        learning_rates=_rates(5e-6, 5e-7),
        source="Guo et al. 2024, arXiv 2402.04792; TRL DPOTrainer fed with fresh answers",
        options=("beta", "loss_type", "rewards", "judge", *_SAMPLING),
        needs=("rewards|judge",),
        losses=_DPO_LOSSES,
        reference="live",
        generates=True,
        goal="reward",
        metrics=("reward", *_MARGINS, "completions/mean_length"),
    ),
    Method(
        name="spin",
        title="Self-play: tell the human answers from the model's own last ones, until nobody can.",
        signals=("demo",),
        trainer="ft_magic.backends.on_policy:SpinTrainer",
        config="ft_magic.backends.on_policy:OnPolicyConfig",
        feed="demos",
        # 5e-7 full: SPIN paper, section 6.1; 5e-6 adapter: ten times that.
        sides=2,
        learning_rates=_rates(5e-6, 5e-7),
        source="Chen et al. 2024, arXiv 2401.01335; TRL DPOTrainer fed with the model's own answers",
        options=("beta", "loss_type", "iterations", *_SAMPLING),
        losses=_DPO_LOSSES,
        reference="live",
        generates=True,
        metrics=(*_MARGINS, "completions/mean_length"),
    ),
    Method(
        name="distill",
        title="Distillation: match a teacher's next-token probabilities on the student's own answers.",
        signals=("prompt", "demo"),
        trainer="trl:DistillationTrainer",
        config="trl:DistillationConfig",
        feed="prompts",
        # 1e-6 full: TRL DistillationConfig's default; 1e-5 adapter: ten times that.
        learning_rates=_rates(1e-5, 1e-6),
        source="Agarwal et al. 2023, arXiv 2306.13649; TRL DistillationTrainer",
        options=("beta", "teacher", *_SAMPLING),
        needs=("teacher",),
        generates=True,
        refuses=MappingProxyType(
            {"virtual_tokens": "TRL's distillation loss calls the layers directly, past the virtual tokens"}
        ),
        metrics=("entropy", "completions/mean_length"),
    ),
)
METHODS: Mapping[str, Method] = MappingProxyType({row.name: row for row in _ROWS})
