"""Every technique on every objective: trains, is saved, comes back, and where it can is merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from execution_models import rows, write_rows

import ftadvisor
from ftadvisor.errors import FtadvisorError, UnsupportedError
from ftadvisor.estimation.states import GALORE_RANK
from ftadvisor.execution.merging import MERGED, NOT_MERGED

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

FAMILIES = {"seq_cls": "encoder", "token_cls": "encoder", "seq2seq": "encdec"}
SMALL: dict[str, Any] = {
    "precision": "fp32", "micro_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 4,
    "max_length": 64, "learning_rate": 5e-3,
}  # fmt: skip
WEIGHTS = (
    "lora", "rslora", "dora", "adalora", "ia3", "vera", "loha", "lokr", "oft", "boft", "ln_tuning",
    "bottleneck",
)  # fmt: skip
PROMPTS = ("prefix_tuning", "prompt_tuning", "p_tuning")
QUANTIZED = ("qlora", "qlora-dq", "lora-int8", "bottleneck-nf4", "ia3-nf4")
OF_CLASSIFIERS: dict[str, Any] = {"max_steps": 8, "learning_rate": 2e-3}
"""A head of its own overshoots at the rate that an adapter needs."""
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"max_steps": 16, "learning_rate": 2e-2} for name in PROMPTS},
    "qlora-dq": {"technique": "qlora", "quantization": "nf4-dq"},
    "lora-int8": {"technique": "lora", "quantization": "int8"},
    "bottleneck-nf4": {"technique": "bottleneck", "quantization": "nf4"},
    "ia3-nf4": {"technique": "ia3", "quantization": "nf4"},
}
OF_OBJECTIVES: dict[str, tuple[str, ...]] = {
    "sft": ("full", *WEIGHTS, "adaption_prompt", *PROMPTS, *QUANTIZED),
    "cpt": ("full", "lora", "bottleneck", "prefix_tuning", "qlora"),
    "seq_cls": ("full", *WEIGHTS, *PROMPTS, *QUANTIZED),
    "token_cls": ("full", *WEIGHTS, "prefix_tuning", "qlora", "lora-int8"),
    "seq2seq": ("full", *WEIGHTS, *PROMPTS, "qlora", "lora-int8"),
}
PAIRS = [(name, objective) for objective, names in OF_OBJECTIVES.items() for name in names]
SAME, EXACT, INT8 = 1e-6, 1e-5, 0.03
"""Of the largest logit: what comes back; what rounding in fp32 leaves of a sum; LLM.int8 also
rounds activations."""


class Run(NamedTuple):
    """What a run left, with the trainer that left it."""

    report: ftadvisor.Report
    of: Any
    trainer: Any
    out: Path

    def batch(self) -> dict[str, Any]:
        """Of the rows, with what a forward pass takes."""
        batch = dict(next(iter(self.trainer.get_eval_dataloader())))
        labels = batch.pop("labels")
        if self.of.plan.objective == "seq2seq":
            batch.setdefault("decoder_input_ids", labels.clamp(min=0))
        return batch

    def base(self) -> Any:
        """As it was before training."""
        from ftadvisor.execution.device import processor
        from ftadvisor.execution.loading import load_model
        from ftadvisor.sources.models import find_model

        torch.manual_seed(99)
        model = self.of.plan.model
        family = find_model(model).spec.family
        return load_model(model, family, self.of.settings, processor(), self.of.examples.labels)


def logits(model: Any, batch: dict[str, Any]) -> Any:
    model.eval()
    with torch.no_grad():
        return model(**batch).logits


def examples(objective: str) -> list[dict[str, Any]]:
    """Three of four classified texts are of one class: a head alone can learn that much."""
    if objective != "seq_cls":
        return rows(objective, 32)
    return [
        {"text": "good" if i % 4 else "bad", "label": ["neg", "pos"][min(i % 4, 1)]}
        for i in range(32)
    ]


def train(models: dict[str, Path], place: Path, name: str, objective: str, **options: Any) -> Run:
    from ftadvisor.execution.trainers import BUILDERS

    found: list[Any] = []
    build = BUILDERS[objective]

    def kept(of: Any) -> Any:
        found.extend((of, build(of)))
        return found[-1]

    of_classifiers = OF_CLASSIFIERS if objective == "seq_cls" else {}
    # PEFT loads any adapter so, and outputs can be the same to the last digit.
    dtype = {"adapter_dtype": "fp32"} if name in QUANTIZED else {}
    data = write_rows(place / "rows.jsonl", examples(objective))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setitem(BUILDERS, objective, kept)
        report = ftadvisor.run(
            model=str(models[FAMILIES.get(objective, "decoder")]), objective=objective,
            dataset=str(data), eval_dataset=str(data), output_dir=place / "out",
            **{"technique": name, **SMALL, **of_classifiers, **dtype, **OPTIONS.get(name, {}),
               **options},
        )  # fmt: skip
    return Run(report, found[0], found[1], place / "out")


@pytest.mark.parametrize(("name", "objective"), PAIRS)
def test_trains_and_comes_back(models: dict[str, Path], tmp_path: Path, name: str, objective: str):
    """Loss on fixed rows falls; what was saved answers exactly as what was trained; and so does
    what was merged, within the rounding of its numbers."""
    technique = OPTIONS.get(name, {}).get("technique", name)
    merges = technique not in NOT_MERGED
    run = train(models, tmp_path, name, objective, merge=merges)
    assert run.report.status == "done"
    loss = run.report.metrics["eval_loss"]
    assert loss.before is not None
    assert loss.after is not None
    # Prompts are measured before without them: what they begin with, at random, is worse.
    first = run.report.losses[0]["loss"] if name in PROMPTS else 0.0
    assert loss.after < max(first, loss.before)
    batch = run.batch()
    trained = logits(run.trainer.model, batch)
    whole = type(run.trainer.model if technique == "full" else run.base())
    if technique == "full":
        again = whole.from_pretrained(run.out)
    else:
        again = peft.PeftModel.from_pretrained(run.base(), run.out)
    # AdaLoRA leaves its pruned ranks out, and sums in another order.
    assert (logits(again, batch) - trained).abs().max() <= SAME * trained.abs().max()
    if not merges or technique == "full":
        assert not (run.out / MERGED).exists()
        return
    merged = whole.from_pretrained(run.out / MERGED)
    bound = INT8 if run.of.settings.quantization == "int8" else EXACT
    assert not getattr(merged, "is_quantized", False)
    assert (logits(merged, batch) - trained).abs().max() <= bound * trained.abs().max()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.out / MERGED)
    assert tokenizer.chat_template == run.of.tokenizer.chat_template


@pytest.mark.parametrize("name", NOT_MERGED)
def test_what_cannot_be_merged_is_refused_before_it_is_trained(
    models: dict[str, Path], tmp_path: Path, name: str
):
    with pytest.raises(UnsupportedError, match=r"Merging .* is not supported: .* Try: without"):
        train(models, tmp_path, name, "sft", merge=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("llamapro", "LLaMA-Pro"), ("adapter", "litgpt"), ("adapter_v2", "litgpt")],
)
def test_what_no_library_trains_is_refused_by_name(
    models: dict[str, Path], tmp_path: Path, name: str, said: str
):
    with pytest.raises(FtadvisorError, match=rf"{said}.*Try: ") as refused:
        train(models, tmp_path, name, "sft")
    assert "lora" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning"])
def test_virtual_tokens_have_no_labels(models: dict[str, Path], tmp_path: Path, name: str):
    """PEFT would stop in the first batch, after everything was loaded."""
    with pytest.raises(FtadvisorError, match=r"token_cls.*prefix_tuning"):
        train(models, tmp_path, name, "token_cls")


def test_embeddings_that_are_trained_come_back(models: dict[str, Path], tmp_path: Path):
    """Through PEFT's modules_to_save; merged they are in the whole model too."""
    run = train(models, tmp_path, "lora", "sft", merge=True,
                peft_config={"modules_to_save": ["embed_tokens", "lm_head"]})  # fmt: skip
    trained = run.trainer.model.get_input_embeddings().weight
    assert not torch.equal(trained, run.base().get_input_embeddings().weight)
    again = peft.PeftModel.from_pretrained(run.base(), run.out)
    assert torch.equal(again.get_input_embeddings().weight, trained)
    merged = transformers.AutoModelForCausalLM.from_pretrained(run.out / MERGED)
    assert torch.equal(merged.get_input_embeddings().weight, trained)


