"""Counts, on the CPU, what would make a GPU wait for the host or the host for a GPU.

A GPU computes while the host prepares what comes next, as long as nothing has to be known on the host: ``item``,
``tolist``, ``cpu``, ``nonzero`` and boolean indices stop this, and so does a copy of a Python list to the device.
``Waits`` takes some tensors to be those of a device, follows what is computed from them, and counts these stops.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

ATEN = torch.ops.aten
READ = {ATEN._local_scalar_dense, ATEN.is_nonzero, ATEN.equal}
"""Operations whose result is a number of the host."""
SIZED = {ATEN.nonzero, ATEN.masked_select, ATEN._unique2, ATEN.unique_dim, ATEN.unique_consecutive}
"""Operations whose result has a shape that depends on values."""
INDEXING = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._unsafe_index, ATEN._index_put_impl_}
METHODS = ("tolist", "cpu", "numpy", "__array__")
"""Methods of tensors that are not seen as operations on the CPU."""
FACTORIES = ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "zeros")
"""Functions that make a tensor on the device that they are given."""


class Waits(TorchDispatchMode):
    """Counts by kind and place of the code; see the module.

    Args:
        tensors: What is on the device at the beginning.
    """

    def __init__(self, tensors: Iterator[Tensor]) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.on_device = WeakIdKeyDictionary()
        for tensor in tensors:
            self.on_device[tensor] = True

    def note(self, kind: str) -> None:
        """Count a wait at the innermost line of the library, or at the innermost of all."""
        frames = [f for f in traceback.extract_stack() if "waits.py" not in f.filename]
        own = [f for f in frames if "/lightning_nas/" in f.filename] or frames
        self.found[f"{kind} in {own[-1].filename.rpartition('/lightning_nas/')[2]}, {own[-1].name}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind, given = func.overloadpacket, [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        inside = any(tensor in self.on_device for tensor in given)
        if inside and kind in READ | SIZED:
            self.note(kind.__name__)
        if kind in INDEXING and args[0] in self.on_device:
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.note("boolean index")
            elif any(index not in self.on_device for index in indices):
                self.note("index from the host")
        results = func(*args, **(kwargs or {}))
        if inside:
            for result in tree_leaves(results):
                if isinstance(result, Tensor):
                    self.on_device[result] = True
        return results

    def __enter__(self) -> "Waits":
        """Also follow what is no operation on the CPU."""
        self.real = {name: getattr(Tensor, name) for name in METHODS}
        self.made = torch.tensor
        for name, method in self.real.items():
            setattr(Tensor, name, self._counted(name, method))
        torch.tensor = self._tensor
        self.factories = {name: getattr(torch, name) for name in FACTORIES}
        for name, factory in self.factories.items():
            setattr(torch, name, self._followed(factory))
        self.moved = Tensor.to
        Tensor.to = self._to  # type: ignore[method-assign]
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        """Put everything back."""
        super().__exit__(*raised)
        torch.tensor = self.made
        for name, factory in self.factories.items():
            setattr(torch, name, factory)
        Tensor.to = self.moved  # type: ignore[method-assign]
        for name, method in self.real.items():
            setattr(Tensor, name, method)

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if tensor not in self.on_device:
                return method(tensor, *args, **kwargs)
            self.note(name)
            if name == "cpu":  # a tensor of its own, which is not followed
                return self.made(self.real["tolist"](tensor), dtype=tensor.dtype)
            return method(tensor, *args, **kwargs)

        return called

    def _followed(self, factory: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def called(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            made = factory(*args, device=device, **kwargs)
            if isinstance(device, torch.device):  # as in _tensor
                self.on_device[made] = True
            return made

        return called

    @property
    def _to(self) -> Callable[..., Tensor]:
        moved, waits = self.moved, self

        def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            place = kwargs.get("device", args[0] if args else None)
            device = isinstance(place, torch.device) or (isinstance(place, Tensor) and place in waits.on_device)
            if not device or tensor in waits.on_device:
                return moved(tensor, *args, **kwargs)
            if not (kwargs.get("non_blocking") or any(arg is True for arg in args[1:])):
                waits.note("copy to the device")
            result = moved(tensor, *args, **kwargs)
            result = result.view_as(result) if result is tensor else result
            waits.on_device[result] = True
            return result

        return to

    def _tensor(self, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if device is None or (
            isinstance(device, str) and device == "cpu"
        ):  # a name means the host, the device of a tensor that of the training
            return self.made(*args, device=device, **kwargs)
        made = self.made(*args, device=device, **kwargs)
        self.note("tensor from a list")
        self.on_device[made] = True
        return made


class SteadyStep(Callback):
    """Counts the waits of every step of a training.

    Attributes:
        found: Counts of every step.
    """

    def __init__(self) -> None:
        self.found: list[Counter[str]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to count."""
        states = [optimizer.state for optimizer in trainer.optimizers]
        states = [{k: v for k, v in each.items() if k != "step"} for state in states for each in state.values()]
        held = tree_leaves([batch, states])  # optimizers keep their number of steps on the host
        tensors = (*pl_module.parameters(), *pl_module.buffers(), *(x for x in held if isinstance(x, Tensor)))
        self.waits = Waits(iter(tensors))
        self.waits.__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        """Stop."""
        self.waits.__exit__(None, None, None)
        self.found.append(self.waits.found)
