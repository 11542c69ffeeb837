"""What FSDP2 and ZeRO divide, and what they cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ftadvisor.api.plan_files import complete_plan
from ftadvisor.errors import FtadvisorError
from ftadvisor.execution import dividing
from ftadvisor.execution.saving import virtual_tokens
from ftadvisor.sources.plans import draft_of


@pytest.mark.parametrize(
    ("technique", "more", "why"),
    [
        (
            "full",
            {"strategy": "fsdp", "optim": "adamw_8bit"},
            r"optim adamw_8bit with strategy fsdp",
        ),
        ("full", {"strategy": "fsdp", "optim": "adafactor"}, "adamw_torch_fused"),
        ("full", {"strategy": "zero2", "optim": "adafactor"}, "another optimizer"),
        ("adalora", {"strategy": "zero2"}, "adalora with strategy zero2"),
        ("adalora", {"strategy": "fsdp"}, "adalora with strategy fsdp"),
        ("galore", {"strategy": "zero3", "optim": "galore_adamw"}, "whole gradient matrices"),
        ("prompt_tuning", {"strategy": "fsdp"}, "cannot save virtual tokens"),
        ("lora", {"strategy": "fsdp", "autocast": "bf16", "adapter_dtype": "bf16"}, "makes fp32"),
        ("full", {"strategy": "fsdp", "offload_params": True}, "together"),
        ("full", {"strategy": "fsdp-shard-grad-op", "offload_optimizer": True}, "zero2"),
    ],
)
def test_what_cannot_be_divided_is_refused(technique: str, more: dict[str, Any], why: str):
    content = {"model": "llama3.2-1b", "technique": technique, "settings": more,
               "hardware": {"gpu": "h100-80gb", "num_gpus": 2}}  # fmt: skip
    with pytest.raises(FtadvisorError, match=why):
        complete_plan(draft_of("a plan", content))


def test_an_encoder_decoder_is_not_divided_by_fsdp():
    content = {"model": "t5-base", "technique": "full", "settings": {"strategy": "fsdp"},
               "hardware": {"gpu": "h100-80gb", "num_gpus": 2}}  # fmt: skip
    with pytest.raises(FtadvisorError, match="share their embeddings"):
        complete_plan(draft_of("a plan", content))


def test_virtual_tokens_are_made_by_all_processes_before_one_saves():
    """Under ZeRO-3 the encoder's forward gathers: a process alone in it would wait for ever."""

    class Model:
        active_adapter = "default"
        made = 0
        active_peft_config = SimpleNamespace(is_prompt_learning=True)

        def get_prompt_embedding_to_save(self, name: str) -> str:
            self.made += 1
            return f"tokens of {name}"

    model = Model()
    with virtual_tokens(SimpleNamespace(is_deepspeed_enabled=True, model=model)):
        assert model.made == 1
        assert model.get_prompt_embedding_to_save("default") == "tokens of default"
        assert model.made == 1
    assert model.get_prompt_embedding_to_save("default")
    assert model.made == 2
    with virtual_tokens(SimpleNamespace(is_deepspeed_enabled=False, model=model)):
        assert model.made == 2


def test_a_class_that_holds_the_embeddings_is_no_layer():
    """accelerate divides the embeddings besides, and torch refuses to do it twice."""
    torch = pytest.importorskip("torch")

    class Embeddings(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(4, 2)

    class Layer(torch.nn.Module):
        pass

    class Encoder(torch.nn.Module):
        _no_split_modules = ("Embeddings", "Layer")

        def __init__(self) -> None:
            super().__init__()
            self.embeddings, self.layer = Embeddings(), Layer()

        def get_input_embeddings(self) -> Any:
            return self.embeddings.words

    model = Encoder()
    dividing._wrap_layers(model)
    assert model._no_split_modules == ["Layer"]
