"""Buffers of simulated units against those that torch's FSDP makes, on a CPU, of one process of a
group that does not exist (torch's `fake` back end): the same sizes in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

import peft  # noqa: E402
import torch.distributed as dist  # noqa: E402
import transformers  # noqa: E402
from peft.utils.other import fsdp_auto_wrap_policy  # noqa: E402
from test_simulation import LLAMA, recorded  # noqa: E402
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision  # noqa: E402
from torch.distributed.fsdp import _flat_param as flat_param  # noqa: E402
from torch.distributed.fsdp import _runtime_utils as runtime  # noqa: E402
from torch.distributed.fsdp._fully_shard import _fsdp_collectives as collectives  # noqa: E402
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from ftadvisor.execution.loading import quantization_config  # noqa: E402
from ftadvisor.schema.settings import Settings  # noqa: E402

LAYERS = 3
KBIT = {"quantization": "nf4"}
Log = list[tuple[str, int]]


@pytest.fixture(params=[3, 4])
def ranks(request: pytest.FixtureRequest) -> Generator[int]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield request.param
    dist.destroy_process_group()


def built(technique: str) -> Any:
    config = transformers.AutoConfig.for_model(**{**LLAMA, "num_hidden_layers": LAYERS})
    dtype = torch.float32 if technique == "full" else torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.config.use_cache = False
    if technique == "qlora":
        stored = Settings(technique="qlora", quantization="nf4", strategy="fsdp", autocast="bf16")
        model = type(model).from_pretrained(
            None, config=config, state_dict=model.state_dict(), dtype=dtype,
            quantization_config=quantization_config(stored, ()),
        )  # fmt: skip
    if technique != "full":
        lora = peft.LoraConfig(r=16, target_modules=["q_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, lora)
    return model.train()


def second_step(model: Any, log: Log) -> Log:
    tokens = torch.zeros((2, 96), dtype=torch.long)
    for _ in range(2):
        log.clear()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
    return list(log)


def simulated(names: dict[str, str], **options: Any) -> Log:
    """The second step's buffers of those operations, made (+) and, where asked for, freed (-)."""
    lora = {"lora_target_modules": ("q_proj",), "lora_r": 16}
    options = {"strategy": "fsdp", "autocast": "bf16", **lora, **options}
    recording = recorded(LLAMA, layers=LAYERS, **options)
    starts = {phase.name: phase.start for phase in recording.phases}
    log: Log = []
    for event in recording.events[starts["forward 2"] : starts["clip 2"]]:
        a = recording.allocations[abs(event) - 1]
        sign = "+" if event > 0 else "-"
        if sign in names.get(a.operation, ""):
            log.append((sign, a.size))
    return log


@pytest.mark.parametrize("technique", ["full", "lora", "qlora"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_fsdp2_as_accelerate_sets_it_up(ranks: int, checkpointing: str, technique: str):
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    model = built(technique)
    if checkpointing == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.get_input_embeddings().register_forward_hook(_requires_gradient)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True
    )
    plugin.set_mixed_precision("bf16")
    accelerator: Any = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="bf16", is_main_process=False
    )
    # Without a GPU, torch has to be told which devices form the group.
    accelerator.torch_device_mesh = {(): dist.device_mesh.init_device_mesh("cpu", (ranks,))}
    accelerator.parallelism_config = SimpleNamespace(fsdp_dim_names=())
    model = fsdp2_prepare_model(accelerator, model)
    log: Log = []

    def allocate(self: Any, size: Any, *, dtype: Any, device: Any) -> Any:
        made = torch.empty(*size, dtype=dtype, device=device)
        log.append(("+", made.nbytes))
        return made

    with mock.patch.object(collectives.DefaultAllocMixin, "allocate", allocate):
        real = second_step(model, log)
    found = simulated(
        {"all_gather": "+", "chunk_cat": "+", "reduce_scatter": "+"},
        trainer="transformers-5", technique=technique, num_gpus=ranks,
        gradient_checkpointing=checkpointing, **KBIT if technique == "qlora" else {},
    )  # fmt: skip
    assert found == real


@pytest.mark.parametrize("technique", ["full", "lora"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_fsdp1(ranks: int, reentrant: bool, technique: str):
    half = torch.bfloat16
    layer = transformers.models.llama.modeling_llama.LlamaDecoderLayer
    model = built(technique)
    policy = partial(transformer_auto_wrap_policy, transformer_layer_cls={layer})
    model = FullyShardedDataParallel(
        model,
        auto_wrap_policy=policy if technique == "full" else fsdp_auto_wrap_policy(model),
        mixed_precision=MixedPrecision(param_dtype=half, reduce_dtype=half, buffer_dtype=half),
        backward_prefetch=None,
        device_id=torch.device("cpu"),
    )
    if reentrant:
        for wrapped in FullyShardedDataParallel.fsdp_modules(model):
            if isinstance(wrapped.module, layer):
                wrapped.forward = _checkpointed(wrapped.forward)
        model.module.get_input_embeddings().register_forward_hook(_requires_gradient)
    log: Log = []
    with ExitStack() as stack:
        for owner, name, made in _watched(log):
            stack.enter_context(mock.patch.object(owner, name, made))
        real = second_step(model, log)
    found = simulated(
        {"all_gather_input": "+-", "all_gather": "+-", "reduce_scatter": "+"},
        trainer="transformers-4.48", technique=technique, num_gpus=ranks,
        gradient_checkpointing="full" if reentrant else "none",
    )  # fmt: skip
    assert found == real


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Around FSDP's own forward, as Transformers 4 checkpoints layers."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(partial(forward, **kwargs), *args, use_reentrant=True)

    return run


def _requires_gradient(module: Any, args: Any, output: Any) -> None:
    output.requires_grad_(True)


def _watched(log: Log) -> list[tuple[Any, str, Any]]:
    """FSDP1's allocations, by the functions that make them."""
    allocate, free = flat_param._alloc_storage, flat_param._free_storage
    scatter = runtime._get_reduce_scatter_tensors

    def allocated(tensor: Any, size: Any) -> None:
        log.append(("+", torch.Size(size).numel() * tensor.dtype.itemsize))
        allocate(tensor, size)

    def freed(tensor: Any) -> None:
        size = tensor.untyped_storage().nbytes()
        if size:
            log.append(("-", size))
        free(tensor)

    def scattered(state: Any, gradient: Any) -> Any:
        whole, own = scatter(state, gradient)
        log.append(("+", own.nbytes))
        return whole, own

    return [
        (flat_param, "_alloc_storage", allocated),
        (flat_param, "_free_storage", freed),
        (runtime, "_get_reduce_scatter_tensors", scattered),
    ]
