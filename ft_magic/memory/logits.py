"""The final norm, the output layer and the loss on the tape, by the loss code of each stack.

Sources: transformers' ``loss/loss_utils.py`` (4.49 and later) and ``modeling_llama.py`` (before); TRL's
``selective_log_softmax`` and its Triton kernel; Unsloth's ``fused_losses``; Liger's
``fused_linear_cross_entropy.py``; torchtune's ``ce_chunked_output_loss.py``.
"""

from __future__ import annotations

from ft_magic.memory.block import LayerTape
from ft_magic.memory.setting import Loss
from ft_magic.memory.tape import Tape, Tensor
from ft_magic.models.architecture import Matrix

_FP32 = 4
_EARLY = ("early", "inplace_early")  # the fp32 copy takes the place of the 16-bit logits


def head_and_loss(layer: LayerTape, hidden: Tensor) -> tuple[float, float]:
    """Run everything after the last layer; return the peaks of the forward and of the backward pass in bytes.

    ``hidden`` is let go after the norm, as the model's own variable is.
    """
    tape, setting = layer.tape, layer.setting
    kind = setting.loss.kind
    normed = layer.norm(hidden)
    tape.drop(hidden)
    if setting.logit_tokens != setting.tokens:  # only the answer's hidden states go on
        part = tape.apply((normed,), setting.logit_tokens * layer.model.hidden, normed.width)
        tape.drop(normed)
        normed = part
    if kind == "none":
        loss = normed
        tape.drop(normed)
    elif kind in ("fused", "chunked", "budgeted"):
        loss = _in_chunks(layer, normed)
    else:
        loss = _whole(layer, normed)
    forward = tape.peak
    tape.mark()
    tape.backward(loss)
    return forward, tape.peak


def _head(layer: LayerTape, normed: Tensor, tokens: float) -> Tensor:
    model, setting = layer.model, layer.setting
    matrix = Matrix("lm_head", model.hidden, model.vocab)
    width = layer.logits_width
    narrow = layer.tape.cast(normed, width)
    saved = setting.adapter is not None and "lm_head" in setting.adapter.saved
    trained = layer.full or saved
    # Autocast casts an fp32 output layer, and the cast lives until the backward pass.
    stored = setting.quantization.rest_width if setting.quantization else setting.weight_width
    copied = matrix.weights * width if stored > width else 0.0
    out = layer.tape.apply(
        (narrow,), tokens * model.vocab, width, saves=(narrow,) if trained else (),
        extra_saved=copied, backward_temporary=copied,
        trained=matrix.weights * setting.weight_width if trained else 0.0,
    )  # fmt: skip
    layer.tape.drop(narrow)
    if not model.soft_cap:
        return out
    # divided by the cap, its tanh kept, and multiplied again (``modeling_gemma2.py``)
    divided = layer.tape.apply((out,), out.values, width)
    layer.tape.drop(out)
    bent = layer.tape.apply((divided,), out.values, width, saves_out=True)
    layer.tape.drop(divided)
    capped = layer.tape.apply((bent,), out.values, width)
    layer.tape.drop(bent)
    return capped


def _whole(layer: LayerTape, normed: Tensor) -> Tensor:
    """Full logits: the copies each stack makes of them, then the softmax and its gradients."""
    tape, loss = layer.tape, layer.setting.loss
    logits = _head(layer, normed, layer.setting.logit_tokens)
    tape.drop(normed)
    if loss.kind == "log_probs":
        return _log_probabilities(layer, logits)
    if loss.kind == "log_probs_kernel":
        return _log_probabilities_in_kernel(layer, logits)
    if loss.kind == "held_chunks":
        return _held_chunks(layer, logits)
    own = loss.kind == "uncast" and not layer.setting.autocast_width
    wide = tape.cast(logits, logits.width if own else _FP32)
    if loss.kind in _EARLY:
        tape.drop(logits)
    flat = wide
    if loss.kind in ("shifted", "uncast", "inplace", *_EARLY):
        flat = tape.apply((wide,), wide.values, wide.width)
    if loss.kind in ("inplace", "inplace_early"):
        # The kernel keeps the logits and later writes their gradient over them.
        out = tape.apply((flat,), 0, 1, saves=(flat,), gradient_over=True)
        _finish(tape, loss, logits, wide, flat)
        return out
    soft = tape.apply((flat,), flat.values, flat.width, saves_out=True)
    out = tape.apply((soft,), 0, 1)
    tape.drop(soft)
    _finish(tape, loss, logits, wide, flat)
    return out


def _finish(tape: Tape, loss: Loss, logits: Tensor, wide: Tensor, flat: Tensor) -> None:
    """Let the loss function's variables go; what the model returns stays where the caller holds it."""
    if flat is not wide:
        tape.drop(flat)
    returned = wide if loss.kind in _EARLY else logits
    for tensor in (wide, *(() if loss.kind in _EARLY else (logits,))):
        if tensor is not returned or not loss.outputs_alive:
            tape.drop(tensor)


