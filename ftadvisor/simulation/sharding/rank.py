"""What one of several GPUs holds, and what it gathers and reduces while a step runs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from ftadvisor.errors import UnsupportedError
from ftadvisor.schema.settings import FSDP, Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.model.building import DTYPES
from ftadvisor.simulation.recording.recorder import Recorder
from ftadvisor.simulation.sharding.chunked_unit import ChunkedUnit, Exchange
from ftadvisor.simulation.sharding.division import chunked_units, flat_units, tensors_with_gradient
from ftadvisor.simulation.sharding.flat_unit import FlatUnit
from ftadvisor.simulation.sharding.unit import Precision, Unit

SIMULATED = ("none", "ddp", *FSDP)
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop", "adagrad")
"""torch's own: whether others step on shards was not read."""


class Rank:
    """One process that trains, and holds all of the model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def named_parameters(self) -> Iterable[tuple[str, Any]]:
        """What the optimizer steps."""
        return self.model.named_parameters()

    def modules(self) -> Iterable[Any]:
        """Whose embeddings an 8-bit optimizer treats apart."""
        return self.model.modules()

    def adopt(self) -> None:
        """Record what this rank holds of the parameters."""

    def begin_forward(self, *, synchronised: bool) -> None:
        """A micro-batch begins; `synchronised`: its backward reduces gradients."""

    def end_forward(self, loss: Any) -> None:
        """The model's forward has ended."""

    def end_backward(self) -> None:
        """A micro-batch's backward has ended."""


