"""Bytes a layer keeps, against numbers traced from transformers' own modules; and the tape's and allocator's rules."""

from dataclasses import replace

import pytest

from ft_magic.memory.allocator import CachingAllocator
from ft_magic.memory.block import LayerTape
from ft_magic.memory.setting import EVERY_LINEAR, Adapter, Setting
from ft_magic.memory.tape import Tape
from ft_magic.models.architecture import architecture

LLAMA_3_8B = architecture(
    {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    }
)
STEP = Setting(micro_batch=1, length=2048, checkpointing="none", repeats_keys=True)
EVERY = Adapter(rank=16, targets=EVERY_LINEAR)


def kept(setting):
    """Bytes a token that one layer keeps for the backward pass, without autocast's copies of weights."""
    tape = Tape()
    layer = LayerTape(tape, LLAMA_3_8B, setting)
    x = tape.make(layer.tokens * 4096, layer.stream_width)
    out = layer.layer(LLAMA_3_8B.blocks[0], x)
    tape.drop(x)
    adapter = setting.adapter
    casts = 2 * 1_310_720 if adapter and setting.autocast_width and adapter.width == 4 else 0
    return (tape.live - out.size - casts) / layer.tokens


# Traced with torch 2.13, transformers 5.17 and PEFT 0.21 on the meta device, Llama 3.1 8B, flash attention with keys and
# values repeated for every head.
TRACED = {
    "full fine-tuning in 16 bit": (replace(STEP, adapter=None), 213_128),
    "16-bit adapters on every layer": (replace(STEP, adapter=replace(EVERY, width=2)), 196_968),
    "fp32 adapters on q and v": (
        replace(STEP, adapter=replace(EVERY, targets=("q_proj", "v_proj"))),
        184_584,
    ),
    "fp32 adapters on every layer": (replace(STEP, adapter=EVERY), 307_784),
    "the same under autocast": (replace(STEP, adapter=EVERY, autocast_width=2), 229_736),
    "with dropout": (replace(STEP, adapter=replace(EVERY, dropout=True), autocast_width=2), 268_648),
    "16-bit adapters with dropout": (replace(STEP, adapter=replace(EVERY, width=2, dropout=True)), 268_648),
}


@pytest.mark.parametrize("name", TRACED)
def test_a_layer_keeps_what_the_real_one_was_traced_to_keep(name):
    setting, traced = TRACED[name]
    assert kept(setting) == traced


def test_eager_attention_keeps_a_square_of_the_length():
    eager = replace(STEP, adapter=EVERY, autocast_width=2, attention="eager")
    # An fp32 softmax and its 16-bit copy a score, instead of the output and its sums.
    assert kept(eager) - kept(replace(eager, attention="sdpa")) == 6 * 32 * 2048 - 2 * 4096 - 4 * 32


@pytest.mark.parametrize("setting", [setting for setting, _ in TRACED.values()])
def test_nothing_but_parameter_gradients_is_left_after_the_backward_pass(setting):
    tape = Tape()
    layer = LayerTape(tape, LLAMA_3_8B, setting)
    x = tape.make(layer.tokens * 4096, layer.stream_width)
    out = layer.layer(LLAMA_3_8B.blocks[0], x)
    tape.drop(x, out)
    tape.backward(out)
    assert tape.live == pytest.approx(tape.gradients)


def test_two_gradients_of_one_tensor_are_added_in_place():
    tape = Tape()
    x = tape.make(100, 1)
    one = tape.apply((x,), 100, 1)
    other = tape.apply((x,), 100, 1)
    total = tape.add(one, other)
    tape.drop(one, other)
    tape.mark()
    tape.backward(total)
    # x, the sum, its gradient (which both branches share) and one gradient of x at first; then the second of x.
    assert tape.peak == 500


def reserved_mib(*taken_mib, free=(), then_mib=None):
    """Take sizes in MiB, free some of them by place, take one more; return MiB reserved after each taking."""
    pools, found = CachingAllocator(), []
    for key, size in enumerate(taken_mib, 1):
        pools.allocate(key, size * 2**20)
        found.append(pools.reserved_bytes / 2**20)
    for place in free:
        pools.release(place + 1)
    if then_mib is not None:
        pools.allocate(len(taken_mib) + 1, then_mib * 2**20)
        found.append(pools.reserved_bytes / 2**20)
    return found


def test_the_allocator_takes_segments_as_pytorch_does():
    assert reserved_mib(0.0001, 5, 5, 11) == [2, 22, 22, 34]


def test_freed_neighbours_join_and_serve_a_larger_request():
    assert reserved_mib(4, 4, 4, 4, 4, free=range(5), then_mib=19)[-1] == 20


def test_a_request_between_freed_pieces_grows_the_reservation():
    assert reserved_mib(4, 4, 4, 4, 4, free=(0, 2), then_mib=6)[-1] == 40