def _log_probabilities(layer: LayerTape, logits: Tensor) -> Tensor:
    """Log-probabilities of the chosen tokens, as TRL's ``selective_log_softmax`` finds them.

    Under autocast accelerate returns the logits in fp32. The sum over the vocabulary goes row by row; its gradients
    are stacked into one tensor, and those of the picked logits are another: 16 bytes a logit in fp32, as Liger's
    benchmark measures for this loss (16.2).
    """
    tape = layer.tape
    wide = tape.cast(logits, _FP32 if layer.setting.autocast_width else logits.width)
    tape.drop(logits)
    scaled = wide
    if layer.setting.loss.scaled:  # divided by the temperature
        scaled = tape.apply((wide,), wide.values, wide.width)
        tape.drop(wide)
    summed = tape.apply((scaled,), 0, 1, saves=(scaled,), backward_temporary=scaled.size)
    picked = tape.apply((scaled,), 0, 1, saves=(scaled,))
    tape.drop(scaled)
    return tape.add(picked, summed)


def _log_probabilities_in_kernel(layer: LayerTape, logits: Tensor) -> Tensor:
    """Log-probabilities as TRL's Triton kernel finds them on a GPU (``trl/kernels/logprob_entropy.py``, from 1.14).

    It keeps the logits, which accelerate returned in fp32 under autocast, and writes their gradient at once; when that
    is copied into a gradient of all positions (the slice of the answers), the logits are gone.
    """
    tape = layer.tape
    wide = tape.cast(logits, _FP32 if layer.setting.autocast_width else logits.width)
    tape.drop(logits)
    out = tape.apply((wide,), 0, 1, saves=(wide,))
    tape.drop(wide)
    return out


def _held_chunks(layer: LayerTape, logits: Tensor) -> Tensor:
    """The logits exist as chunks that are all held, in torchtune and litgpt; one chunk at a time has its loss.

    Compiled, the loss of a chunk is one kernel; else each chunk keeps its log-probabilities in the logits' width.
    """
    tape = layer.tape
    chunk = layer.setting.loss.chunk_tokens * layer.model.vocab * 2 * _FP32
    chunk, kept = (0, 0.0) if layer.setting.compiled else (chunk, logits.size)
    out = tape.apply(
        (logits,), 0, 1, saves=(logits,), extra_saved=kept, temporary=chunk, backward_temporary=chunk,
        gradient_over=True,
    )  # fmt: skip
    tape.drop(logits)
    return out


# Bytes a logit of the whole chain in a chunk, as Unsloth counts them (unsloth_zoo/fused_losses/cross_entropy_loss.py).
_BUDGETED_LOGIT = 16.0
_CHUNKS_STEP = 4


def chunk_tokens(tokens: float, vocab: int, budget_bytes: float) -> float:
    """Return the tokens of a chunk of ``budgeted``: Unsloth makes a multiple of four chunks, each within its budget."""
    exact = tokens * vocab * _BUDGETED_LOGIT / max(budget_bytes, 1.0) * _CHUNKS_STEP
    if exact <= 1:
        return tokens
    return max(1.0, tokens / (-(-exact // _CHUNKS_STEP) * _CHUNKS_STEP))


def _in_chunks(layer: LayerTape, normed: Tensor) -> Tensor:
    """A loss that never holds all logits: the gradient of the hidden states is made in the forward pass."""
    tape, setting, model = layer.tape, layer.setting, layer.model
    if setting.loss.kind == "fused":
        # Liger cuts the tokens so that a chunk of logits is about as large as the hidden states.
        chunks = max(1.0, model.vocab / model.hidden)
        tokens = max(1.0, setting.logit_tokens / chunks)
    else:
        tokens = min(setting.loss.chunk_tokens, setting.logit_tokens)
    # A chunk's logits, an fp32 copy and its gradient. TRL also computes the entropy: logits, log-probabilities,
    # probabilities and their product, in fp32 (``_chunk`` in trl/trainer/sft_trainer.py, 1.14).
    whole_chain = setting.loss.kind == "chunked" and setting.loss.entropy
    a_logit = 4.0 * _FP32 if whole_chain else float(layer.compute + 2 * _FP32)
    if setting.loss.kind == "budgeted":
        a_logit, tokens = (
            _BUDGETED_LOGIT,
            chunk_tokens(setting.logit_tokens, model.vocab, setting.loss.budget_bytes),
        )
    once = tokens * model.vocab * a_logit
    own = model.vocab * model.hidden * setting.weight_width if layer.full else 0.0
    loss = tape.apply(
        (normed,), 0, 1, extra_saved=normed.size, temporary=once, backward_temporary=once, trained=own
    )
    tape.drop(normed)
    return loss
