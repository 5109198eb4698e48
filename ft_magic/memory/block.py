"""One decoder layer on the tape, operation by operation as transformers and PEFT run it.

Sources: transformers' ``modeling_llama.py``, ``modeling_phi.py``, ``modeling_gpt2.py``; PEFT's
``tuners/lora/layer.py``; bitsandbytes' ``autograd/_functions.py``; PyTorch's ``native/transformers/attention.cpp``.
"""

from __future__ import annotations

from ft_magic.memory.setting import Setting
from ft_magic.memory.tape import Tape, Tensor
from ft_magic.models.architecture import Architecture, Block, Matrix

_FP32 = 4
_MOST_GROUPS = 8


class LayerTape:
    """Writes layers of one model under one setting on a tape."""

    def __init__(self, tape: Tape, model: Architecture, setting: Setting) -> None:
        """Write on ``tape``."""
        self.tape = tape
        self.model = model
        self.setting = setting
        self.tokens = float(setting.tokens)
        adapter, quantization = setting.adapter, setting.quantization
        self.full = adapter is None
        self.compute = setting.compute_width
        self.norm_width = quantization.norm_width if quantization else setting.weight_width
        self.targets = (
            frozenset(adapter.targets)
            if adapter and adapter.kind in ("lora", "dora", "vera", "ia3", "scaled")
            else frozenset()
        )

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
        tape, matrices = self.tape, {matrix.name: matrix for matrix in block.matrices}
        normed = self.norm(x)
        attended = self.attention(matrices, normed)
        if self.model.model_type in ("phi", "falcon"):  # both branches read the same norm
            fed = self.feed_forward(matrices, normed)
            both = tape.add(attended, fed)
            tape.drop(attended, fed, normed)
            out = tape.add(x, both)
            tape.drop(both)
            return out
        tape.drop(normed)
        middle = tape.add(x, attended)
        tape.drop(attended)
        normed = self.norm(middle)
        fed = self.feed_forward(matrices, normed)
        tape.drop(normed)
        out = tape.add(middle, fed)
        tape.drop(middle, fed)
        return out

    def norm(self, x: Tensor) -> Tensor:
        """Run a norm over the hidden size."""
        tape, values = self.tape, x.values
        trained = self.full or (
            self.setting.adapter is not None and self.setting.adapter.kind in ("norms", "scaled")
        )
        own = self.model.hidden * self.norm_width if trained else 0
        statistics = _FP32 * self.tokens
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
        narrow = tape.cast(scaled, x.width)
        tape.drop(scaled)
        width = max(self.norm_width, x.width)
        out = tape.apply((narrow,), values, width, saves=(narrow,) if trained else (), trained=own)
        tape.drop(narrow)
        return out

    def linear(self, matrix: Matrix, x: Tensor, share: float = 1.0) -> Tensor:
        """Run a linear layer with its adapter; ``share`` is its tokens in all tokens (experts)."""
        out = self._base(matrix, x, share)
        if matrix.name not in self.targets:
            return out
        adapter = self.setting.adapter
        if adapter is not None and adapter.kind in ("ia3", "scaled"):
            scaled = self.tape.apply((out,), out.values, out.width, saves=(out,), backward_temporary=out.size)
            self.tape.drop(out)
            return scaled
        return self._with_lora(matrix, x, out)

    def _base(self, matrix: Matrix, x: Tensor, share: float) -> Tensor:
        tape, setting = self.tape, self.setting
        values = self.tokens * share * matrix.outputs
        quantization = setting.quantization
        if quantization and matrix.part != "router":
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
        # Autocast keeps its 16-bit copy of a trained fp32 weight until the backward pass.
        copied = matrix.weights * self.compute if own and self.compute != setting.weight_width else 0.0
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
        if adapter.kind in ("dora", "vera"):  # the result is multiplied by a trained vector, which keeps it
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
        """Run the attention part."""
        from ft_magic.memory.attention import attend

        return attend(self, matrices, x)

    def feed_forward(self, matrices: dict[str, Matrix], x: Tensor) -> Tensor:
        """Run the feed-forward part: dense, or the experts one after the other."""
        model = self.model
        if "router" not in matrices:
            return self._fed(matrices, x, 1.0)
        tape, size = self.tape, self.tokens * model.hidden
        total = tape.make(size, x.width)
        # Experts cost one by one; more than 8 are counted in 8 groups.
        groups = min(model.experts, _MOST_GROUPS)
        share = model.experts_per_token / groups
        for _ in range(groups):
            rows = tape.apply((x,), size * share, x.width)
            fed = self._fed(matrices, rows, share)
            weighted = tape.apply((fed,), fed.values, fed.width, saves=(fed,))
            tape.drop(rows, fed)
            total = tape.add_into(total, weighted)
            tape.drop(weighted)
        return total

    def _fed(self, matrices: dict[str, Matrix], x: Tensor, share: float) -> Tensor:
        tape = self.tape
        up = self.linear(matrices["up_proj"], x, share)
        if not self.model.gated:
            active = tape.apply((up,), up.values, up.width, saves=(up,))
            tape.drop(up)
        else:
            gate = self.linear(matrices["gate_proj"], x, share)
            if self.setting.fused_mlp or self.setting.compiled:
                active = tape.apply((gate, up), up.values, up.width, saves=(gate, up))
            else:
                soft = tape.apply((gate,), gate.values, gate.width, saves=(gate,))
                active = tape.apply((soft, up), up.values, up.width, saves=(soft, up))
                tape.drop(soft)
            tape.drop(gate, up)
        out = self.linear(matrices["down_proj"], active, share)
        tape.drop(active)
        return out
