"""Models, data and machines for plan tests, without reading any."""

from dataclasses import replace

from ft_magic.hardware import Gpu, Hardware
from ft_magic.models import ModelFacts
from ft_magic.planning.plans import Lengths, Situation

GIB = 2**30

SMOL = ModelFacts(
    model_type="llama",
    hidden_size=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=49152,
    tied_embeddings=True,
    max_length_tokens=8192,
    parameters=134_515_008,
    dtype="bfloat16",
    quantized=False,
)
LLAMA_8B = replace(
    SMOL,
    hidden_size=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate_size=14336,
    vocab_size=128256,
    tied_embeddings=False,
    parameters=8_030_261_248,
)
LAPTOP = Hardware(
    cpu_cores=2, cpu_name="test", cpu_bf16=(), memory_total_bytes=16 * GIB, memory_free_bytes=12 * GIB
)
T4 = Gpu(name="T4", memory_bytes=15 * GIB, compute_capability=(7, 5))
A100 = Gpu(name="A100", memory_bytes=80 * GIB, compute_capability=(8, 0))


def situation(*, rows=400, tokens=100, facts=SMOL, gpus=(), heldout=40, unsloth=False, hardware=LAPTOP):
    return Situation(
        facts=facts,
        model_folder="/models/x",
        model_name="x",
        lengths=Lengths(tokens=(tokens,) * rows, trained=(tokens // 2,) * rows),
        heldout_examples=heldout,
        hardware=replace(hardware, gpus=tuple(gpus)),
        unsloth_installed=unsloth,
        threads=2,
    )