class ShardedRank(Rank):
    """One process of several that have divided the model into FSDP's units.

    Args:
        inside: checkpointing runs around the units' hooks, which it then repeats, as in
            Transformers 4; since 5 it runs inside of them (transformers/modeling_layers.py).
        prefetches: a unit's backward gathers the unit of the next one.
    """

    def __init__(self, model: Any, units: list[Unit], *, inside: bool, prefetches: bool) -> None:
        super().__init__(model)
        self.units = units
        self.prefetches = prefetches
        self._order: list[Unit] = []
        """Units whose forward has ended."""
        self._root = next((unit for unit in units if not unit.division.name), None)
        for unit in units:
            if unit is self._root:
                continue
            for module in unit.division.modules:
                if inside and getattr(module, "gradient_checkpointing", False):
                    self._hook_inside(unit, module)
                else:
                    module.register_forward_pre_hook(partial(self._enter, unit), with_kwargs=True)
                    module.register_forward_hook(partial(self._leave, unit))

    def watch_fused_loss(self) -> None:
        """The loss reads the head's weight outside of the head's forward."""
        model, head = self.model, self.model.get_output_embeddings()
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        for unit in self.units:
            if any(module is head for module in unit.division.modules):
                base.base_model.register_forward_hook(partial(self._gather_head, unit))

    def named_parameters(self) -> Iterable[tuple[str, Any]]:
        """The shards."""
        for unit in self.units:
            for name, shard, _ in unit.shards():
                yield name, shard

    def modules(self) -> Iterable[Any]:
        """None whose parameters are shards."""
        return ()

    def adopt(self) -> None:
        """Record the shards; whole parameters cost nothing."""
        adapted = hasattr(self.model, "peft_config")
        for unit in self.units:
            for name, shard, parameters in unit.shards():
                kind = "adapters" if adapted and shard.requires_grad else "weights"
                unit.recorder.adopt(shard, kind, name.rpartition(".")[0])
                for parameter in parameters:
                    unit.recorder.cover(parameter, shard)

    def begin_forward(self, *, synchronised: bool) -> None:
        """The root gathers what it has."""
        self._order.clear()
        for unit in self.units:
            unit.begin()
            unit.synchronised = synchronised
        if self._root is not None:
            self._root.gather("")
            self._root.wait(forward=True)

    def end_forward(self, loss: Any) -> None:
        """The root's post-forward: it completes units of which only a part has run."""
        for unit in reversed(self.units):
            if unit.running:
                unit.running.clear()
                self._finish(unit, loss)
        if self._root is not None:
            self._finish(self._root, loss)
        for unit in self.units:
            if isinstance(unit, ChunkedUnit):
                unit.exchange.gathered = None

    def end_backward(self) -> None:
        """Catch up on what no hook has done; under no_sync, gradients stay whole."""
        for unit in self.units:
            unit.end_backward()
            for name, parameter in unit.trained:
                if parameter.grad is not None:
                    unit.recorder.label(parameter.grad, "gradients", name.rpartition(".")[0])
        for unit in self.units:
            if isinstance(unit, ChunkedUnit):
                unit.exchange.scattered.clear()

    def _gather_head(self, head: Unit, module: Any, args: Any, output: Any) -> None:
        """TRL gathers it alone where its unit is not gathered, as with PEFT
        (trl/trainer/utils.py, full_tensor).
        """
        if not head.running:
            head.gather("")
            output.last_hidden_state.register_hook(partial(_free, head))

    def _hook_inside(self, unit: Unit, module: Any) -> None:
        checkpoint = module._gradient_checkpointing_func

        def checkpointed(forward: Any, *args: Any) -> Any:
            def hooked(*args: Any) -> Any:
                args, _ = self._enter(unit, module, args, {})
                output = forward(*args)
                self._leave(unit, module, args, output)
                return output

            return checkpoint(hooked, *args)

        module._gradient_checkpointing_func = checkpointed

    def _enter(self, unit: Unit, module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if unit.in_backward:
            return args, kwargs
        first = not unit.running
        if first:
            unit.running = {id(part) for part in unit.division.modules}
        unit.gather(unit.division.name)
        unit.wait(forward=True)
        return unit.watch_inputs(args, kwargs) if first else (args, kwargs)

    def _leave(self, unit: Unit, module: Any, args: Any, output: Any) -> None:
        if unit.in_backward:
            return
        unit.running.discard(id(module))
        if not unit.running:
            self._finish(unit, output)

    def _finish(self, unit: Unit, output: Any) -> None:
        if unit.division.frees:
            unit.free()
        self._order.append(unit)
        for tensor in tensors_with_gradient(output):
            tensor.register_hook(partial(self._before_backward, unit))

    def _before_backward(self, unit: Unit, gradient: Any) -> None:
        if unit.in_backward:
            return
        unit.in_backward = True
        unit.gather(unit.division.name)
        unit.wait(forward=False)
        at = self._order.index(unit)
        if self.prefetches and at:
            self._order[at - 1].gather(unit.division.name)


def _free(unit: Unit, gradient: Any) -> None:
    unit.free()


def check_sharding(settings: Settings, trainer: Trainer) -> None:
    """Raise UnsupportedError for strategies, or settings with them, that are not simulated."""
    closed = ["the closed form"]
    if settings.strategy not in SIMULATED:
        reason = "DeepSpeed's buckets and its cache of gathered parameters are not simulated"
        raise UnsupportedError.of(
            f"strategy {settings.strategy}", reason, ["strategy fsdp", *closed]
        )
    if settings.strategy != "none" and trainer.model_code != "transformers":
        reason = "how it wraps its own model was not read"
        raise UnsupportedError.of(f"{trainer.framework} on several GPUs", reason, closed)
    if settings.strategy not in FSDP:
        return
    if settings.optim not in OPTIMIZERS:
        reason = "its step on FSDP's shards is not simulated"
        raise UnsupportedError.of(f"optimizer {settings.optim}", reason, ["adamw_torch", *closed])
    if settings.quantization not in ("none", "nf4", "nf4-dq"):
        reason = "its layers in FSDP's units are not simulated"
        raise UnsupportedError.of(f"quantization {settings.quantization}", reason, closed)
    if settings.fused_lora:
        reason = "adapters outside of FSDP's units are not simulated"
        raise UnsupportedError.of("fused_lora", reason, closed)


def sharding_assumed(settings: Settings, trainer: Trainer) -> tuple[str, ...]:
    """What a simulation of one rank takes for granted."""
    if settings.strategy == "none":
        return ()
    said = f"simulated: one rank of {int(settings.num_gpus)}; NCCL's buffers are outside of torch's"
    if settings.strategy not in FSDP:
        return (said,)
    version = f"simulated: FSDP{trainer.fsdp_version}, as {trainer.framework} sets it up"
    if settings.quantization == "none":
        return said, version
    return said, version, "4-bit weights are stored in the dtype of the others, and sharded"


def prefetches_flat(trainer: Trainer) -> bool:
    """Whether FSDP1 gathers a unit before its backward: torch's default does, and Transformers and
    accelerate ask it not to (training_args.py, _process_fsdp_args).
    """
    return trainer.fsdp_version == 1 and not trainer.is_hugging_face


def rank_of(model: Any, recorder: Recorder, settings: Settings, trainer: Trainer) -> Rank:
    """The rank that a run's settings make; sharding changes the model's parameters' dtype."""
    if settings.strategy not in FSDP:
        return Rank(model)
    precision = Precision(
        autocast=None if settings.autocast == "none" else DTYPES[settings.autocast],
        trained_fp32=trainer.sharded_trainable_fp32,
    )
    shared: dict[str, Any] = {
        "recorder": recorder, "ranks": int(settings.num_gpus), "precision": precision,
    }  # fmt: skip
    frees = settings.strategy == "fsdp"
    if trainer.fsdp_version == 1:
        flat: list[Unit] = [
            FlatUnit(division=division, full_shard=frees, **shared)
            for division in flat_units(model, frees=frees)
        ]
        inside = trainer.is_hugging_face
        return ShardedRank(model, flat, inside=inside, prefetches=prefetches_flat(trainer))
    exchange = Exchange()
    chunked: list[Unit] = [
        ChunkedUnit(division=division, exchange=exchange, **shared)
        for division in chunked_units(model, frees=frees)
    ]
    rank = ShardedRank(model, chunked, inside=False, prefetches=True)
    if settings.loss_kernel == "chunked":
        rank.watch_fused_loss()
    return rank
