"""FSDP2 and ZeRO over two processes of a CPU: what one process learns, and all of it is saved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from execution_models import rows, write_rows

import ftadvisor
from ftadvisor.sources.yaml_files import dump_yaml

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("trl")

SETTINGS: dict[str, Any] = {
    "weights_dtype": "fp32", "autocast": "none", "micro_batch_size": 2,
    "gradient_accumulation_steps": 2, "max_length": 64, "learning_rate": 5e-3, "warmup_steps": 0,
    "gradient_checkpointing": "none",
}  # fmt: skip
RUN: dict[str, Any] = {"max_steps": 4, "save_steps": 2, "eval_share": 0.225, "progress": False}
# Nine rows of 41 are held out: what does not fill a batch of every process would be repeated.
HALF = {"weights_dtype": "bf16", "lora_dropout": 0.2}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": ("full", {}),
    "kept": ("lora", {"lora_dropout": 0.3}),
    "again": ("lora", {"lora_dropout": 0.3, "gradient_checkpointing": "full"}),
    "mixed": ("lora", {**HALF, "autocast": "bf16"}),
    "half": ("lora", {**HALF, "adapter_dtype": "bf16"}),
    "classes": ("full", {"objective": "seq_cls"}),
    "four": ("qlora", {"weights_dtype": "fp32", "autocast": "bf16", "lora_dropout": 0.0}),
}
"""Technique and settings."""
TRAINED = ("whole", "kept")
"""Ended once more after the last checkpoint."""
STRATEGIES = ("fsdp", "zero1", "zero2", "zero3")


def plan(
    place: Path,
    models: dict[str, Path],
    technique: str,
    settings: dict[str, Any],
    strategy: str = "none",
) -> str:
    sharing = {} if strategy == "none" else {"strategy": strategy}
    gpus = 2 if sharing else 1
    objective = settings.get("objective", "sft")
    others = {name: value for name, value in settings.items() if name != "objective"}
    content = {
        "model": str(models["decoder" if objective == "sft" else "encoder"]),
        "technique": technique, "objective": objective,
        "dataset": str(write_rows(place / f"{objective}.jsonl", rows(objective, 41))),
        "hardware": {"gpu": None, "num_gpus": gpus},
        "settings": {**SETTINGS, **others, **sharing},
    }  # fmt: skip
    file = place / f"{len(list(place.glob('*.yaml')))}.yaml"
    file.write_text(dump_yaml(content))
    return str(file)


@pytest.fixture(scope="module", params=STRATEGIES)
def done(
    request: pytest.FixtureRequest,
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """All runs, whose libraries take longer to import than they take to train."""
    if request.param.startswith("zero"):
        pytest.importorskip("deepspeed")
    place = tmp_path_factory.mktemp("sharded")
    cases: list[dict[str, Any]] = []
    for name, (technique, settings) in RUNS.items():
        file = plan(place, models, technique, settings, request.param)
        case = {"plan": file, "output_dir": str(place / name), "merge": name == "kept", **RUN}
        again = {"output_dir": str(place / f"{name} resumed"), "cut": case["output_dir"]}
        cases += [case, {**case, **again, "resume": True}]
        trained = {"output_dir": str(place / f"{name} trained"), "cut": case["output_dir"]}
        cases += [{**case, **trained, "lost": 0, "resume": True}] if name in TRAINED else []
    script = Path(__file__).with_name("sharded_run.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
               "2", str(script), json.dumps(cases)]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        if request.param.startswith("zero"):
            patch.setenv("DS_ACCELERATOR", "cpu")
        ran = subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return place


def steps(place: Path) -> list[tuple[float, float]]:
    report = json.loads((place / "report.json").read_text())
    return [(row["loss"], row["grad_norm"]) for row in report["losses"]]


def test_it_learns_what_one_process_learns(
    request: pytest.FixtureRequest, done: Path, models: dict[str, Path]
):
    from safetensors.torch import load_file

    more = {"gradient_accumulation_steps": 4}
    file = plan(done, models, "full", more)
    one = ftadvisor.run(file, output_dir=done / "one", **RUN)
    report = json.loads((done / "whole/report.json").read_text())
    both = one.metrics.keys() & report["metrics"].keys()
    assert {"eval_loss", "perplexity", "token_accuracy", "general_perplexity"} <= both
    # Where each process has all weights it draws answers too.
    assert ("bleu" in both) == (request.node.callspec.params["done"] in ("zero1", "zero2"))
    for name in both:
        told, here = one.metrics[name], report["metrics"][name]
        found = [here[k] for k in ("before", "after", "low", "high")]
        expected = [told.before, told.after, told.low, told.high]
        assert found == pytest.approx(expected, rel=1e-3), name
    found = steps(done / "whole")
    assert found == [pytest.approx((r["loss"], r["grad_norm"]), abs=1e-4) for r in one.losses]
    learnt = [load_file(done / name / "model.safetensors") for name in ("one", "whole")]
    assert learnt[0].keys() == learnt[1].keys()
    for name, weight in learnt[0].items():
        assert (weight - learnt[1][name]).abs().max() < 1e-4, name


def test_four_bit_weights_are_divided_as_they_are(done: Path, models: dict[str, Path]):
    """Mixed precision gathers in bf16: what is stored in fp32 would be rounded, though it is no
    number."""
    more = {**RUNS["four"][1], "gradient_accumulation_steps": 4}
    one = ftadvisor.run(plan(done, models, "qlora", more), output_dir=done / "one of four", **RUN)
    found = steps(done / "four")
    assert found == [pytest.approx((r["loss"], r["grad_norm"]), rel=3e-2) for r in one.losses]


def test_it_is_evaluated_before_and_after(done: Path):
    """accelerate prepares no model for FSDP2 before it has an optimizer."""
    report = json.loads((done / "whole/report.json").read_text())
    loss = report["metrics"]["eval_loss"]
    assert loss["after"] < loss["before"]
    # Of a model that knows nothing: the logarithm of its vocabulary.
    assert loss["before"] == pytest.approx(6.4, abs=0.1)


def test_a_divided_model_decides_about_each_row_once(done: Path):
    found = json.loads((done / "classes/report.json").read_text())["metrics"]
    assert {"accuracy", "f1", "mcc"} <= found.keys()
    for figure in ("before", "after"):
        hits = found["accuracy"][figure] * 9
        assert hits == pytest.approx(round(hits))


def test_dropout_is_the_same_where_layers_are_computed_again(done: Path):
    """accelerate's own checkpointing draws it anew: the gradients are of another function."""
    assert steps(done / "again") == [pytest.approx(step, abs=1e-5) for step in steps(done / "kept")]


