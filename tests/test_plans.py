"""Plans as files: written whole, read back as they were, short ones completed, wrong ones not."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from test_golden import CASES, answer_of, asked

from ftadvisor import DataFileError, FtadvisorError, InvalidSettingError, estimate
from ftadvisor.api.plan_files import EDITED, estimate_plan, options_of, read_plan
from ftadvisor.api.recommender import recommend
from ftadvisor.api.run_plans import plan_of, planned
from ftadvisor.configuration.applicable import WITH_BETA
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.plan import SCHEMA_VERSION, Plan, Recommendation
from ftadvisor.sources.plans import write_plan
from ftadvisor.sources.techniques import find_technique
from ftadvisor.sources.training_settings import OF_SOME_OBJECTIVES, PLAN_SETTINGS, TRAINING
from ftadvisor.sources.workloads import reference_workload
from ftadvisor.sources.yaml_files import dump_yaml, parse_yaml

ANSWERED = [case["id"] for case in CASES if case["expect"]["exit"] == 0]
SAID_BY_OPTIONS = [
    case["id"]
    for case in CASES
    if case["expect"]["exit"] == 0
    and (case.get("data") or not {"num_examples", "mean_length"} & case["ask"].keys())
]
"""No option of `estimate` says how many examples there are."""
each_case = pytest.mark.parametrize("case_id", ANSWERED)
MODEL = "Qwen/Qwen2.5-0.5B"
LEAST = {"model": MODEL, "technique": "lora", "dataset": "train.jsonl"}
ON_A_CARD = {**LEAST, "hardware": {"gpu": "rtx-4090", "num_gpus": 1}}


def plans(case_id: str) -> Iterator[Plan]:
    answer = answer_of(case_id)
    assert isinstance(answer, Recommendation)
    assert answer.plan is not None
    yield answer.plan
    yield from (other.plan for other in answer.alternatives)


def figures(found: Estimate) -> Estimate:
    """Without the sentences about what was assumed, which a finished plan needs none of."""
    return replace(found, assumptions=())


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(content if isinstance(content, str) else dump_yaml(content))
    return path


@each_case
def test_a_plan_is_read_as_it_was_written(case_id: str, tmp_path: Path):
    for plan in plans(case_id):
        path = tmp_path / "plan.yaml"
        write_plan(plan, path)
        assert read_plan(path) == plan
        assert json.loads(json.dumps(plan.as_dict())) == parse_yaml(path.read_text(), "", "")


@each_case
def test_its_settings_are_estimated_as_the_plan_says(case_id: str):
    for plan in plans(case_id):
        assert figures(estimate_plan(plan)) == figures(plan.estimate)


@pytest.mark.parametrize("case_id", SAID_BY_OPTIONS)
def test_estimate_with_its_settings_says_the_same(case_id: str):
    plan = next(plans(case_id))
    options = options_of(plan)
    if "dataset" in asked(case_id):
        options["dataset"] = asked(case_id)["dataset"]
    else:
        assert plan.workload.name == reference_workload().name
    found = estimate(
        plan.model,
        gpu=plan.hardware.gpu,
        technique=plan.technique,
        objective=plan.objective,
        **options,
    )
    assert figures(found) == figures(plan.estimate)


@each_case
def test_nothing_stands_in_it_that_the_run_has_not(case_id: str):
    for plan in plans(case_id):
        said = set(plan.settings)
        technique = find_technique(plan.technique)
        assert said <= set(PLAN_SETTINGS)
        needed = {"micro_batch_size", "gradient_accumulation_steps", "max_length", "optim"}
        assert needed | set(TRAINING) - OF_SOME_OBJECTIVES <= said
        assert ("num_generations" in said) == (plan.objective in ("grpo", "rloo"))
        assert ("beta" in said) <= (plan.objective in WITH_BETA)
        assert ("max_target_length" in said) == (plan.objective == "seq2seq")
        assert ("lora_r" in said) == ("lora_r" in technique.settings)
        assert not (technique.trains_base and any(name.startswith("lora_") for name in said))
        assert ("adapter_dtype" in said) <= (not technique.trains_base)
        assert "num_gpus" not in said
        batch = plan.settings["micro_batch_size"] * plan.settings["gradient_accumulation_steps"]
        assert plan.settings["global_batch_size"] == batch * plan.hardware.num_gpus


def test_own_keys_come_first_and_the_estimate_last(tmp_path: Path):
    path = tmp_path / "plan.yaml"
    write_plan(next(plans(ANSWERED[0])), path)
    keys = [line.split(":")[0] for line in path.read_text().splitlines() if line[0] not in " -"]
    assert keys[:4] == ["schema_version", "model", "technique", "objective"]
    assert keys[-1] == "estimate"
    assert "#" not in path.read_text()
    assert "!!" not in path.read_text()


def test_a_plan_cannot_be_changed():
    plan = next(plans(ANSWERED[0]))
    with pytest.raises(FrozenInstanceError):
        plan.seed = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        plan.settings["learning_rate"] = 1.0  # type: ignore[index]
    assert isinstance(hash(plan), int)


SCALARS = (
    some.none() | some.booleans() | some.integers(-(2**70), 2**70)
    | some.floats(allow_nan=False) | some.text(max_size=30)
    | some.sampled_from(["1e5", "1.0e+5", "no", "null", "~", "2026-01-01", "0x10", "1_000", ".inf"])
)  # fmt: skip
VALUES = some.recursive(
    SCALARS,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
)


@given(VALUES)
def test_any_plain_value_is_read_as_it_was_written(value: Any):
    assert parse_yaml(dump_yaml({"a": value}), "", "") == {"a": value}


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rate=some.floats(1e-9, 1.0),
    decay=some.floats(0, 1),
    warmup=some.floats(0, 1) | some.integers(1, 10**6),
    epochs=some.floats(0.01, 100),
    rank=some.integers(1, 512),
    micro=some.integers(1, 64),
    seed=some.integers(0, 2**32 - 1),
    columns=some.dictionaries(some.text(min_size=1), some.text(min_size=1).filter(str.strip)),
)  # fmt: skip
def test_any_plan_is_read_as_it_was_written(tmp_path: Path, **drawn: Any):
    own = {
        "learning_rate": drawn["rate"], "weight_decay": drawn["decay"],
        "warmup_steps": drawn["warmup"], "num_train_epochs": drawn["epochs"],
        "lora_r": drawn["rank"], "micro_batch_size": drawn["micro"],
    }  # fmt: skip
    content = {
        **ON_A_CARD, "settings": own, "seed": drawn["seed"],
        "dataset": {"path": "data", "columns": drawn["columns"]},
    }  # fmt: skip
    plan = read_plan(written(tmp_path, content))
    path = tmp_path / "again.yaml"
    write_plan(plan, path)
    assert read_plan(path) == plan


def test_the_least_plan_is_completed(tmp_path: Path):
    plan = read_plan(written(tmp_path, LEAST))
    assert plan.model == MODEL
    assert plan.dataset is not None
    assert (plan.dataset.path, plan.dataset.split) == ("train.jsonl", "train")
    assert plan.objective == "sft"
    assert plan.hardware.gpu is None
    assert plan.settings["learning_rate"] == 2e-4
    assert plan.settings["lora_alpha"] == 2 * plan.settings["lora_r"]
    assert set(TRAINING) - OF_SOME_OBJECTIVES <= set(plan.settings)
    assert plan.estimate.memory.device_bytes > 0
    assert plan.estimate.time is None


def test_its_time_is_for_a_workload_that_it_names(tmp_path: Path):
    plan = read_plan(written(tmp_path, ON_A_CARD))
    assert plan.estimate.time is not None
    assert any("alpaca" in said for said in plan.estimate.assumptions)


def test_what_is_written_by_hand_is_kept(tmp_path: Path):
    text = f"""