def test_an_adapter_of_a_classifier_names_its_classes(models: dict[str, Path], tmp_path: Path):
    """Beside it; a config.json there would be taken for a whole model's."""
    import json

    run = train(models, tmp_path, "lora", "seq_cls", merge=True)
    names = json.loads((run.out / "labels.json").read_text())
    assert names == {"0": "neg", "1": "pos"}
    assert not (run.out / "config.json").exists()
    merged = transformers.AutoConfig.from_pretrained(run.out / MERGED)
    assert merged.id2label == {0: "neg", 1: "pos"}


def test_merging_in_half_precision_rounds_and_no_more(models: dict[str, Path], tmp_path: Path):
    """A base in bf16 holds the sum in 8 bits: the error is that of 2^-8 in each weight."""
    run = train(models, tmp_path, "lora", "sft", merge=True, precision="bf16")
    batch = run.batch()
    trained = logits(run.trainer.model, batch)
    merged = transformers.AutoModelForCausalLM.from_pretrained(run.out / MERGED)
    assert merged.dtype == torch.bfloat16
    assert (logits(merged, batch) - trained).abs().max() <= 0.03 * trained.abs().max()


def test_galore_projects_the_layers_matrices(models: dict[str, Path], tmp_path: Path):
    pytest.importorskip("galore_torch")
    run = train(models, tmp_path, "galore", "sft")
    loss = run.report.metrics["eval_loss"]
    assert None not in (loss.before, loss.after)
    assert loss.after < loss.before  # pyright: ignore[reportOperatorIssue] both are there
    model, optimizer = run.trainer.model, run.trainer.optimizer
    names = {p: name for name, p in model.named_parameters()}
    (projected,) = [group for group in optimizer.param_groups if "rank" in group]
    assert projected["rank"] == GALORE_RANK
    found = {names[p] for p in projected["params"]}
    assert found == {n for n in names.values() if n.endswith("proj.weight")}
