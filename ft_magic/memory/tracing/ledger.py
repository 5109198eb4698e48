"""Every storage of a step, followed from birth to death. Imported in the worker alone."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_LOSS = "logits and loss"
# Decoder layers are numbered in every architecture's names of weights: model.layers.3.mlp, transformer.h.3.mlp
STACKS = ("layers", "h", "blocks")
LAYER = re.compile(rf"(?:^|\.)(?:{'|'.join(STACKS)})\.(\d+)\.")
# CUDA's softmax backward makes the product of gradient and output before it sums (SoftMax.cu: tmp = grad * output).
_PRODUCTS = frozenset({torch.ops.aten._softmax_backward_data.default})  # noqa: SLF001 - an operator's name
_aten = torch.ops.aten
# What autograd's engine and formulas do in place, but for tensors under a dispatch mode, such as this ledger
# (torch/csrc/autograd/input_buffer.cpp: can_accumulate_inplace; FunctionsManual.cpp: areAnyTensorSubclassLike).
_IN_PLACE = {
    _aten.add.Tensor: _aten.add_.Tensor,
    _aten.scatter_add.default: _aten.scatter_add_.default,
    _aten.index_put.default: _aten.index_put_.default,
    _aten.index_add.default: _aten.index_add_.default,
}


def _counts(tensor: torch.Tensor) -> tuple[int, int]:
    """Return how many hold a tensor, and how many its storage."""
    storage = tensor.untyped_storage()._cdata  # noqa: SLF001
    return tensor._use_count(), torch._C._storage_Use_Count(storage)  # noqa: SLF001


class _Probe(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
    """Sees how often a gradient is held that nobody but autograd's engine holds, when it meets a second one."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _aten.add.Tensor:
            self.found = _counts(args[0])
        return func(*args, **(kwargs or {}))


@cache
def _alone() -> tuple[int, int]:
    """Return the counts of a tensor that its operator alone holds."""
    start = torch.ones(1, device="meta", requires_grad=True) * 1
    probe = _Probe()
    with probe:
        ((start * 2) * (start * 3)).backward()
    return probe.found


