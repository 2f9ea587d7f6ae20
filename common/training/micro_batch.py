"""How many windows to push through a model at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LARGEST_ALLOCATION = 32 * 2**20
"""Bytes. glibc gives larger blocks back to the kernel at once, so each use faults every page in anew
(mallopt(3), M_MMAP_THRESHOLD); a batch of 64 then takes four times as long."""


def keep_freed_memory() -> None:
    """Let the next step have the memory of the last one, which glibc would give back to the kernel.

    It does so where a large block or the end of the heap is free, and each page is then faulted in anew. What
    is large it learns from the largest block that was ever freed, up to 32 MiB with its own header
    (mallopt(3), M_MMAP_THRESHOLD). A step takes a tenth to a sixth less time for it.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)


def micro_batch_size(model: nn.Module, frames: int, features: int, *, per_sample_gradients: bool) -> int:
    """Windows (frames, features) to compute at once so that no activation exceeds the limit; at least 1.

    With `per_sample_gradients` those of all samples together stay within a quarter of it: they are gone over
    several times, which is faster while they are in the processor's cache, and they come on top of what plain
    training takes.
    """
    size = LARGEST_ALLOCATION // _largest_activation(model, frames, features)
    if per_sample_gradients:
        row = sum(value.nbytes for value in model.parameters() if value.requires_grad)
        size = min(size, LARGEST_ALLOCATION // 4 // max(1, row))
    return max(1, size)


_known: WeakKeyDictionary[nn.Module, dict[tuple[int, int], int]] = WeakKeyDictionary()


def _largest_activation(model: nn.Module, frames: int, features: int) -> int:
    """Bytes, for one window. Kept with the model: to find out takes as long as training on two windows."""
    sizes = _known.setdefault(model, {})
    if (frames, features) not in sizes:
        watched = _AllocationSizes(model)
        with torch.no_grad(), watched:
            model(torch.zeros(1, frames, features))
        sizes[frames, features] = watched.largest
    return sizes[frames, features]


class _AllocationSizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest tensor, in bytes, that an operation makes; views of the parameters do not count."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {value.untyped_storage().data_ptr() for value in model.parameters()}
        self.largest = 1

    def __torch_dispatch__(
        self,
        operation: Callable[..., object],
        types: object,
        arguments: tuple[object, ...] = (),
        options: Mapping[str, object] | None = None,
    ) -> object:
        result = operation(*arguments, **(options or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in self._known:
                self.largest = max(self.largest, value.nbytes)
        return result
