"""The run itself: small models really train, and what silently spoils a run does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from execution_models import rows, without_dropout, write_rows

import ftadvisor
from ftadvisor.api.plan_files import read_plan
from ftadvisor.errors import InvalidSettingError
from ftadvisor.execution.tokenizing import load_tokenizer
from ftadvisor.sources.records import read_records

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

SMALL: dict[str, Any] = {
    "precision": "fp32", "micro_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 8,
    "max_length": 64, "learning_rate": 5e-3, "eval_share": 0.2,
}  # fmt: skip
KEYS = {"status", "plan", "predicted", "measured", "losses", "metrics", "events", "versions",
        "seed"}  # fmt: skip
FAMILIES = {"seq_cls": "encoder", "token_cls": "encoder", "seq2seq": "encdec"}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def train(
    models: dict[str, Path], place: Path, technique: str, objective: str = "sft", **options: Any
) -> ftadvisor.Report:
    """A few steps of a small model on rows of the objective."""
    data = options.pop("dataset", None)
    data = data or write_rows(place / f"{objective}.jsonl", rows(objective))
    model = options.pop("model", models[FAMILIES.get(objective, "decoder")])
    return ftadvisor.run(
        model=str(model), technique=technique, objective=objective, dataset=str(data),
        **{**SMALL, "output_dir": place / "out", **options},
    )  # fmt: skip


def logged(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "out/log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("technique", "objective"),
    [("lora", "sft"), ("qlora", "sft"), ("full", "sft"), ("lora", "clm"), ("full", "cpt"),
     ("lora", "seq_cls"), ("qlora", "token_cls"), ("full", "seq2seq")],
)  # fmt: skip
def test_trains_and_leaves_everything(
    models: dict[str, Path], tmp_path: Path, technique: str, objective: str
):
    report = train(models, tmp_path, technique, objective)
    assert report.status == "done"
    loss = report.metrics["eval_loss"]
    assert loss.before is not None
    assert loss.after is not None
    assert loss.after < loss.before
    out = tmp_path / "out"
    written = json.loads((out / "report.json").read_text())
    assert written.keys() >= KEYS
    figures = {"step_seconds", "tokens_per_second", "total_seconds", "allocated_bytes"}
    assert written["measured"].keys() >= figures
    assert "allocated_bytes" in written["predicted"]
    # A CPU has no CUDA context, and its allocator counts nothing else.
    assert not {"reserved_bytes", "device_bytes"} & written["predicted"].keys()
    assert len(written["losses"]) == SMALL["max_steps"]
    saved = "model.safetensors" if technique == "full" else "adapter_model.safetensors"
    assert {saved, "tokenizer.json", "plan.yaml"} <= {path.name for path in out.iterdir()}
    assert len([row for row in logged(tmp_path) if "loss" in row]) == SMALL["max_steps"]
    again = read_plan(out / "plan.yaml")
    assert again.settings == report.plan.settings
    row = read_records().rows[-1]
    if not row["packing"] and "mean_tokens_per_sample" in row:
        # What the trainer counted, not what the plan guessed.
        rows = SMALL["micro_batch_size"] * SMALL["gradient_accumulation_steps"]
        mean = written["measured"]["tokens_per_step"] / rows
        assert row["mean_tokens_per_sample"] == pytest.approx(mean)
        assert mean <= row["longest_sequence_tokens"]


@pytest.mark.parametrize(
    ("objective", "technique"),
    [("seq_cls", "full"), ("token_cls", "lora"), ("token_cls", "adalora"), ("seq2seq", "full")],
)
def test_a_step_learns_the_same_however_it_is_cut(
    models: dict[str, Path], tmp_path: Path, objective: str, technique: str
):
    """Their models return means and take num_items_in_batch, which Transformers takes for divided
    losses: four micro-batches had four times the loss and the gradient.
    """
    model = without_dropout(models[FAMILIES[objective]], tmp_path / "model")
    uneven = [
        {**row, "target": row["target"] + " and" * (i % 5)} if "target" in row else row
        for i, row in enumerate(rows(objective))
    ]
    for i, row in enumerate(uneven):
        if "tokens" in row:
            uneven[i] = {key: value[: 1 + i % 4] for key, value in row.items()}
    data = write_rows(tmp_path / "uneven.jsonl", uneven)
    reports = [
        train(
            models, tmp_path, technique, objective, model=model, dataset=data, max_steps=3,
            output_dir=tmp_path / str(micro), micro_batch_size=micro,
            gradient_accumulation_steps=4 // micro,
        )
        for micro in (4, 1)
    ]  # fmt: skip
    figures = [[(row["loss"], row["grad_norm"]) for row in r.losses] for r in reports]
    for whole, cut in zip(*figures, strict=True):
        assert cut == pytest.approx(whole, rel=2e-3)


def test_answers_alone_are_learnt(models: dict[str, Path], tmp_path: Path):
    """Not the question: the labels of a prompt's tokens are masked."""
    seen: list[Any] = []
    from ftadvisor.execution.trainers import BUILDERS, supervised

    def spied(of: Any) -> Any:
        trainer = supervised.build(of)
        seen.append((trainer.train_dataset[0], of.tokenizer))
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILDERS, "sft", spied)
        train(models, tmp_path, "lora")
    row, tokenizer = seen[0]
    learnt = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learnt).startswith("the sum is")
    assert tokenizer.decode(learnt).endswith("<|im_end|>")