class Ledger(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
    """What is allocated, in order, while it is active: works on real and on meta tensors.

    Attributes:
        events: ``+key`` for a new storage, ``-key`` for one that died, 0 where the cache is emptied.
        sizes: bytes by key, rounded as the device rounds.
        tags: part by key.
        owners: decoder layer by key; None for what belongs to no layer.
        marks: ``(position in events, name)``: where a phase begins.
        runs: ``(position in events, layer)``: which layer runs from there on.
        tag: part that new storages belong to.
        backward: whether autograd's engine runs.
    """

    def __init__(self, vocab_size: int, *, rounding_bytes: int, cuda: bool, device: str) -> None:
        super().__init__()
        self.events: list[int] = []
        self.sizes: list[int] = [0]
        self.tags: list[str] = [""]
        self.owners: list[int | None] = [None]
        self.runs: list[tuple[int, int | None]] = [(0, None)]
        self.marks: list[tuple[int, str]] = []
        self.tag = "weights"
        self.backward = False
        self._own = _alone()
        self._vocab_size = vocab_size
        self._rounding_bytes = rounding_bytes
        self._cuda = cuda
        self._device = device
        self._keys: dict[int, int] = {}
        self._watches: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator and follow what it returns."""
        product = None
        if self._cuda and func in _PRODUCTS:
            product = self.hold(args[0].nbytes, _LOSS if self._is_logits(args[0]) else self.tag)
        result = self._operator(func, args)(*args, **(kwargs or {}))
        leaves = [row for row in tree_leaves(result) if isinstance(row, torch.Tensor)]
        for place, leaf in enumerate(leaves):
            if leaf.device.type == self._device:
                self.follow(leaf, owner=self._source(args, place) if self.tag == "optimizer" else None)
        if product is not None:
            self.drop(product)
        return result

    def _operator(self, func: Any, args: tuple[Any, ...]) -> Any:
        """Return what really runs: gradients are summed in place where nobody else holds the first."""
        if not self.backward or func not in _IN_PLACE or torch.is_grad_enabled():
            return func
        first = args[0]
        fits = func is not _aten.add.Tensor or (first.shape, first.dtype) == (args[1].shape, args[1].dtype)
        return _IN_PLACE[func] if fits and first.is_contiguous() and _counts(first) == self._own else func

    def follow(self, tensor: torch.Tensor, tag: str | None = None, owner: int | None = None) -> None:
        """Count a tensor's storage, once, until it dies."""
        storage = tensor.untyped_storage()
        address = storage._cdata  # noqa: SLF001 - the one identity a storage has on every device
        if address in self._keys:
            return
        tag = tag or (_LOSS if self.tag == "activations" and self._is_logits(tensor) else self.tag)
        key = self.hold(storage.nbytes(), tag, owner)
        self._keys[address] = key
        self._watches[address] = weakref.ref(storage, partial(self._died, address, key))

    def hold(self, size_bytes: int, tag: str, owner: int | None = None) -> int:
        """Count bytes that belong to no tensor; return their key."""
        self.sizes.append(-(-size_bytes // self._rounding_bytes) * self._rounding_bytes)
        self.tags.append(tag)
        self.owners.append(self.runs[-1][1] if owner is None else owner)
        key = len(self.sizes) - 1
        self.events.append(key)
        return key

    def drop(self, key: int) -> None:
        """Let go of what ``hold`` counted."""
        self.events.append(-key)

    def empty_cache(self) -> None:
        """Say that the caching allocator gives its free segments back here."""
        self.events.append(0)

    def retag(self, tensors: Iterable[torch.Tensor | None], tag: str) -> None:
        """Say afterwards which part the storages of these tensors belong to."""
        for tensor in tensors:
            if tensor is not None and (key := self._keys.get(tensor.untyped_storage()._cdata)):  # noqa: SLF001
                self.tags[key] = tag

    def own(self, model: torch.nn.Module) -> None:
        """Say afterwards which layer each weight of a model belongs to, by its name."""
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            found = LAYER.search(name)
            if found and (key := self._keys.get(tensor.untyped_storage()._cdata)):  # noqa: SLF001
                self.owners[key] = int(found[1])

    def mark(self, name: str) -> None:
        """Say that a phase begins; no layer runs then."""
        self.runs.append((len(self.events), None))
        self.marks.append((len(self.events), name))

    def enter(self, layer: int | None) -> None:
        """Say that a layer begins to run, or that none does."""
        if self.runs[-1][1] != layer:
            self.runs.append((len(self.events), layer))

    @contextmanager
    def backward_pass(self) -> Iterator[None]:
        """Say that autograd's engine runs inside, perhaps within another run of it."""
        before, self.backward = self.backward, True
        try:
            yield
        finally:
            self.backward = before

    @contextmanager
    def tagged(self, tag: str) -> Iterator[None]:
        """Put what is allocated inside into one part."""
        before, self.tag = self.tag, tag
        try:
            yield
        finally:
            self.tag = before

    def _source(self, args: tuple[Any, ...], place: int) -> int | None:
        """Return the layer of what an operator's result is made from: of its first argument, or list of them."""
        source = args[0] if args else None
        if isinstance(source, list | tuple):
            source = source[place] if place < len(source) else None
        if not isinstance(source, torch.Tensor):
            return None
        key = self._keys.get(source.untyped_storage()._cdata)  # noqa: SLF001
        return None if key is None else self.owners[key]

    def _is_logits(self, tensor: torch.Tensor) -> bool:
        return self._vocab_size in tensor.shape

    def _died(self, address: int, key: int, _: Any) -> None:
        self._keys.pop(address, None)
        self._watches.pop(address, None)
        self.events.append(-key)
