"""One decoder layer on the tape, operation by operation as transformers and PEFT run it.

Sources: transformers' ``modeling_llama.py``, ``modeling_phi.py``, ``modeling_gpt2.py``, ``modeling_cohere.py``; PEFT's
``tuners/lora/layer.py``; bitsandbytes' ``autograd/_functions.py``; PyTorch's ``native/transformers/attention.cpp``.
"""

from __future__ import annotations

from ft_magic.memory.setting import Setting
from ft_magic.memory.tape import Tape, Tensor
from ft_magic.models.architecture import Architecture, Block, Matrix

_FP32, _TWO = 4, 2


class LayerTape:
    """Writes layers of one model under one setting on a tape."""

    def __init__(self, tape: Tape, model: Architecture, setting: Setting) -> None:
        """Write on ``tape``."""
        self.tape = tape
        self.model = model
        self.setting = setting
        self.tokens = float(setting.tokens)
        adapter, quantization = setting.adapter, setting.quantization
        self.block = model.blocks[-1]
        self.full = adapter is None
        self.compute = setting.compute_width
        self.norm_width = quantization.norm_width if quantization else setting.weight_width
        self.aimed = adapter is not None and adapter.kind in ("lora", "dora", "vera", "ia3", "scaled")

    @property
    def stream_width(self) -> int:
        """Width of the residual stream: embeddings in fp32 make everything after them fp32."""
        quantization = self.setting.quantization
        if quantization:
            return max(quantization.rest_width, quantization.norm_width)
        return self.setting.weight_width

    @property
    def logits_width(self) -> int:
        """Width of the logits: an output layer in fp32 makes fp32 logits, unless autocast is on."""
        quantization = self.setting.quantization
        if self.setting.autocast_width or quantization is None or quantization.head:
            return self.compute
        return max(quantization.rest_width, self.compute)

    def layer(self, block: Block, x: Tensor) -> Tensor:
        """Run one layer; ``x`` stays held by the caller."""
        self.block = block
        tape, matrices = (
            self.tape,
            {matrix.name: matrix for matrix in block.matrices if matrix.part != "experts"},
        )
        routed = {matrix.name: matrix for matrix in block.matrices if matrix.part == "experts"}
        after = self.model.post_norm or self.four_norms
        normed = self._before(x)
        attended = self._after(self.attention(matrices, normed), after=after)
        if self.model.parallel:  # both branches read the same stream, one norm of it or one each
            own = self.norm(x) if self.two_norms else normed
            fed = self.feed_forward(matrices, routed, own)
            if own is not normed:
                tape.drop(own)
            both = tape.add(attended, fed)
            tape.drop(attended, fed, normed)
            out = tape.add(x, both)
            tape.drop(both)
            return out
        tape.drop(normed)
        middle = tape.add(x, attended)
        tape.drop(attended)
        normed = self._before(middle)
        fed = self._after(self.feed_forward(matrices, routed, normed), after=after)
        tape.drop(normed)
        out = tape.add(middle, fed)
        tape.drop(middle, fed)
        return out

    @property
    def two_norms(self) -> bool:
        """Whether parallel branches have a norm each (GPT-NeoX)."""
        return self.block.norm_values >= _TWO * _TWO * self.model.hidden

    @property
    def four_norms(self) -> bool:
        """Whether each branch has a norm before and one behind it (Gemma 2, GLM 4)."""
        return not self.model.layer_norm and self.block.norm_values >= _TWO * _TWO * self.model.hidden

    def _before(self, x: Tensor) -> Tensor:
        if not self.model.post_norm:
            return self.norm(x)
        self.tape.hold(x)
        return x

    def _after(self, branch: Tensor, *, after: bool) -> Tensor:
        if not after:
            return branch
        normed = self.norm(branch)
        self.tape.drop(branch)
        return normed

    def norm(self, x: Tensor, own: int | None = None) -> Tensor:
        """Run a norm over the hidden size, or over ``own`` values at a time."""
        tape, values = self.tape, x.values
        trained = self.full or (
            self.setting.adapter is not None and self.setting.adapter.kind in ("norms", "scaled")
        )
        vectors = x.values / (own or self.model.hidden)
        own = int((own or self.model.hidden) * self.norm_width) if trained else 0
        statistics = _FP32 * vectors
        if self.model.norm_code == "manual":
            return self._manual_norm(x, own)
        if self.model.layer_norm:
            width = _FP32 if self.setting.autocast_width else x.width
            wide = tape.cast(x, width)
            out = tape.apply(
                (wide,), values, width, saves=(wide,), extra_saved=2 * statistics, trained=2 * own
            )
            tape.drop(wide)
            return out
        if self.setting.fused_norms or self.setting.compiled:
            return tape.apply((x,), values, x.width, saves=(x,), extra_saved=statistics, trained=own)
        wide = tape.cast(x, _FP32)
        size = values * _FP32
        scaled = tape.apply(
            (wide,), values, _FP32, saves=(wide,), extra_saved=statistics, backward_temporary=2 * size
        )  # squares of the mean, and in the backward pass the two products that are added
        tape.drop(wide)
        if self.model.norm_code == "wide":  # the weight multiplies before the cast
            out = tape.apply((scaled,), values, _FP32, saves=(scaled,) if trained else (), trained=own)
            tape.drop(scaled)
            narrow = tape.cast(out, x.width)
            tape.drop(out)
            return narrow
        narrow = tape.cast(scaled, x.width)
        tape.drop(scaled)
        width = max(self.norm_width, x.width)
        out = tape.apply((narrow,), values, width, saves=(narrow,) if trained else (), trained=own)
        tape.drop(narrow)
        return out

    def _manual_norm(self, x: Tensor, own: int) -> Tensor:
        """Run Cohere's LayerNorm: the difference to the mean is made twice in fp32 and kept."""
        tape, values = self.tape, x.values
        wide = tape.cast(x, _FP32)
        squared = tape.apply((wide,), values, _FP32)
        scaled = tape.apply(
            (wide,),
            values,
            _FP32,
            saves=(squared,),
            extra_saved=values * _FP32,
            backward_temporary=2 * values * _FP32,
        )
        tape.drop(wide, squared)
        out = tape.apply((scaled,), values, _FP32, saves=(scaled,) if own else (), trained=own)
        tape.drop(scaled)
        narrow = tape.cast(out, x.width)
        tape.drop(out)
        return narrow

    def linear(self, matrix: Matrix, x: Tensor, share: float = 1.0) -> Tensor:
        """Run a linear layer with its adapter; ``share`` is its tokens in all tokens (experts)."""
        adapter = self.setting.adapter
        unseen = matrix.part == "experts" and self.setting.packed_experts
        targeted = self.aimed and adapter is not None and adapter.aims_at(matrix.name) and not unseen
        if self.setting.fused_lora and adapter and targeted:
            return self._fused_lora(matrix, x, share)
        out = self._base(matrix, x, share)
        if not targeted:
            return out
        if adapter is not None and adapter.kind in ("ia3", "scaled"):
            scaled = self.tape.apply((out,), out.values, out.width, saves=(out,), backward_temporary=out.size)
            self.tape.drop(out)
            return scaled
        return self._with_lora(matrix, x, out)

    def _fused_lora(self, matrix: Matrix, x: Tensor, share: float) -> Tensor:
        """Run a projection with its LoRA as one function: its input alone is kept, and no copy is cast."""
        adapter, work = self.setting.adapter, float(matrix.inputs * matrix.outputs * self.compute)
        width = adapter.rank * adapter.width * matrix.copies if adapter else 0
        temporary = work if self.setting.quantization else 0.0
        return self.tape.apply(
            (x,), self.tokens * share * matrix.outputs, self.compute, saves=(x,), temporary=temporary,
            backward_temporary=temporary, trained=width * (matrix.inputs + matrix.outputs),
        )  # fmt: skip

    def _base(self, matrix: Matrix, x: Tensor, share: float) -> Tensor:
        tape, setting = self.tape, self.setting
        values = self.tokens * share * matrix.outputs
        quantization = setting.quantization
        if (
            quantization
            and matrix.part != "router"
            and not (matrix.part == "experts" and setting.packed_experts)
        ):
            work = matrix.inputs * matrix.outputs * self.compute
            narrow = tape.cast(x, self.compute)
            out = tape.apply(
                (narrow,), values, self.compute, saves=(narrow,) if quantization.keeps_input else (),
                temporary=work, backward_temporary=work,
            )  # fmt: skip
            tape.drop(narrow)
            if not quantization.keeps_width:
                return out
            same = tape.cast(out, x.width)
            tape.drop(out)
            return same
        narrow = tape.cast(x, self.compute)
        own = matrix.weights * setting.weight_width if self.full else 0.0
        # Autocast's 16-bit copy of an fp32 weight is kept until the backward pass: the input's gradient needs it.
        copied = float(matrix.weights * self.compute) if self.compute < setting.weight_width else 0.0
        out = tape.apply(
            (narrow,), values, self.compute, saves=(narrow,) if self.full else (), extra_saved=copied,
            backward_temporary=copied, trained=own,
        )  # fmt: skip
        tape.drop(narrow)
        return out

    def _with_lora(self, matrix: Matrix, x: Tensor, out: Tensor) -> Tensor:
        tape, setting = self.tape, self.setting
        adapter = setting.adapter
        if adapter is None:
            return out
        width = setting.autocast_width or adapter.width
        shape = matrix.copies * adapter.rank
        copied = width if width != adapter.width else 0
        wide = tape.cast(x, adapter.width)
        dropped = wide
        if adapter.dropout:
            dropped = tape.apply((wide,), wide.values, wide.width, extra_saved=wide.values)
        narrow = tape.cast(dropped, width)
        down = tape.apply(
            (narrow,), out.values / matrix.outputs * adapter.rank, width, saves=(narrow,),
            extra_saved=shape * matrix.inputs * copied, trained=shape * matrix.inputs * adapter.width,
        )  # fmt: skip
        tape.drop(narrow)
        if dropped is not wide:
            tape.drop(dropped)
        up = tape.apply(
            (down,), out.values, width, saves=(down,),
            extra_saved=shape * matrix.outputs * copied, trained=shape * matrix.outputs * adapter.width,
        )  # fmt: skip
        tape.drop(down)
        if adapter.kind == "dora":
            # Both results are multiplied by trained magnitudes, which keep them; the norm of the whole weight is found
            # through an identity matrix (PEFT's ``tuners/lora/dora.py``).
            work = float(matrix.inputs * (matrix.inputs + 3 * matrix.outputs) * width)
            scaled = tape.apply(
                (up, out), up.values, width, saves=(up, out), temporary=work, backward_temporary=up.size
            )
        elif adapter.kind == "vera":  # the result is multiplied by a trained vector, which keeps it
            scaled = tape.apply((up,), up.values, width, saves=(up,), backward_temporary=up.size)
        else:
            scaled = tape.apply((up,), up.values, width)
        tape.drop(up)
        total = tape.add(out, scaled)
        tape.drop(out, scaled, wide)
        result = tape.cast(total, out.width)
        tape.drop(total)
        return result

    def attention(self, matrices: dict[str, Matrix], x: Tensor) -> Tensor:
        """Run the part where tokens meet: attention, or what a family has instead."""
        from ft_magic.memory import attention

        if self.block.mixer == "delta":
            return attention.run_delta(self, matrices, x)
        if self.block.mixer == "convolution":
            return attention.convolve(self, matrices, x)
        return (attention.attend_latent if "kv_b_proj" in matrices else attention.attend)(self, matrices, x)

    def feed_forward(self, matrices: dict[str, Matrix], routed: dict[str, Matrix], x: Tensor) -> Tensor:
        """Run the feed-forward part: dense, or the experts and what every token visits beside them."""
        from ft_magic.memory.feeding import feed

        return feed(self, matrices, routed, x)
