"""The third axis: which weights change. A new update is one row here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ft_magic.axes.rows import Update

# PEFT's LoraConfig arguments and the keys of the spec that fill them; ``lora_alpha`` is the plan's.
_LORA = MappingProxyType({"r": "lora_r", "lora_dropout": "lora_dropout"})
_LORA_KEYS = ("lora_r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save")
_TOKENS = MappingProxyType({"num_virtual_tokens": "num_virtual_tokens"})
_TRL = ("trl",)
_OWN = ("trl", "ppo")

_ROWS = (
    Update(
        name="full",
        title="Every weight of the model.",
        family="full",
        backends=("trl", "unsloth", "ppo"),
        source="plain fine-tuning",
    ),
    Update(
        name="lora",
        title="Small low-rank matrices beside frozen weights.",
        family="adapter",
        peft="LoraConfig",
        arguments=_LORA,
        options=_LORA_KEYS,
        backends=("trl", "unsloth", "ppo"),
        source="Hu et al. 2021, arXiv 2106.09685",
        hot_swaps=True,
    ),
    Update(
        name="qlora",
        title="LoRA over a base held in 4-bit NF4 with double quantization.",
        family="adapter",
        peft="LoraConfig",
        arguments=_LORA,
        bits=4,
        options=_LORA_KEYS,
        backends=("trl", "unsloth", "ppo"),
        source="Dettmers et al. 2023, arXiv 2305.14314",
    ),
    Update(
        name="dora",
        title="LoRA that learns the length of each weight column apart from its direction.",
        family="adapter",
        peft="LoraConfig",
        arguments=_LORA,
        settings=MappingProxyType({"use_dora": True}),
        options=_LORA_KEYS,
        backends=_OWN,
        source="Liu et al. 2024, arXiv 2402.09353",
    ),
    Update(
        name="rslora",
        title="LoRA scaled by the root of its rank, so that high ranks learn as fast as low ones.",
        family="adapter",
        peft="LoraConfig",
        arguments=_LORA,
        settings=MappingProxyType({"use_rslora": True}),
        options=_LORA_KEYS,
        backends=_OWN,
        source="Kalajdzievski 2023, arXiv 2312.03732",
        hot_swaps=True,
    ),
    Update(
        name="pissa",
        title="LoRA that starts from the strongest directions of each weight instead of from nothing.",
        family="adapter",
        peft="ft_magic.backends.pissa:PissaConfig",
        arguments=_LORA,
        # 16 iterations of the randomised decomposition: 4 s for the 135M model, as good as the full one (PiSSA paper).
        settings=MappingProxyType({"init_lora_weights": "pissa_niter_16"}),
        options=_LORA_KEYS,
        backends=_TRL,
        source="Meng et al. 2024, arXiv 2404.02948",
        hot_swaps=True,
    ),
    Update(
        name="loraplus",
        title="LoRA whose second matrix learns faster than the first.",
        family="adapter",
        peft="LoraConfig",
        arguments=_LORA,
        options=(*_LORA_KEYS, "loraplus_lr_ratio"),
        backends=_OWN,
        # Half of LoRA's rate: advice of the authors' repository (nikhil-ghosh-berkeley/loraplus).
        rate_factor=0.5,
        source="Hayou et al. 2024, arXiv 2402.12354",
        hot_swaps=True,
    ),
    Update(
        name="vera",
        title="Two random matrices shared by all layers and frozen; each layer learns two small vectors.",
        family="adapter",
        peft="VeraConfig",
        arguments=MappingProxyType({"r": "vera_r", "vera_dropout": "lora_dropout"}),
        options=("vera_r", "lora_dropout", "target_modules"),
        backends=_OWN,
        # 1e-2. The paper's rates are ten times LoRA's and more; measured on the 135M model, ten times learned a
        # tenth as fast as LoRA, fifty times two thirds as fast.
        rate_factor=50.0,
        source="Kopiczko et al. 2023, arXiv 2310.11454",
    ),
    Update(
        name="ia3",
        title="One factor for each channel of keys, values and the feed-forward part: very few weights.",
        family="adapter",
        peft="IA3Config",
        backends=_OWN,
        rate_factor=15.0,  # 3e-3: T-Few paper
        source="Liu et al. 2022, arXiv 2205.05638",
    ),
    Update(
        name="adapter",
        title="Small bottleneck layers behind attention and the feed-forward part.",
        family="adapter",
        peft="ft_magic.backends.bottleneck:BottleneckConfig",
        arguments=MappingProxyType({"r": "adapter_size", "lora_dropout": "lora_dropout"}),
        options=("adapter_size", "adapter_placement", "lora_dropout"),
        backends=_TRL,
        # 1e-4: AdapterHub's recipe, and the middle of Houlsby et al.'s sweep (3e-5, 3e-4, 3e-3).
        rate_factor=0.5,
        source="Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2020, arXiv 2005.00247",
        merges=False,
    ),
    Update(
        name="prompt",
        title="Learned tokens in front of the text; no weight changes.",
        family="adapter",
        peft="PromptTuningConfig",
        arguments=_TOKENS,
        # Starting from words of the vocabulary beats random numbers (Lester et al.).
        settings=MappingProxyType({"prompt_tuning_init": "SAMPLE_VOCAB"}),
        options=("num_virtual_tokens",),
        backends=_TRL,
        rate_factor=150.0,  # 3e-2: PEFT's prompt-tuning guide for causal models
        source="Lester et al. 2021, arXiv 2104.08691",
        merges=False,
        virtual_tokens=True,
    ),
    Update(
        name="prefix",
        title="Learned keys and values in front of the text in every layer; no weight changes.",
        family="adapter",
        peft="PrefixTuningConfig",
        arguments=_TOKENS,
        options=("num_virtual_tokens",),
        backends=_TRL,
        rate_factor=50.0,  # 1e-2: PEFT's prefix-tuning guide; on the 135M model faster than 3e-3 (measured)
        source="Li and Liang 2021, arXiv 2101.00190",
        merges=False,
        virtual_tokens=True,
        in_cache=True,
    ),
    Update(
        name="ptuning",
        title="Learned tokens in front of the text, written by a small network that learns.",
        family="adapter",
        peft="PromptEncoderConfig",
        arguments=_TOKENS,
        options=("num_virtual_tokens",),
        backends=_TRL,
        rate_factor=5.0,  # 1e-3: PEFT's p-tuning guide
        source="Liu et al. 2021, arXiv 2103.10385",
        merges=False,
        virtual_tokens=True,
    ),
    Update(
        name="freeze",
        title="The top layers whole; those below stay as they are.",
        family="full",
        options=("trainable_layers",),
        backends=_OWN,
        source="Lee et al. 2019, arXiv 1911.03090",
    ),
)
UPDATES: Mapping[str, Update] = MappingProxyType({row.name: row for row in _ROWS})
