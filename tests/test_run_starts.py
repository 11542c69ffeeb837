"""What PEFT does in silence: it takes an adapter's start out of the base, draws another than was
asked for, leaves out names that fit nothing, and does not save what a checkpoint lacked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from execution_models import SIZES, rows, tokenizer, write_rows
from test_run import train

from ftadvisor.errors import FtadvisorError, UnsupportedError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

import peft  # noqa: E402
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402

FEW: dict[str, Any] = {"max_steps": 2, "save_steps": 0, "eval_answers": 0, "precision": "fp32"}
PAIRS = [{"prompt": f"say {i}", "chosen": "yes", "rejected": "no"} for i in range(8)]


def loss_of(model: Any, row: dict[str, Any], encode: Any) -> float:
    ids = encode(row["text"] + "</s>", return_tensors="pt")["input_ids"][:, :64]
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_before_is_the_base_that_the_adapter_was_cut_out_of(
    models: dict[str, Path], tmp_path: Path, start: str
):
    held_out = write_rows(tmp_path / "held_out.jsonl", rows("clm", 1))
    report = train(
        models, tmp_path, "lora", "clm", eval_dataset=held_out, lora_dropout=0.0, **FEW,
        peft_config={"init_lora_weights": start},
    )  # fmt: skip
    place = models["decoder"]
    encode = transformers.AutoTokenizer.from_pretrained(place)
    base = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
    row = rows("clm", 1)[0]
    found = report.metrics["eval_loss"]
    assert found.before == pytest.approx(loss_of(base, row, encode), rel=1e-5)
    adapted = peft.PeftModel.from_pretrained(base, report.output_dir).eval()
    assert found.after == pytest.approx(loss_of(adapted, row, encode), rel=1e-5)


@pytest.mark.parametrize("start", ["eva", "lora_ga", "corda", "loftq", "pissa_niter_4"])
def test_a_start_that_is_not_made_is_refused(models: dict[str, Path], tmp_path: Path, start: str):
    with pytest.raises(UnsupportedError, match=start):
        train(models, tmp_path, "lora", "clm", peft_config={"init_lora_weights": start})


def test_no_reference_is_left_where_the_start_takes_from_the_base(
    models: dict[str, Path], tmp_path: Path
):
    data = write_rows(tmp_path / "pairs.jsonl", PAIRS)
    with pytest.raises(UnsupportedError, match="takes from the base"):
        train(
            models, tmp_path, "lora", "dpo", dataset=data,
            peft_config={"init_lora_weights": "pissa"},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"modules_to_save": ["lm_haed"]}, "lm_head"),
        ({"rank_pattern": {"qproj": 4}}, "q_proj"),
        ({"alpha_pattern": {"layers.9.self_attn.q_proj": 4}}, "no module"),
        ({"exclude_modules": ["up_prj"]}, "up_proj"),
        ({"layers_to_transform": [1, 7]}, "2 layers"),
        ({"trainable_token_indices": {"embed_tokens": [600]}}, "600 tokens"),
    ],
)
def test_names_that_the_model_has_not(
    models: dict[str, Path], tmp_path: Path, given: dict[str, Any], said: str
):
    with pytest.raises(FtadvisorError, match=said):
        train(models, tmp_path, "lora", "clm", peft_config=given)


@pytest.mark.parametrize(
    "given",
    [
        {"modules_to_save": ["lm_head", "layers.1.input_layernorm"]},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 2, ".*v_proj": 3}},
        {"layers_to_transform": 1, "exclude_modules": ["v_proj"]},
        {"trainable_token_indices": [0, 599]},
    ],
)
def test_names_that_it_has(models: dict[str, Path], tmp_path: Path, given: dict[str, Any]):
    # Layers are chosen of named modules alone.
    options = {**FEW, "lora_target_modules": ["q_proj", "v_proj"], "peft_config": given}
    assert train(models, tmp_path, "lora", "clm", **options).status == "done"


def test_tokens_that_are_trained_are_the_embedding_s(models: dict[str, Path], tmp_path: Path):
    report = train(
        models, tmp_path, "trainable_tokens", "clm", peft_config={"token_indices": [5, 6]}, **FEW
    )
    with safe_open(Path(report.output_dir) / "adapter_model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    assert [name.split(".")[-2] for name in shapes] == ["embed_tokens"]
    assert [*shapes.values()] == [[2, 64]]


def classifier(place: Path, kind: str) -> Path:
    """A checkpoint without the layer that its class has between the body and the head."""
    own: dict[str, dict[str, Any]] = {
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        "modernbert": {"cls_token_id": 2, "sep_token_id": 3},
        "bert": {},
    }
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **own[kind]})
    model = transformers.AutoModelForMaskedLM.from_config(config)
    body = getattr(model, model.base_model_prefix) if kind == "modernbert" else model
    body.save_pretrained(place / kind)
    tokenizer().save_pretrained(place / kind)
    return place / kind


@pytest.mark.parametrize(
    ("kind", "technique", "options"),
    [
        ("deberta-v2", "lora", {}),
        ("deberta-v2", "lora", {"lora_target_modules": ["all-linear"]}),
        ("deberta-v2", "qlora", {}),
        ("modernbert", "lora", {}),
        ("bert", "vera", {}),
        ("bert", "ln_tuning", {}),
    ],
)
def test_what_a_checkpoint_lacked_is_trained_and_saved(
    tmp_path: Path, kind: str, technique: str, options: dict[str, Any]
):
    """Frozen at random and not saved, it would be another where the adapter is loaded."""
    place = classifier(tmp_path, kind)
    data = write_rows(tmp_path / "held_out.jsonl", rows("seq_cls", 1))
    report = train(
        {"encoder": place}, tmp_path, technique, "seq_cls", eval_dataset=data, **FEW, **options
    )
    assert report.status == "done"
    config = json.loads((Path(report.output_dir) / "adapter_config.json").read_text())
    assert config["modules_to_save"] is not None
    torch.manual_seed(99)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(place, num_labels=2)
    loaded = peft.PeftModel.from_pretrained(base, report.output_dir).eval()
    encode = transformers.AutoTokenizer.from_pretrained(place)
    row = rows("seq_cls", 1)[0]
    with torch.no_grad():
        logits = loaded(**encode(row["text"], return_tensors="pt")).logits[0]
    number = report.labels.index(row["label"])
    close = 1e-2 if technique == "qlora" else 1e-4
    expected = -float(torch.log_softmax(logits, -1)[number])
    assert report.metrics["eval_loss"].after == pytest.approx(expected, rel=close)
