"""What torch has allocated on a CPU, whose allocator keeps no peak as a GPU's does.

torch.profiler records it beside every operation, which is dear: 0.3 s and 30 MB for a step of
2,000 operations. With no operations asked for, Kineto records allocations alone: 6 ms and 1 MB.
Even so not every step is watched, but every one that may be the fullest so far: the first before
and after there are optimizer states, and each whose batch is larger than those that were watched.

A recording does not tell that something older than it is freed (torch 2.13 c10/core/
CPUAllocator.cpp, ProfiledCPUMemoryReporter::Delete), and torch warns on standard error. So each is
short: from a micro-batch's loss to the end of its backward pass, and the optimizer's step, in which
nothing is freed but what they allocate. What is there before is the sum of the tensors' storages,
weights that are mapped from their file among them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, cast

from ftadvisor.execution import stack


class Allocations:
    """Follows a trainer on a CPU; `peak` and `now` stay 0 where torch cannot tell."""

    def __init__(self) -> None:
        self.peak = 0
        """Of the watched steps so far [bytes]."""
        self.now = 0
        """Weights and optimizer states, before the last watched step [bytes]."""
        self._since = 0
        self._largest: dict[tuple[bool, bool], int] = {}
        self._trainer: Any = None
        self._trains = self._accumulates = self._watches = False
        self._optimized = 0
        self._held = 0
        self._able = True

    def follow(self, trainer: Any) -> None:
        """Watch this trainer's micro-batches.

        From its loss on: a policy's answers are drawn before it, in thousands of operations. Not in
        an evaluation.
        """
        self._trainer = trainer
        loss, step = trainer.compute_loss, trainer.training_step

        def watched_loss(model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            if self._trains and self._is_larger(inputs):
                self._begin()
            return loss(model, inputs, *args, **options)

        def watched_step(*args: Any, **options: Any) -> Any:
            self._trains = True
            try:
                return step(*args, **options)
            finally:
                self._trains, self._accumulates = False, True
                self.close()

        trainer.compute_loss, trainer.training_step = watched_loss, watched_step

    def before_optimizer(self) -> None:
        """Its step takes the same each time, but that the first one makes the states: the second is
        watched, or the only one."""
        if self._optimized == (1 if self._trainer.state.max_steps > 1 else 0):
            self._begin()

    def after_optimizer(self) -> None:
        """The next micro-batch finds no gradients."""
        self.close()
        self._optimized += 1
        self._accumulates = False

    def of_step(self) -> int | None:
        """The fullest moment since the last call [bytes]; None: nothing was watched."""
        found, self._since = self._since, 0
        self.peak = max(self.peak, found)
        return found or None

    def close(self) -> None:
        """What is watched ends here, if anything is."""
        if not self._watches:
            return
        self._watches = False
        now = highest = 0
        for change in _recorded():
            now += change
            highest = max(highest, now)
        self._since = max(self._since, self._held + highest)

    def _is_larger(self, inputs: Any) -> bool:
        """Than any watched one that found as much beside it: states, gradients of those before."""
        kind = (self._optimized > 0, self._accumulates)
        values: Any = inputs.values() if hasattr(inputs, "values") else ()
        size = sum(v.numel() for v in values if isinstance(v, stack.torch.Tensor))
        if size <= self._largest.get(kind, -1):
            return False
        self._largest[kind] = size
        return True

    def _begin(self) -> None:
        if not self._able or self._watches:
            return
        self._held = held_bytes(models_of(self._trainer), self._trainer.optimizer)
        try:
            _record()
        except (AttributeError, TypeError, RuntimeError):
            # Another profiler runs, or torch has changed: these are no public functions.
            self._able = False
            return
        self._watches = True
        if self._trains and not self._accumulates:
            self.now = self._held


def models_of(trainer: Any) -> list[Any]:
    """Every model that a trainer keeps: its own, a reference, a teacher, rewards."""
    module = stack.torch.nn.Module
    kept: list[Any] = []
    for value in trainer.__dict__.values():
        kept += cast("list[Any]", value) if isinstance(value, list) else [value]
    return [one for one in kept if isinstance(one, module)]


def held_bytes(models: Iterable[Any], optimizer: Any) -> int:
    """Storages of parameters, buffers, gradients and optimizer states, each once [bytes]."""
    parameters: list[Any] = []
    tensors: list[Any] = []
    tables: list[Any] = []
    copies = 0
    for model in models:
        own = [*model.parameters()]
        parameters += own
        tensors += model.buffers()
        if isinstance(model, stack.torch.nn.parallel.DistributedDataParallel):
            # Its buckets hold a copy of the gradients, out of Python's sight.
            copies += sum(p.nbytes for p in own if p.requires_grad)
        # AdaLoRA's importance of each weight of its ranks lies beside the model.
        ranks = getattr(getattr(model, "base_model", None), "rankallocator", None)
        tables += ranks.__dict__.values() if ranks else ()
    tensors += [*parameters, *(p.grad for p in parameters if p.grad is not None)]
    # An 8-bit weight keeps its scales beside it, a 4-bit one its own, and those theirs.
    tables += [{0: getattr(p, "SCB", None)} for p in parameters]
    scales = [getattr(p, "quant_state", None) for p in parameters]
    scales += [getattr(state, "state2", None) for state in scales]
    tables += [vars(state) for state in scales if state is not None]
    tables += [*optimizer.state.values()]
    named = [cast("dict[Any, Any]", each) for each in tables if isinstance(each, dict)]
    tensors += [v for each in named for v in each.values() if isinstance(v, stack.torch.Tensor)]
    storages = {s.data_ptr(): s.nbytes() for t in tensors for s in _storages(t)}
    return sum(storages.values()) + copies


def _storages(tensor: Any) -> Iterator[Any]:
    """Of torchao's 8-bit states and of divided tensors those of the tensors within."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _storages(getattr(tensor, name))
    elif isinstance(tensor, stack.torch.Tensor):
        yield tensor.untyped_storage()


def _record() -> None:
    """Start recording this thread's allocations.

    Of operations only those are recorded that Python names, which are few (torch 2.13
    torch/csrc/autograd/profiler_kineto.cpp, enableProfiler).
    """
    # It writes a line to standard error for each start and end.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    autograd, profiler = stack.torch.autograd, stack.torch._C._profiler
    if autograd._profiler_enabled():
        raise RuntimeError("another profiler runs")
    options = profiler._ExperimentalConfig()
    config = autograd.ProfilerConfig(
        autograd.ProfilerState.KINETO, False, True, False, False, False, options
    )
    activities = {autograd.ProfilerActivity.CPU}
    autograd._prepare_profiler(config, activities)
    autograd._enable_profiler(config, activities, {profiler.RecordScope.USER_SCOPE})


def _recorded() -> Iterator[int]:
    """End it: what was allocated, and with a minus freed, in the order of time [bytes]."""
    events = stack.torch.autograd._disable_profiler().events()
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            yield event.nbytes()
