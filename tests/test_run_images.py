"""Images with text: rows to examples, and vision-language models that train on them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import vision_models
from execution_models import chat, write_rows

import ftadvisor
from ftadvisor.errors import DataFileError, FtadvisorError, InvalidSettingError
from ftadvisor.execution.examples import Examples, read_examples
from ftadvisor.schema.plan import PlanDataset
from ftadvisor.schema.run import RunSettings

PIL = pytest.importorskip("PIL")

SMALL: dict[str, Any] = {
    "technique": "lora", "precision": "fp32", "micro_batch_size": 4, "max_steps": 8, "lora_r": 4,
    "gradient_accumulation_steps": 1, "max_length": 128, "learning_rate": 5e-3, "eval_share": 0.2,
    "num_images": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def examples(data: Path, objective: str = "sft") -> Examples:
    dataset = PlanDataset(path=str(data), format=None, columns={}, split="train")
    return read_examples(dataset, objective, RunSettings(output_dir="o", eval_share=0.0), 0)


def parts(message: dict[str, Any]) -> list[str]:
    return [part["text"] if part["type"] == "text" else "IMAGE" for part in message["content"]]


def said(content: Any, image: Any = None) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "red"}]
    return {"messages": messages} if image is None else {"messages": messages, "image": image}


@pytest.mark.parametrize("held", ["column", "mark", "parts", "url", "dict", "bytes"])
def test_images_are_found_wherever_a_row_has_them(tmp_path: Path, held: str):
    red = vision_models.picture(tmp_path / "pictures/red.png", "red")
    encoded = base64.b64encode(red.read_bytes()).decode()
    text = {"type": "text", "text": "Which?"}
    row = {
        "column": said("Which?", "pictures/red.png"),
        "mark": said("<image>\nWhich?", "pictures/red.png"),
        "parts": said([{"type": "image", "image": "pictures/red.png"}, text]),
        "url": said(
            [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}, text]
        ),
        "dict": said("Which?", {"path": "pictures/red.png", "bytes": None}),
        "bytes": said("Which?", red.read_bytes()),
    }[held]
    if held == "bytes":
        from ftadvisor.execution.pictures import illustrated
        from ftadvisor.sources.datasets.formats import layout_of

        layout = layout_of(row)
        assert layout is not None
        found: Any = illustrated(row, layout, tmp_path)
    else:
        (found,) = examples(write_rows(tmp_path / "r.jsonl", [row])).train
    assert parts(found["messages"][0]) == ["IMAGE", "Which?"]
    (image,) = found["images"]
    stored = image["bytes"] or Path(image["path"]).read_bytes()
    assert stored == red.read_bytes()


def test_bytes_in_parquet_are_read(tmp_path: Path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    red = vision_models.picture(tmp_path / "red.png", "red").read_bytes()
    rows = [{"image": {"bytes": red, "path": None}, "caption": "red"}] * 3
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    found = examples(tmp_path / "r.parquet")
    assert [row["images"][0]["bytes"] for row in found.train] == [red] * 3
    assert parts(found.train[0]["prompt"][0]) == ["IMAGE"]
    assert parts(found.train[0]["completion"][0]) == ["red"]


def test_what_is_no_image_is_told_by_row(tmp_path: Path):
    good = vision_models.colours(tmp_path, 3)
    (tmp_path / "pictures/broken.png").write_bytes(b"no picture")
    cut = vision_models.picture(tmp_path / "pictures/cut.png", "red")
    cut.write_bytes(cut.read_bytes()[:60])
    wrong = ["pictures/none.png", "pictures/broken.png", "http://a.org/a.png", "pictures/cut.png"]
    bad = [{**good[0], "image": name} for name in wrong]
    data = write_rows(tmp_path / "r.jsonl", [*good, *bad])
    found = examples(data)
    assert len(found.train) == 3
    assert [problem.line for problem in found.left_out] == [4, 5, 6, 7]
    for problem, name in zip(found.left_out, wrong, strict=True):
        assert name in problem.what
    with pytest.raises(DataFileError, match=r"line 1 has the image 'pictures/none\.png', which is"):
        examples(write_rows(tmp_path / "s.jsonl", bad[:1]))
    with pytest.raises(DataFileError, match="has images, which clm does not learn from"):
        examples(data, "clm")


def test_rows_with_and_without_images_are_of_one_shape(tmp_path: Path):
    rows = [said("Which?", vision_models.colours(tmp_path, 1)[0]["image"]), chat(1)[0]]
    found = examples(write_rows(tmp_path / "r.jsonl", rows)).train
    assert [len(row["images"]) for row in found] == [1, 0]
    assert parts(found[1]["messages"][0]) == ["What is 0 plus 0?"]


def test_a_model_that_reads_no_images(tmp_path: Path):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
              "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
              "vocab_size": 600, "max_position_embeddings": 1024}  # fmt: skip
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    data = write_rows(tmp_path / "r.jsonl", vision_models.colours(tmp_path))
    with pytest.raises(InvalidSettingError, match="reads none"):
        ftadvisor.run(
            model=str(tmp_path / "m"), dataset=str(data), output_dir=tmp_path / "out",
            **{**SMALL, "num_images": 0},
        )  # fmt: skip


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("trl")
    return vision_models.llava(tmp_path_factory.mktemp("llava"))


@pytest.mark.slow
def test_llava_trains_and_is_loaded_again_with_its_processor(llava: Path, tmp_path: Path):
    """Its loss falls; what is trained is what the estimate counts, and the projector's."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    out = tmp_path / "out"
    rows = vision_models.colours(tmp_path)
    long = {**rows[0], "question": "and " * 200}
    data = write_rows(tmp_path / "r.jsonl", [*rows, long])
    report = ftadvisor.run(model=str(llava), dataset=str(data), output_dir=out, **SMALL)
    assert report.status == "done"
    loss = report.metrics["eval_loss"]
    assert loss.before is not None
    assert loss.after is not None
    assert loss.after < loss.before
    assert any("above max_length 128" in event.what for event in report.events)
    base = AutoModelForImageTextToText.from_pretrained(llava)
    model = PeftModel.from_pretrained(base, out, is_trainable=True)
    trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained)
    projector = sum(n for name, n in trained.items() if "multi_modal_projector" in name)
    assert sum(trained.values()) - projector == report.plan.estimate.num_trainable_params
    processor = AutoProcessor.from_pretrained(out)
    ask = [{"role": "user", "content": [{"type": "image", "url": str(tmp_path / rows[0]["image"])},
                                        {"type": "text", "text": "Which colour?"}]}]  # fmt: skip
    inputs = processor.apply_chat_template(
        ask, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    with torch.no_grad():
        before = model.eval()(**inputs).logits
        base = AutoModelForImageTextToText.from_pretrained(llava)
        other = PeftModel.from_pretrained(base, out).eval()
        assert torch.equal(other(**inputs).logits, before)
        with model.disable_adapter():
            assert not torch.equal(model(**inputs).logits, before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.max_length. is ignored")
def test_eval_alone_reads_images_too(llava: Path, tmp_path: Path):
    """Of the adapter and of what it is merged into; rows without images among them."""
    plain = {"question": "Which colour is the sky?", "answer": "it is blue"}
    rest = write_rows(tmp_path / "rest.jsonl", [plain, *vision_models.colours(tmp_path, 4)])
    data = write_rows(tmp_path / "r.jsonl", vision_models.colours(tmp_path))
    out = tmp_path / "out"
    options = {**SMALL, "eval_dataset": rest, "max_steps": 2, "merge": True}
    report = ftadvisor.run(model=str(llava), dataset=str(data), output_dir=out, **options)
    for place in (out, out / "merged"):
        found = ftadvisor.evaluate(
            place, dataset=rest, metrics=["eval_loss"], precision="fp32", max_length=128
        )
        again = found.metrics["eval_loss"].after
        assert again == pytest.approx(report.metrics["eval_loss"].after, rel=1e-4)
    (tmp_path / "text").mkdir()
    config = json.loads((llava / "config.json").read_text())["text_config"]
    (tmp_path / "text/config.json").write_text(
        json.dumps({**config, "architectures": ["LlamaForCausalLM"]})
    )
    with pytest.raises(InvalidSettingError, match="reads none"):
        ftadvisor.evaluate(tmp_path / "text", dataset=rest)


@pytest.mark.slow
def test_only_answers_are_learnt_and_images_arrive(llava: Path, tmp_path: Path):
    from ftadvisor.execution.trainers import BUILDERS, images

    seen: list[Any] = []

    def spied(of: Any) -> Any:
        trainer = images.build(of)
        seen.append((next(iter(trainer.get_train_dataloader())), of.tokenizer.tokenizer))
        return trainer

    data = write_rows(tmp_path / "r.jsonl", vision_models.colours(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILDERS, "sft", spied)
        ftadvisor.run(
            model=str(llava), dataset=str(data), output_dir=tmp_path / "out",
            **{**SMALL, "max_steps": 1},
        )  # fmt: skip
    ((batch, tokenizer),) = seen
    assert batch["pixel_values"].shape == (4, 3, 28, 28)
    for labels in batch["labels"]:
        assert tokenizer.decode(labels[labels != -100]).startswith("it is ")


@pytest.mark.slow
def test_qwen2_vl_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its processor needs torchvision, which is asked for by name where it is missing."""
    pytest.importorskip("trl")
    from ftadvisor.execution import run, tokenizing

    model = vision_models.qwen(tmp_path / "qwen")
    data = write_rows(tmp_path / "r.jsonl", vision_models.colours(tmp_path))
    options = {"model": str(model), "dataset": str(data), **SMALL}
    kind = {"processor_class": "Qwen2VLProcessor"}
    path = model / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **kind}))
    try:
        import torchvision  # noqa: F401
    except ImportError:
        with pytest.raises(FtadvisorError, match=r"(?i)torchvision") as caught:
            ftadvisor.run(output_dir=tmp_path / "none", **options)
        assert "pip install torchvision" in caught.value.suggestions
    loaded = tokenizing.Tokenizing(vision_models.qwen_processor(model), ())
    monkeypatch.setattr(run, "load_tokenizer", lambda *_, **__: loaded)
    # Without the part that reads videos it cannot be saved.
    monkeypatch.setattr(loaded.tokenizer, "save_pretrained", lambda *_, **__: None)
    report = ftadvisor.run(output_dir=tmp_path / "out", **options)
    loss = report.metrics["eval_loss"]
    assert loss.before is not None
    assert loss.after is not None
    assert loss.after < loss.before