@pytest.mark.parametrize("name", RUNS)
def test_it_goes_on_exactly(done: Path, name: str):
    resumed = done / f"{name} resumed"
    assert "resumed" in (resumed / "report.json").read_text()
    assert steps(resumed) == steps(done / name)


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_trained_already_is_saved(done: Path, name: str):
    """Killed after its last step: nothing is left to train, only to evaluate and to save."""
    from safetensors.torch import load_file

    again, first = (json.loads((done / n / "report.json").read_text())
                    for n in (f"{name} trained", name))  # fmt: skip
    assert again["status"] == "done"
    after = again["metrics"]["eval_loss"]["after"]
    assert after == pytest.approx(first["metrics"]["eval_loss"]["after"])
    file = "model.safetensors" if name == "whole" else "adapter_model.safetensors"
    saved = load_file(done / f"{name} trained" / file)
    assert all((weight == saved[n]).all() for n, weight in load_file(done / name / file).items())


def test_an_adapter_is_whole(done: Path, models: dict[str, Path]):
    import peft
    import transformers
    from safetensors.torch import load_file

    base = transformers.AutoModelForCausalLM.from_pretrained(models["decoder"])
    loaded = peft.PeftModel.from_pretrained(base, str(done / "kept"))
    own = peft.get_peft_model_state_dict(loaded)
    saved = load_file(done / "kept/adapter_model.safetensors")
    assert {n: tuple(t.shape) for n, t in own.items()} == {
        n: tuple(t.shape) for n, t in saved.items()
    }
    assert any(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)
    merged = load_file(done / "kept/merged/model.safetensors")
    expected = loaded.merge_and_unload().state_dict()
    assert merged.keys() == expected.keys()
    assert all((expected[name] == tensor).all() for name, tensor in merged.items())