def test_evaluation_leaves_the_gradients_of_four_bits(models: dict[str, Path], tmp_path: Path):
    """bitsandbytes packs 4-bit weights anew at an evaluation; no gradient passes them after it
    (study 2.1; only where the CPU has AVX512-BF16)."""
    data = write_rows(tmp_path / "train.jsonl", rows("sft", 24))
    held_out = write_rows(tmp_path / "held_out.jsonl", rows("sft", 4))
    norms: list[list[float]] = []
    for name, often in (("never", {"eval_share": 0.0}),
                        ("often", {"eval_steps": 1, "eval_dataset": held_out})):  # fmt: skip
        place = tmp_path / name
        place.mkdir()
        # Reading the held-out rows draws from the generator that dropout draws from.
        report = train(models, place, "qlora", dataset=data, max_steps=4, lora_dropout=0.0, **often)
        norms.append([row["grad_norm"] for row in report.losses])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_adapters_of_four_bits_keep_the_dtype_of_the_plan(models: dict[str, Path], tmp_path: Path):
    """TRL stores them in bf16 unasked (study 2.7)."""
    from safetensors.torch import load_file

    for dtype, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        place = tmp_path / dtype
        place.mkdir()
        train(models, place, "qlora", adapter_dtype=dtype)
        saved = load_file(place / "out/adapter_model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {expected}


def test_packed_samples_do_not_see_each_other(models: dict[str, Path], tmp_path: Path):
    """A token of the first sample changes nothing in the second (study 2.6): with a cache or a mask
    of ones it would, and training and evaluation give the model neither."""
    from transformers.models.llama.modeling_llama import LlamaModel

    from ftadvisor.execution.trainers import BUILDERS, supervised

    found: list[Any] = []
    given: list[tuple[bool, Any, bool]] = []
    real = LlamaModel.forward

    def kept(of: Any) -> Any:
        found.append(supervised.build(of))
        return found[-1]

    def forward(self: Any, *args: Any, **inputs: Any) -> Any:
        packed = self.training and "position_ids" in inputs
        given.append((packed, inputs.get("use_cache"), inputs.get("attention_mask") is None))
        return real(self, *args, **inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILDERS, "sft", kept)
        patch.setattr(LlamaModel, "forward", forward)
        train(models, tmp_path, "lora", packing=True, max_length=256, attn_implementation="sdpa")
    (trainer,) = found
    assert [row for row in given if row[0]] == [(True, False, True)] * SMALL["max_steps"]
    batch = next(iter(trainer.get_train_dataloader()))
    assert "attention_mask" not in batch
    # Saving sets it again; what matters is what the forward pass is given.
    trainer.model.config.use_cache = False
    ends = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    assert len(ends) > 1
    ids = {k: batch[k] for k in ("input_ids", "position_ids")}
    trainer.model.eval()
    with torch.no_grad():
        before = trainer.model(**ids, use_cache=False).logits[0, ends[1] :]
        ids["input_ids"] = ids["input_ids"].clone()
        ids["input_ids"][0, 0] += 1
        after = trainer.model(**ids, use_cache=False).logits[0, ends[1] :]
    assert (before - after).abs().max() < 1e-5


def test_raw_text_is_packed_whole(models: dict[str, Path], tmp_path: Path):
    """Best-fit packing cuts what is longer than a pack (study 2.6): no token of it is lost."""
    from ftadvisor.execution.trainers import BUILDERS, supervised

    found: list[Any] = []

    def kept(of: Any) -> Any:
        found.append(supervised.build(of))
        return found[-1]

    texts = [{"text": "one two three four five six seven " * 30}] * 8
    data = write_rows(tmp_path / "long.jsonl", texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILDERS, "cpt", kept)
        train(models, tmp_path, "lora", "cpt", dataset=data, packing=True, eval_share=0.0)
    (trainer,) = found
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    one = len(trainer.processing_class(texts[0]["text"] + "</s>")["input_ids"])
    assert tokens == len(texts) * one


@pytest.mark.parametrize("objective", ["clm", "sft", "seq_cls"])
def test_what_max_length_cuts_is_told(models: dict[str, Path], tmp_path: Path, objective: str):
    """The libraries say nothing, and a model that only sees cut answers never ends its own."""
    texts = ["short", "one two three four five six seven " * 30]
    made = {
        "clm": lambda i: {"text": texts[i % 4 == 0]},
        "sft": lambda i: {"prompt": "Say it.", "completion": texts[i % 4 == 0]},
        "seq_cls": lambda i: {"text": texts[i % 4 == 0], "label": ["a", "b"][i % 2]},
    }[objective]
    data = write_rows(tmp_path / "mixed.jsonl", [made(i) for i in range(8)])
    options: dict[str, Any] = {"dataset": data, "eval_share": 0.0}
    report = train(models, tmp_path, "lora", objective, **options)
    said = [event["what"] for event in report.as_dict()["events"]]
    assert any(what.startswith("2 of 8 examples fill max_length 64") for what in said)
    joined = {**options, "packing": True, "output_dir": tmp_path / "packed"}
    if objective == "sft":
        packed = train(models, tmp_path, "lora", objective, **joined)
        assert not any("fill max_length" in e["what"] for e in packed.as_dict()["events"])


def test_ranks_of_adalora_move(models: dict[str, Path], tmp_path: Path):
    """Its schedule is called, as long as the run is; TRL's loss has its regularisation."""
    from ftadvisor.execution.trainers import orthogonal

    terms: list[float] = []
    real = orthogonal.regularisation

    def spied(model: Any) -> Any:
        terms.append(real(model).item())
        return real(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orthogonal, "regularisation", spied)
        train(models, tmp_path, "adalora", max_steps=8)
    assert len(terms) == 8
    assert all(term > 0 for term in terms)
    saved = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert saved["total_step"] == 8
    kept = [sum(ranks) for ranks in saved["rank_pattern"].values()]
    assert sum(kept) < len(kept) * saved["init_r"]


def test_a_loss_that_is_no_number_ends_the_run(models: dict[str, Path], tmp_path: Path):
    """Transformers would log it as 0.0 and train on (study 2.3)."""
    from ftadvisor.execution.trainers import BUILDERS, supervised

    def poisoned(of: Any) -> Any:
        of.model.get_input_embeddings().weight.data[:] = float("nan")
        return supervised.build(of)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILDERS, "sft", poisoned)
        report = train(models, tmp_path, "full")
    assert report.status == "diverged"
    assert [event.what for event in report.events if event.kind == "divergence"] == [
        "the loss is nan"
    ]
    assert [row["loss"] for row in report.losses] == [None]
    assert not (tmp_path / "out/model.safetensors").exists()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    written = (tmp_path / "out/report.json").read_text()
    assert json.loads(written, parse_constant=refuse)["status"] == "diverged"