model: {MODEL}
technique: qlora
objective: rlhf
dataset: data/prompts.jsonl
hardware: {{gpu: rtx4090}}
settings:
  learning_rate: 2e-5
  num_generations: 4
  micro_batch_size: 4
  beta: 0.02
"""
    plan = read_plan(written(tmp_path, text))
    assert (plan.technique, plan.objective, plan.hardware.gpu) == ("qlora", "grpo", "rtx-4090")
    assert plan.settings["learning_rate"] == 2e-5
    assert plan.settings["beta"] == 0.02
    assert plan.settings["quantization"] == "nf4"
    assert plan.estimate.settings["reference_model"] is True


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"global_batch_size": 24}, (1, 24)),
        ({"global_batch_size": 24, "micro_batch_size": 4}, (4, 6)),
        ({"gradient_accumulation_steps": 4, "global_batch_size": 8}, (2, 4)),
        ({"micro_batch_size": 3, "gradient_accumulation_steps": 5}, (3, 5)),
    ],
)
def test_a_batch_is_divided(given_: dict[str, int], expected: tuple[int, int], tmp_path: Path):
    plan = read_plan(written(tmp_path, {**LEAST, "settings": given_}))
    made = plan.settings["micro_batch_size"], plan.settings["gradient_accumulation_steps"]
    assert made == expected
    assert plan.settings["global_batch_size"] == expected[0] * expected[1]


def test_an_edited_plan_is_estimated_again(tmp_path: Path):
    plan = read_plan(written(tmp_path, ON_A_CARD))
    write_plan(plan, tmp_path / "plan.yaml")
    content = parse_yaml((tmp_path / "plan.yaml").read_text(), "", "")
    content["settings"] |= {"max_length": 256}
    edited = read_plan(written(tmp_path, content))
    assert edited.estimate.settings["max_length"] == 256
    assert EDITED in edited.estimate.assumptions
    del content["estimate"]
    assert figures(read_plan(written(tmp_path, content)).estimate) == figures(edited.estimate)


def test_a_model_of_a_directory_is_found_again(tmp_path: Path):
    from ftadvisor.sources.models import model_config

    (tmp_path / "mine").mkdir()
    config = {k: v for k, v in model_config(MODEL).items() if k != "_name_or_path"}
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    plan = recommend(str(tmp_path / "mine"), gpu="rtx4090", use_case="chat").plan
    assert plan is not None
    write_plan(plan, tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml") == plan


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "newer": ({"schema_version": SCHEMA_VERSION + 1}, "schema_version", "newer ftadvisor"),
    "version is no number": ({"schema_version": "one"}, "schema_version", "whole number"),
    "unknown key": ({"modle": "x"}, "modle", "no known field"),
    "misspelt section": ({"setings": {}}, "setings", "settings"),
    "misspelt setting": ({"settings": {"lerning_rate": 1e-4}}, "settings.lerning_rate",
                         "learning_rate"),
    "another program's name": ({"settings": {"per_device_train_batch_size": 4}},
                               "settings.per_device_train_batch_size", "no known field"),
    "rate is text": ({"settings": {"learning_rate": "fast"}}, "settings.learning_rate", "number"),
    "rate is negative": ({"settings": {"learning_rate": -1e-4}}, "settings.learning_rate", "above"),
    "scheduler": ({"settings": {"lr_scheduler_type": "cosin"}}, "settings.lr_scheduler_type",
                  "cosine"),
    "rank of zero": ({"settings": {"lora_r": 0}}, "settings.lora_r", "at least|whole number"),
    "optimizer": ({"settings": {"optim": "adamw_torhc"}}, "settings.optim", "adamw"),
    "quantization": ({"settings": {"quantization": "nf5"}}, "settings.quantization", "nf4"),
    "epochs": ({"settings": {"num_train_epochs": 0}}, "settings.num_train_epochs", "above 0"),
    "switch is text": ({"settings": {"packing": "perhaps"}}, "settings.packing", "true or false"),
    "seed": ({"seed": -1}, "seed", "whole number"),
    "seed among the settings": ({"settings": {"seed": 1}}, "settings.seed", "seed at the top"),
    "gpus among the settings": ({"settings": {"num_gpus": 2}}, "settings.num_gpus", "hardware"),
    "no such technique": ({"technique": "lorra"}, "technique", "lora"),
    "technique is an objective": ({"technique": "dpo"}, "technique", "lora"),
    "no such objective": ({"objective": "stf"}, "objective", "sft"),
    "ppo": ({"objective": "ppo"}, "objective", "grpo"),
    "no such model": ({"model": "qwen2.5-0.6b"}, "model", "qwen"),
    "no such gpu": ({"hardware": {"gpu": "rtx4091"}}, "hardware.gpu", "rtx"),
    "no gpus": ({"hardware": {"gpu": "rtx4090", "num_gpus": 0}}, "hardware.num_gpus", "whole"),
    "hardware key": ({"hardware": {"gpus": 2}}, "hardware.gpus", "num_gpus|gpu"),
    "dataset is a number": ({"dataset": 3}, "dataset", "path"),
    "dataset without path": ({"dataset": {"split": "train"}}, "dataset.path", "missing"),
    "settings are a list": ({"settings": ["lora_r"]}, "settings", "object"),
    "generations in sft": ({"settings": {"num_generations": 8}}, "settings.num_generations",
                           "objective: grpo"),
    "beta in sft": ({"settings": {"beta": 0.1}}, "settings.beta", "leave beta out"),
    "rank of full": ({"technique": "full", "settings": {"lora_r": 8}}, "settings.lora_r", "lora"),
    "packed classes": ({"objective": "seq_cls", "settings": {"packing": True}},
                       "settings.packing", "leave packing out"),
    "qlora unquantized": ({"technique": "qlora", "settings": {"quantization": "none"}},
                          "technique", "quantization: nf4"),
    "full on four bits": ({"technique": "full", "settings": {"quantization": "nf4"}},
                          "technique", "technique: qlora"),
    "galore without its optimizer": ({"technique": "galore", "settings": {"optim": "adamw_torch"}},
                                     "technique", "galore_adamw"),
    "strategy of one": ({"settings": {"strategy": "zero3"}}, "settings.strategy",
                        "strategy: none"),
    "batch that does not multiply": (
        {"settings": {"micro_batch_size": 2, "gradient_accumulation_steps": 4,
                      "global_batch_size": 16}}, "settings.global_batch_size", "8"),
    "one answer of kto": ({"objective": "kto", "settings": {"micro_batch_size": 1}},
                          "settings.micro_batch_size", "micro_batch_size: 2"),
    "too long": ({"settings": {"max_length": 10**6}}, "settings.max_length", "max_length"),
    "workload without size": ({"workload": {"name": "x"}}, "workload", "missing"),
    "estimate of another shape": ({"estimate": {"memory": 3}}, "estimate", "missing|no known"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_plan_is_refused_with_file_field_and_what_to_write(fault: str, tmp_path: Path):
    change, field, write = FAULTS[fault]
    with pytest.raises(DataFileError) as refusal:
        read_plan(written(tmp_path, {**LEAST, **change}))
    error = refusal.value
    assert error.file == "plan.yaml"
    assert str(error.field).startswith(field)
    assert re.search(write, str(error)), str(error)
    assert " --" not in str(error).replace("pip install --upgrade", "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b",
        "model: a\nmodel: b\ntechnique: lora",
        "model: [1",
        "technique: lora",
        "model: qwen2.5-0.5b",
        "model: !!python/object/apply:os.system ['true']\ntechnique: lora",
        "model: &m qwen2.5-0.5b\ntechnique: *m",
        "{" * 5000,
    ],
)
def test_what_is_no_plan_is_refused(text: str, tmp_path: Path):
    with pytest.raises(DataFileError) as refusal:
        read_plan(written(tmp_path, text))
    assert "plan.yaml" in str(refusal.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path):
    (tmp_path / "junk.yaml").write_bytes(bytes(range(256)))
    for name in ("absent.yaml", "junk.yaml", "."):
        with pytest.raises(FtadvisorError):
            read_plan(tmp_path / name)


def test_something_else_is_not_overwritten_unless_asked(tmp_path: Path):
    plan = next(plans(ANSWERED[0]))
    path = tmp_path / "notes.yaml"
    path.write_text("- bread\n- milk\n")
    with pytest.raises(InvalidSettingError, match="no plan"):
        write_plan(plan, path)
    assert path.read_text() == "- bread\n- milk\n"
    write_plan(plan, path, overwrite=True)
    assert read_plan(path) == plan
    write_plan(replace(plan, seed=7), path)
    assert read_plan(path).seed == 7


def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan, path = next(plans(ANSWERED[0])), tmp_path / "plan.yaml"
    write_plan(plan, path)
    before = path.read_text()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidSettingError, match="No space left"):
        write_plan(replace(plan, seed=9), path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["plan.yaml"]


def test_a_plan_may_be_read_by_whoever_may_read_files_here(tmp_path: Path):
    write_plan(next(plans(ANSWERED[0])), tmp_path / "plan.yaml")
    (tmp_path / "other").touch()
    modes = {stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("plan.yaml", "other")}
    assert len(modes) == 1


def test_a_place_that_does_not_exist(tmp_path: Path):
    with pytest.raises(InvalidSettingError, match="cannot be written"):
        write_plan(next(plans(ANSWERED[0])), tmp_path / "nowhere" / "plan.yaml")


def test_yaml_is_loaded_only_for_a_file():
    code = """
