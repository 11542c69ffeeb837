"""Models of other types than Llama's: each trains, or is refused by name before anything is read.

What fails of a type is how Transformers wrote it, so that a tiny model of it fails alike.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from execution_models import SIZES, rows, tokenizer, write_rows
from test_run import train

from ftadvisor.errors import InvalidSettingError, ModelUnavailableError, UnsupportedError
from ftadvisor.execution.kernels import WITHOUT_A_BODY
from ftadvisor.sources.architectures.config import architectures

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

import safetensors.torch as safetensors  # noqa: E402
import transformers  # noqa: E402

EXPERTS = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
EAGER: dict[str, dict[str, Any]] = {
    "gemma2": {**SIZES, "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16},
    "gpt_oss": {**SIZES, **EXPERTS, "head_dim": 16},
    "bloom": {"vocab_size": 600, "hidden_size": 64, "n_layer": 2, "n_head": 4},
}
"""Types without SDPA attention."""
COUNTED = ("phimoe", "granitemoe")
"""Mixtures whose configuration calls its experts otherwise than TRL does."""
READY = {"decoder", "vision_language"}
ROWS = {
    "sft": rows("sft", 12),
    "dpo": [{"prompt": f"say {i}", "chosen": "yes", "rejected": "no"} for i in range(12)],
}


def saved(place: Path, model_type: str, sizes: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        model_type, **sizes, bos_token_id=2, eos_token_id=3, max_position_embeddings=512
    )
    folder = place / model_type
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def trained(place: Path, model_type: str, sizes: dict[str, Any], objective: str) -> Any:
    model = saved(place, model_type, sizes)
    data = write_rows(place / f"{objective}.jsonl", ROWS[objective])
    options = {"objective": objective, "dataset": data, "max_steps": 2, "save_steps": 0}
    return train({"decoder": model}, place, "lora", **options)


@pytest.mark.parametrize("model_type", EAGER)
def test_attention_without_sdpa_is_eager_and_said(tmp_path: Path, model_type: str):
    report = trained(tmp_path, model_type, EAGER[model_type], "sft")
    assert report.status == "done"
    said = [event.what for event in report.events if event.kind == "attention"]
    assert said == [f"eager: Transformers has no SDPA for {model_type}"]


@pytest.mark.parametrize("model_type", COUNTED)
@pytest.mark.parametrize("objective", ROWS)
def test_the_router_s_loss_of_mixtures_that_count_otherwise(
    tmp_path: Path, model_type: str, objective: str
):
    report = trained(tmp_path, model_type, {**SIZES, **EXPERTS}, objective)
    assert report.status == "done"
    # Balanced experts have a loss of 2, of two of them for each token.
    assert all(1.9 < row["aux_loss"] < 4 for row in report.losses)
    assert '"num_experts"' not in (tmp_path / model_type / "config.json").read_text()


def test_a_type_without_a_body_is_refused_by_name(tmp_path: Path):
    sizes = {**SIZES, **EXPERTS, "num_experts_per_tok": 1, "head_dim": 16}
    with pytest.raises(UnsupportedError, match="Running sft of llama4_text"):
        trained(tmp_path, "llama4_text", {**sizes, "intermediate_size_mlp": 128}, "sft")
    assert not (tmp_path / "out").exists()


def described() -> list[str]:
    """Types that are estimated and that Transformers builds a model of that writes text."""
    known = transformers.models.auto.modeling_auto
    names = {
        *known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    }  # fmt: skip
    return [
        name for name, row in architectures().items()
        if row.get("layout") in READY and "refused" not in row and name in names
    ]  # fmt: skip


def test_every_described_type_has_a_body_or_is_refused_and_its_attention_is_known():
    """By the classes' own code: nothing is built."""
    found = described()
    assert len(found) > 50
    for name in found:
        config = type(transformers.AutoConfig.for_model(name))
        vision = config in transformers.AutoModelForImageTextToText._model_mapping
        auto = transformers.AutoModelForImageTextToText if vision else None
        cls = (auto or transformers.AutoModelForCausalLM)._model_mapping[config]
        named = f"self.{cls.base_model_prefix} = "
        own = [kind for kind in cls.__mro__ if kind.__module__.startswith("transformers.models.")]
        bodies = [inspect.getsource(kind) for kind in own]
        assert any(named in text for text in bodies) == (name not in WITHOUT_A_BODY), name
        rows = [architectures()[name]]
        assert cls._supports_sdpa == rows[0].get("sdpa", True), name
        if vision:
            # Of its text too: the wrapper has what both have.
            rows += [architectures()[part] for part in [rows[0]["text"]["type"]]]
        assert cls._supports_flash_attn == all(row.get("flash", True) for row in rows), name


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def renamed(folder: Path) -> None:
    load, save = (getattr(safetensors, name) for name in ("load_file", "save_file"))
    weights = folder / "model.safetensors"
    found = {f"base_model.{name}": tensor for name, tensor in load(weights).items()}
    save(found, weights, metadata={"format": "pt"})


def wider(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 256}))


def untold(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def scribbled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1")


def listed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save([1, 2], folder / "pytorch_model.bin")


@pytest.mark.parametrize("objective", ["sft", "seq_cls"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (scribbled, "cannot be loaded: its weights are no file of tensors"),
        (listed, "cannot be loaded: cannot convert"),
        (cut, "cannot be loaded: .*not fully covered"),
        (renamed, r"lacks 2\d of the model's tensors.*would be random"),
        (untold, "has no tokenizer that Transformers can load"),
        (wider, r"lacks 6 of the model's tensors.*mlp.down_proj.weight"),
    ],
)
def test_a_checkpoint_that_lacks_weights(tmp_path: Path, damage: Any, said: str, objective: str):
    """Transformers draws at random what it does not find, and warns; a cut file failed a run."""
    model = saved(tmp_path, "llama", {**SIZES, "num_key_value_heads": 2})
    damage(model)
    data = write_rows(tmp_path / "rows.jsonl", rows(objective, 12))
    with pytest.raises(ModelUnavailableError, match=said):
        train({"decoder": model, "encoder": model}, tmp_path, "lora", objective, dataset=data)
    assert not (tmp_path / "out/report.json").exists()


@pytest.mark.parametrize(("used", "pads"), [(False, False), (True, False), (False, True)])
def test_tokens_that_the_model_has_no_row_for(tmp_path: Path, used: bool, pads: bool):
    """Of no harm until one is used; then the first step failed that read it."""
    model = saved(tmp_path, "llama", {**SIZES, "num_key_value_heads": 2})
    own = tokenizer()
    assert len(own) == 600
    own.add_tokens(["What" if used else "Never used"])
    if pads:
        own.add_special_tokens({"pad_token": "<new pad>"})
    own.save_pretrained(model)
    data = write_rows(tmp_path / "rows.jsonl", rows("sft", 12))
    options: dict[str, Any] = {"dataset": data, "max_steps": 1, "save_steps": 0}
    if not used and not pads:
        assert train({"decoder": model}, tmp_path, "lora", **options).status == "done"
        return
    name, number = ("What", 600) if used else ("<new pad>", 601)
    said = f"the token '{name}' with the number {number}, and the model has embeddings for 600"
    with pytest.raises(InvalidSettingError, match=said):
        train({"decoder": model}, tmp_path, "lora", **options)
    assert not (tmp_path / "out/report.json").exists()