@pytest.mark.parametrize("packing", [False, True])
def test_held_out_rows_that_max_length_leaves_nothing_of(
    models: dict[str, Path], tmp_path: Path, packing: bool
):
    """The run goes on without them, and says so; also where it would evaluate between steps."""
    long = [{"prompt": "word " * 300, "completion": "answer"}] * 3
    rest = {"eval_dataset": write_rows(tmp_path / "long.jsonl", long), "eval_steps": 1}
    data = write_rows(tmp_path / "r.jsonl", rows("seq2seq"))
    report = train(
        models, tmp_path, "lora", dataset=data, max_steps=2, packing=packing, **rest
    )  # fmt: skip
    assert report.status == "done"
    assert not report.metrics
    assert any("nothing of what was held out" in event.what for event in report.events)


def test_a_refused_run_leaves_its_directory_free(models: dict[str, Path], tmp_path: Path):
    """The next one, with what the message says, is not told of another run."""
    long = [{"prompt": "word " * 100, "completion": "answer"}] * 5
    data = write_rows(tmp_path / "r.jsonl", long)
    with pytest.raises(InvalidSettingError, match="max_length 32 is shorter than every example"):
        train(models, tmp_path, "lora", dataset=data, max_length=32)
    assert not [*(tmp_path / "out").iterdir()]
    assert train(models, tmp_path, "lora", dataset=data, max_length=512).status == "done"


def test_a_tokenizer_without_template_and_padding(models: dict[str, Path], tmp_path: Path):
    """Both get a named default that is said; one without an end token is refused."""
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(models["decoder"])
    bare.chat_template = bare.pad_token = None
    bare.save_pretrained(tmp_path / "bare")
    found = load_tokenizer(str(tmp_path / "bare"), chat=True)
    assert [said.partition(":")[0] for said in found.said] == ["no pad token", "no chat template"]
    assert found.tokenizer.pad_token == "</s>"
    assert found.marks_answers
    turn = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    assert found.tokenizer.apply_chat_template(turn, tokenize=False) == (
        "User: Why?\nAssistant: Because.</s>\n"
    )
    bare.eos_token = None
    bare.save_pretrained(tmp_path / "endless")
    with pytest.raises(InvalidSettingError, match="neither a pad token nor an end token"):
        load_tokenizer(str(tmp_path / "endless"), chat=True)
