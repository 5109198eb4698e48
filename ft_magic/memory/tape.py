"""A tape of tensors: how many bytes are alive while a few operations run forward and then backward.

It knows no numbers, only sizes and who still holds a tensor, by autograd's own rules: a tensor lives while a local
variable or a saved-for-backward list holds it, a gradient while a node waits for it, and a second gradient of the
same tensor is added in place where nobody else holds the first (torch/csrc/autograd/input_buffer.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence


class Tensor:
    """A tensor's bytes and its holders.

    Attributes:
        values: number of elements.
        width: bytes an element.
        holders: local variables and saved lists that keep it alive.
    """

    __slots__ = ("holders", "key", "values", "width")

    def __init__(self, values: float, width: int, key: int = 0) -> None:
        """Hold ``values`` elements of ``width`` bytes; ``key`` names its allocation in the log."""
        self.values = values
        self.width = width
        self.holders = 1
        self.key = key

    @property
    def size(self) -> float:
        """Bytes."""
        return self.values * self.width


class _Gradient:
    """A gradient's bytes and how many nodes wait for it."""

    __slots__ = ("holders", "key", "size")

    def __init__(self, size: float, key: int = 0) -> None:
        self.size = size
        self.holders = 1
        self.key = key


class _Node:
    """One operation to be run backward."""

    __slots__ = (
        "extra_key",
        "extra_saved",
        "inputs",
        "out",
        "over",
        "passes",
        "saves",
        "temporary",
        "trained",
    )

    def __init__(
        self,
        inputs: Sequence[Tensor],
        out: Tensor,
        saves: Sequence[Tensor],
        extra_saved: float,
        temporary: float,
        trained: float,
        over: bool,
    ) -> None:
        self.inputs = inputs
        self.out = out
        self.saves = saves
        self.extra_saved = extra_saved
        self.temporary = temporary
        self.trained = trained
        self.over = over
        self.passes = False
        self.extra_key = 0


