"""Sees every operation below autograd, and from it every storage that comes and goes."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, cast

from ftadvisor.simulation.cuda.allocator import rounded
from ftadvisor.simulation.cuda.grids import Grid, grid_of
from ftadvisor.simulation.cuda.workspaces import (
    BEFORE_RESULT,
    MASK_FIRST,
    PRODUCTS,
    cublas_workspace,
    kernel_workspaces,
)
from ftadvisor.simulation.recording.accumulation import adds_in_place, from_engine
from ftadvisor.simulation.recording.counting import Count, count
from ftadvisor.simulation.recording.pattern import layer_of
from ftadvisor.simulation.recording.record import Allocation, Kind, Phase, Recording, Work
from ftadvisor.simulation.recording.shapes import answered
from ftadvisor.simulation.stack import TorchDispatchMode, aten, torch


class Recorder(TorchDispatchMode):
    """Records the storages of meta tensors; what is asked of their values, `shapes` answers.

    Args:
        padded: the batch has padding, so a question whether all of a mask is True is denied.
        compute_capability: of the GPU that the step stands for.
        flash: attention is flash-attn's, whatever SDPA would choose.
        grid: the GPU's; None: of the largest with its compute capability.
    """

    def __init__(
        self,
        *,
        padded: bool,
        compute_capability: tuple[int, int],
        flash: bool = False,
        grid: Grid | None = None,
    ) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.padded = padded
        self.compute_capability = compute_capability
        self.flash = flash
        self.grid = grid or grid_of(None, compute_capability)
        self.attention: Counter[str] = Counter()
        self.selected: dict[int, int] = {}
        """How many a boolean mask selects, by its size; one that is not here selects all."""
        self.live_bytes = 0
        self._allocations: list[list[Any]] = []
        self._events: list[int] = []
        self._phases = [Phase("setup", 0)]
        self._numbers: dict[int, int] = {}
        """A storage's address to its allocation's number."""
        self._references: dict[int, Any] = {}
        self._work: dict[tuple[str, str, int | None], Count] = {}
        self._modules: list[str] = [""]
        self._module_of_node: dict[int, str] = {}
        self._stepping = False
        self._made: Kind = "temporaries"
        self._handles: set[bool] = set()
        """Of cuBLAS: the forward's thread has one, autograd's another."""

    # -- what the loop tells ------------------------------------------------------------------

    def mark(self, phase: str) -> None:
        """A new phase begins; what is alive since the last one is an activation if it was made in
        a forward.
        """
        self._stepping = phase.startswith(("clip", "step"))
        # A cache of keys and values is renewed with every token, and lives on as a whole.
        self._made = "activations" if phase.startswith("generate") else "temporaries"
        if self._phases[-1].name.startswith("forward"):
            self._relabel("temporaries", "activations", len(self._phases) - 1)
        self._phases.append(Phase(phase, len(self._events)))

    @property
    def phase(self) -> str:
        """The phase that runs."""
        return self._phases[-1].name

    def adopt(self, tensor: Any, kind: Kind, module: str = "") -> None:
        """Record a tensor that was made before recording began."""
        self._modules += ["", module]
        self._track(tensor, "adopted", kind)
        del self._modules[-2:]

    def label(self, tensor: Any, kind: Kind, module: str) -> None:
        """Say what a live tensor is, and whose."""
        number = self._numbers.get(tensor.untyped_storage()._cdata)
        if number is not None:
            self._allocations[number - 1][2] = module
            self._allocations[number - 1][4] = kind

    def cover(self, tensor: Any, by: Any) -> None:
        """A tensor that costs nothing: it stands for another, which has been adopted."""
        there = self._numbers[by.untyped_storage()._cdata]
        self._numbers[tensor.untyped_storage()._cdata] = there

    def buffer(self, numel: int, dtype: Any, operation: str, kind: Kind, module: str) -> Any:
        """A tensor that a library makes, under the name of what it makes it for."""
        made = torch.empty(numel, dtype=dtype, device="meta")
        number = self._numbers[made.untyped_storage()._cdata]
        self._allocations[number - 1][2:] = [module, operation, kind]
        return made

    def hold(self, size: int, operation: str) -> int:
        """A block of a library that no tensor shows; give the number to `release`."""
        return self._allocate(size, operation, "workspace")

    def release(self, number: int) -> None:
        """Free what `hold` made."""
        self._free(number)

    def empty_cache(self) -> None:
        """The program calls torch.cuda.empty_cache."""
        self._events.append(0)

    @contextmanager
    def inside(self, module: str) -> Generator[None]:
        """What is made meanwhile is the module's."""
        self._modules.append(module)
        try:
            yield
        finally:
            self._modules.pop()

    def watch_modules(self, model: Any, prefix: str = "") -> Callable[[], None]:
        """Know at each operation which module runs; returns what ends it."""
        handles: list[Any] = []
        for name, module in model.named_modules():
            enter = self._entering(prefix + name)
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(self._leave, always_call=True))

        def end() -> None:
            for handle in handles:
                handle.remove()

        return end

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._modules.append(name)

        return enter

    def _leave(self, *_: Any) -> None:
        self._modules.pop()

    def recording(self, **facts: Any) -> Recording:
        """Everything so far."""
        return Recording(
            allocations=tuple(Allocation(*row) for row in self._allocations),
            events=tuple(self._events),
            phases=tuple(self._phases),
            work=tuple(
                Work(phase, cast("Any", category), c.flops, c.moved_bytes, c.kernels, layer)
                for (phase, category, layer), c in self._work.items()
            ),
            attention=tuple(sorted(self.attention.items())),
            **facts,
        )

    # -- what torch tells ---------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name: str = func._opname
        if name == "add" and adds_in_place(args):
            func = aten.add_.Tensor
        elif name == "index_put" and from_engine():
            # index_backward writes in place, except under a dispatch mode.
            func = aten.index_put_.default
        elif name == "scatter_add" and from_engine():
            # So does gather_backward (torch/csrc/autograd/FunctionsManual.cpp).
            func = aten.scatter_add_.default
        found, out = answered(func, args, kwargs, padded=self.padded, selected=self.selected)
        if not found:
            out = func(*args, **kwargs)
        outputs = list(_tensors(out))
        order = reversed(range(len(outputs))) if name in MASK_FIRST else range(len(outputs))
        sizes = kernel_workspaces(func, args, out, self.grid)
        held: list[int] = []
        if name in BEFORE_RESULT:
            held = [self._allocate(size, name, "workspace") for size in sizes]
            sizes = ()
        for at in order:
            owner = self._owner(args, at, len(outputs)) if self._stepping else None
            self._track(outputs[at], name, self._made, owner)
        if name in PRODUCTS:
            self._use_cublas()
        held += [self._allocate(size, name, "workspace") for size in sizes]
        for number in held:
            self._free(number)
        self._count(func, name, args, kwargs, out)
        return out

    def _use_cublas(self) -> None:
        """A thread's first product makes its handle's workspace, in whatever block is free then."""
        backward = self._phases[-1].name.startswith("backward")
        if backward not in self._handles:
            self._handles.add(backward)
            self._allocate(cublas_workspace(self.compute_capability), "cublas", "workspace", "")

    def _count(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        stepping = self._phases[-1].name.startswith("step")
        module = self._module()
        counted = count(func, name, args, kwargs, out, optimizer=stepping, module=module)
        if counted is None:
            return
        key = (self._phases[-1].name, counted.category, layer_of(module))
        before = self._work.get(key)
        self._work[key] = counted if before is None else before.plus(counted)

    def _module(self) -> str:
        """The running module; in backward, that whose forward made the running node."""
        module = self._modules[-1]
        if len(self._modules) == 1:
            node = torch._C._current_autograd_node()
            if node is not None:
                return self._module_of_node.get(node._sequence_nr(), "")
            return module
        # Autograd makes an operation's node right before it runs the operation; what follows
        # without a node of its own finds the number taken.
        self._module_of_node.setdefault(torch._C._autograd._get_sequence_nr() - 1, module)
        return module

    def _owner(self, args: tuple[Any, ...], at: int, number: int) -> str | None:
        """Clipping and the step run outside all modules: whose parameter a result is for."""
        first: Any = args[0] if args else None
        if isinstance(first, list | tuple):
            parts = cast("list[Any]", first)
            first = parts[at] if len(parts) == number else None
        if not isinstance(first, torch.Tensor):
            return None
        made = self._numbers.get(first.untyped_storage()._cdata)
        return None if made is None else self._allocations[made - 1][2]

    def _track(self, tensor: Any, operation: str, kind: Kind, module: str | None = None) -> None:
        if tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        key: int = storage._cdata
        if key in self._numbers:
            return
        size: int = storage.nbytes()
        if size == 0:
            return
        number = self._allocate(size, operation, kind, module)
        self._numbers[key] = number

        def gone(_: object) -> None:
            self._numbers.pop(key, None)
            self._references.pop(number, None)
            self._free(number)

        self._references[number] = weakref.ref(storage, gone)

    def _allocate(self, size: int, operation: str, kind: Kind, module: str | None = None) -> int:
        if module is None:
            module = self._module()
        self._allocations.append([size, len(self._phases) - 1, module, operation, kind])
        number = len(self._allocations)
        self._events.append(number)
        self.live_bytes += rounded(size)
        return number

    def _free(self, number: int) -> None:
        self._events.append(-number)
        self.live_bytes -= rounded(self._allocations[number - 1][0])

    def _relabel(self, old: Kind, new: Kind, phase: int) -> None:
        for number in self._numbers.values():
            row = self._allocations[number - 1]
            if row[1] == phase and row[4] == old:
                row[4] = new


def _tensors(out: Any) -> Iterable[Any]:
    """The tensors among an operation's results."""
    if isinstance(out, torch.Tensor):
        return (out,)
    if isinstance(out, list | tuple):
        found: list[Any] = []
        for part in cast("list[Any]", out):
            found.extend(_tensors(part))
        return found
    return ()