import sys, ftadvisor
from ftadvisor.api.recommender import recommend
from ftadvisor.api.run_plans import plan_of, planned
ftadvisor.estimate("llama3.2-1b")
recommend("llama3.2-1b", gpu="rtx4090", use_case="chat")
print("yaml" in sys.modules)
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_every_field_of_a_plan_stands_in_its_file():
    plan = next(plans(ANSWERED[0]))
    assert set(plan.as_dict()) == {f.name for f in fields(Plan)}


def test_a_policy_learns_from_peoples_judgement_near_its_reference(tmp_path: Path):
    """GRPO's own beta is 0, without a reference: a model of the reward would be deceived."""
    data = tmp_path / "prompts.jsonl"
    data.write_text('{"prompt": "hello"}\n' * 8)
    question = {"model": "llama3.2-1b", "dataset": data}
    betas: dict[str, float] = {}
    for reward in ("reward_model", "reward_function"):
        given = {**question, "objective": "grpo", reward: "of:this"}
        betas[reward] = planned(None, given)[0].settings["beta"]
    assert betas["reward_model"] > 0 == betas["reward_function"]
    found = recommend("llama3.2-1b", gpu="rtx4090", technique="rlhf")
    assert found.plan is not None
    assert found.plan.settings["beta"] == betas["reward_model"]


def test_a_plan_in_memory_is_divided_like_its_file():
    found = plan_of(None, {"model": "llama3.2-1b", "technique": "lora"}, needs_data=False)
    halved = plan_of(found, {}, processes=2)
    assert halved.hardware.num_gpus == 2
    assert halved.settings["strategy"] == "ddp"
    again = plan_of(halved, {}, processes=1)
    assert (again.hardware.num_gpus, again.settings["strategy"]) == (1, "none")