class Tape:
    """Bytes alive now, at most so far, and what the backward pass will need.

    Attributes:
        live: bytes alive.
        peak: most bytes alive since the last ``mark``.
        gradients: bytes of parameter gradients made so far; counted in ``live``.
        log: every allocation (key, bytes) and release (key, -1), in order.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.live = 0.0
        self.peak = 0.0
        self.gradients = 0.0
        self.log: list[tuple[int, float]] = []
        self._keys = 0
        self._nodes: list[_Node] = []

    def make(self, values: float, width: int) -> Tensor:
        """Return a new tensor that one local variable holds."""
        return Tensor(values, width, self._grow(values * width))

    def drop(self, *tensors: Tensor) -> None:
        """Let local variables go."""
        for tensor in tensors:
            self._release(tensor)

    def hold(self, tensor: Tensor) -> None:
        """Have one more local variable hold a tensor."""
        self._hold(tensor)

    def mark(self) -> None:
        """Forget the peak so far."""
        self.peak = self.live

    def touch(self, size: float) -> None:
        """Have ``size`` bytes for a moment."""
        if size:
            self._shrink(self._grow(size), size)

    def apply(  # noqa: PLR0913  each is one property of an operation
        self,
        inputs: Sequence[Tensor],
        values: float,
        width: int,
        *,
        saves: Sequence[Tensor] = (),
        saves_out: bool = False,
        extra_saved: float = 0,
        temporary: float = 0,
        backward_temporary: float = 0,
        trained: float = 0,
        gradient_over: bool = False,
    ) -> Tensor:
        """Run one operation.

        Args:
            inputs: tensors that get a gradient.
            values: elements of the result.
            width: bytes an element.
            saves: tensors kept for the backward pass.
            saves_out: whether the result is kept too.
            extra_saved: further bytes kept (masks, statistics, casts of weights).
            temporary: bytes needed beside the result while it runs.
            backward_temporary: the same in the backward pass.
            trained: bytes of the parameter gradients its backward pass makes.
            gradient_over: whether the gradient is written over what is kept, so that it needs no room.
        """
        extra_key = self._grow(extra_saved) if extra_saved else 0
        out = self.make(values, width)
        self.touch(temporary)
        kept = (*saves, out) if saves_out else tuple(saves)
        for tensor in kept:
            self._hold(tensor)
        node = _Node(inputs, out, kept, extra_saved, backward_temporary, trained, gradient_over)
        node.extra_key = extra_key
        self._nodes.append(node)
        return out

    def add(self, one: Tensor, other: Tensor) -> Tensor:
        """Add two tensors; both get the same gradient, without a copy where the widths agree."""
        width = max(one.width, other.width)
        out = self.make(one.values, width)
        node = _Node((one, other), out, (), 0, 0, 0, over=False)
        node.passes = True
        self._nodes.append(node)
        return out

    def add_into(self, total: Tensor, part: Tensor) -> Tensor:
        """Add in place; the sum takes the place of ``total``, and both get the same gradient."""
        out = Tensor(total.values, total.width, total.key)
        total.values = total.key = 0
        node = _Node((total, part), out, (), 0, 0, 0, over=False)
        node.passes = True
        self._nodes.append(node)
        return out

    def cast(self, tensor: Tensor, width: int) -> Tensor:
        """Return the tensor in another width; held once more, and the same tensor where the width is right."""
        if tensor.width == width:
            self._hold(tensor)
            return tensor
        return self.apply((tensor,), tensor.values, width)

    def backward(self, out: Tensor) -> None:
        """Run all operations backward from ``out``, whose gradient is made here."""
        waiting: dict[int, _Gradient] = {}
        waiting[id(out)] = self._gradient(out.size)
        while self._nodes:
            node = self._nodes.pop()
            gradient = waiting.pop(id(node.out), None)
            if gradient is not None:
                self._run(node, gradient, waiting)
            for tensor in node.saves:
                self._release(tensor)
            if node.extra_saved:
                self._shrink(node.extra_key, node.extra_saved)
        for gradient in waiting.values():
            self._let_go(gradient)

    def _run(self, node: _Node, gradient: _Gradient, waiting: dict[int, _Gradient]) -> None:
        made = []
        for tensor in node.inputs:
            if node.over:
                made.append((tensor, _Gradient(0.0)))
            elif node.passes and tensor.size == gradient.size:
                gradient.holders += 1
                made.append((tensor, gradient))
            else:
                made.append((tensor, self._gradient(tensor.size)))
        self.touch(node.temporary)
        if node.trained:
            self.gradients += node.trained
            self._grow(node.trained)
        self._let_go(gradient)
        for tensor, new in made:
            self._accumulate(tensor, new, waiting)

    def _accumulate(self, tensor: Tensor, new: _Gradient, waiting: dict[int, _Gradient]) -> None:
        old = waiting.get(id(tensor))
        if old is None:
            waiting[id(tensor)] = new
        elif old.holders == 1:
            self._let_go(new)
        elif new.holders == 1:
            self._let_go(old)
            waiting[id(tensor)] = new
        else:
            waiting[id(tensor)] = self._gradient(tensor.size)
            self._let_go(old)
            self._let_go(new)

    def _gradient(self, size: float) -> _Gradient:
        return _Gradient(size, self._grow(size))

    def _let_go(self, gradient: _Gradient) -> None:
        gradient.holders -= 1
        if not gradient.holders:
            self._shrink(gradient.key, gradient.size)

    def _hold(self, tensor: Tensor) -> None:
        tensor.holders += 1

    def _release(self, tensor: Tensor) -> None:
        tensor.holders -= 1
        if not tensor.holders:
            self._shrink(tensor.key, tensor.size)

    def _grow(self, size: float) -> int:
        self.live += size
        self.peak = max(self.peak, self.live)
        self._keys += 1
        self.log.append((self._keys, size))
        return self._keys

    def _shrink(self, key: int, size: float) -> None:
        self.live -= size
        self.log.append((key, -1.0))
