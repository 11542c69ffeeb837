"""What cannot be run is refused with one message, before the training stack is imported."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from execution_models import rows, write_rows

from ftadvisor.api.run_plans import planned
from ftadvisor.api.running import rehearse, run
from ftadvisor.cli import main
from ftadvisor.errors import DataFileError, FtadvisorError, InvalidSettingError, UnsupportedError
from ftadvisor.execution import classes, examples, preflight
from ftadvisor.execution.device import Device
from ftadvisor.execution.places import check_place
from ftadvisor.schema.plan import PlanDataset
from ftadvisor.schema.run import RunSettings

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 600,
    "max_position_embeddings": 1024,
}  # fmt: skip
CPU = Device("cpu", "cpu", 2**34, "cpu", 1)

NEEDS_STACK = pytest.mark.skipif(find_spec("trl") is None, reason="needs the run extra")
"""What comes after the check of the libraries."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def refused(model: Path, data: Path, **options: Any) -> FtadvisorError:
    """What the run is refused with; nothing heavy was imported for it."""
    before = "transformers" in sys.modules
    given = {"technique": "lora", "output_dir": model.parent / "out", **options}
    with pytest.raises(FtadvisorError) as caught:
        run(model=str(model), dataset=str(data), **given)
    assert ("transformers" in sys.modules) == before
    return caught.value


@pytest.mark.parametrize(
    ("objective", "row", "said"),
    [
        ("sft", {"title": "a", "n": 1}, "messages, or a prompt and a completion"),
        ("seq_cls", {"text": "a text"}, "a text and a label"),
        ("token_cls", {"text": "a text"}, "tokens and ner_tags"),
        ("seq2seq", {"text": "a text"}, "a prompt (or source)"),
        ("token_cls", {"tokens": ["a", "b"], "ner_tags": ["O"]}, "2 tokens and 1 tags"),
        # Pieces of words, no label, nothing: they became classes of these names.
        ("token_cls", {"tokens": ["a", "b"], "labels": [0, -100]}, "the tag -100"),
        ("token_cls", {"tokens": ["a", "b"], "ner_tags": [0, -1]}, "the tag -1,"),
        ("token_cls", {"tokens": ["a", "b"], "ner_tags": [0, None]}, "the tag None"),
        ("seq_cls", {"text": "a", "label": -1}, "stands for no label; a class has another name"),
    ],
)
def test_columns_must_be_the_objectives(
    tmp_path: Path, objective: str, row: dict[str, Any], said: str
):
    data = write_rows(tmp_path / "rows.jsonl", [row] * 3)
    wanted = PlanDataset(path=str(data), format=None, columns={}, split="train")
    with pytest.raises(DataFileError, match="no row") as caught:
        examples.read_examples(wanted, objective, RunSettings(output_dir=str(tmp_path)), 0)
    assert said in str(caught.value)


def test_empty_and_broken_rows_are_left_out_and_told(tmp_path: Path):
    data = write_rows(tmp_path / "rows.jsonl", [*rows("sft", 5), {"messages": []}, {"x": 1}])
    wanted = PlanDataset(path=str(data), format="chat", columns={}, split="train")
    found = examples.read_examples(wanted, "sft", RunSettings(output_dir=str(tmp_path)), 0)
    assert len(found.train) + len(found.held_out) == 5
    assert [problem.line for problem in found.left_out] == [6, 7]


def test_the_held_out_share_is_seeded_and_apart(tmp_path: Path):
    data = write_rows(tmp_path / "rows.jsonl", rows("clm", 100))
    wanted = PlanDataset(path=str(data), format=None, columns={}, split="train")
    settings = RunSettings(output_dir=str(tmp_path))
    first, again = (examples.read_examples(wanted, "clm", settings, 7) for _ in range(2))
    assert first == again
    assert len(first.held_out) == 5
    assert not any(row in first.train for row in first.held_out)
    assert examples.read_examples(wanted, "clm", settings, 8).held_out != first.held_out


@pytest.mark.parametrize("same", [0, 2])
def test_held_out_rows_that_are_trained_on_are_told(tmp_path: Path, same: int):
    """What is known by heart says nothing of new rows."""
    data = write_rows(tmp_path / "train.jsonl", rows("clm", 8))
    new = [{"text": f"new {i}"} for i in range(3 - same)]
    other = write_rows(tmp_path / "held_out.jsonl", new + rows("clm", 1) * same)
    wanted = PlanDataset(path=str(data), format=None, columns={}, split="train")
    settings = RunSettings(output_dir=str(tmp_path), eval_dataset=str(other))
    subject: Any = SimpleNamespace(examples=examples.read_examples(wanted, "clm", settings, 0))
    told = [event.what for event in preflight.data(subject)]
    assert told[0] == "8 examples to train on, 3 held out"
    assert [text.partition(" stand")[0] for text in told[1:]] == (
        ["2 of the held-out examples"] if same else []
    )


@pytest.mark.parametrize(
    ("labels", "said"),
    [(["a", "a", "a"], "in all rows"), ([0.5, 1.5, 2.25], "regression is not supported")],
)
def test_labels_must_be_classes(tmp_path: Path, labels: list[Any], said: str):
    data = write_rows(tmp_path / "r.jsonl", [{"text": "t", "label": label} for label in labels])
    wanted = PlanDataset(path=str(data), format=None, columns={}, split="train")
    with pytest.raises(DataFileError, match=said):
        examples.read_examples(wanted, "seq_cls", RunSettings(output_dir=str(tmp_path)), 0)


def test_classes_are_numbered_by_their_own_numbers(tmp_path: Path):
    data = write_rows(tmp_path / "r.jsonl", [{"text": "t", "label": i % 11} for i in range(44)])
    wanted = PlanDataset(path=str(data), format=None, columns={}, split="train")
    found = examples.read_examples(wanted, "seq_cls", RunSettings(output_dir=str(tmp_path)), 0)
    assert found.labels == tuple(str(i) for i in range(11))


@NEEDS_STACK
def test_labels_outside_the_checkpoints_own_head(model: Path, tmp_path: Path):
    own = {**LLAMA, "architectures": ["LlamaForSequenceClassification"],
           "label2id": {"no": 0, "yes": 1}}  # fmt: skip
    (model / "config.json").write_text(json.dumps(own))
    data = write_rows(tmp_path / "r.jsonl", rows("seq_cls", 20))
    error = refused(model, data, objective="seq_cls")
    assert "'neg' is outside the checkpoint's 2 classes (no, yes)" in str(error)


@NEEDS_STACK
def test_nothing_is_overwritten(model: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("{}")
    data = write_rows(tmp_path / "r.jsonl", rows("sft", 5))
    error = refused(model, data)
    assert "holds another run" in str(error)
    assert "--resume" in str(error)
    # What is done has nothing to go on with.
    (out / "report.json").write_text('{"status": "done"}')
    assert "--resume" not in str(refused(model, data))
    assert [path.name for path in out.iterdir()] == ["report.json"]


def test_conversations_beside_plain_text(model: Path, tmp_path: Path):
    """A trainer takes all rows for what the first one is."""
    data = write_rows(tmp_path / "r.jsonl", [*rows("sft", 4), *rows("clm", 2)])
    assert "several formats (4 with messages, 2 with text)" in str(refused(model, data))
    mixed = write_rows(tmp_path / "m.jsonl", [*rows("sft", 4), *rows("seq2seq", 2)])
    assert "several formats (4 with messages, 2 with a prompt)" in str(refused(model, mixed))
    held_out = write_rows(tmp_path / "h.jsonl", rows("clm", 2))
    chat = write_rows(tmp_path / "c.jsonl", rows("sft", 4))
    assert "several formats" in str(refused(model, chat, eval_dataset=held_out))


@NEEDS_STACK
def test_fewer_prompts_than_a_batch_takes(model: Path, tmp_path: Path):
    """TRL drops a batch that is not full, and ends as if all had been trained."""
    data = write_rows(tmp_path / "r.jsonl", [{"prompt": f"Say {i}"} for i in range(9)])
    (tmp_path / "rewards.py").write_text("def score(completions, **_):\n    return [1.0]\n")
    given: dict[str, Any] = {
        "objective": "grpo", "reward_function": f"{tmp_path / 'rewards.py'}:score",
        "num_generations": 2, "micro_batch_size": 2, "eval_share": 0.0,
    }  # fmt: skip
    error = refused(model, data, **given, gradient_accumulation_steps=10)
    assert "20 answers of 10 prompts, and there are 9" in str(error)
    assert "at most 18" in str(error)
    rehearse(
        model=str(model), dataset=str(data), technique="lora", output_dir=tmp_path / "fits",
        **given, gradient_accumulation_steps=9,
    )  # fmt: skip


@NEEDS_STACK
def test_a_home_directory_in_the_output_dir(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A shell leaves the ~ of --output-dir=~/out as it is."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = write_rows(tmp_path / "r.jsonl", rows("sft", 5))
    _, settings = planned(None, {"model": str(model), "dataset": data, "output_dir": "~/out"})
    assert settings.output_dir == str(tmp_path / "home/out")


@NEEDS_STACK
def test_reporters_that_are_not_there(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from transformers.integrations import integration_utils

    data = write_rows(tmp_path / "r.jsonl", rows("sft", 5))
    given: dict[str, Any] = {
        "model": str(model), "dataset": str(data), "technique": "lora",
        "output_dir": tmp_path / "out",
    }  # fmt: skip
    with pytest.raises(InvalidSettingError, match=r"'tensorbord' is no reporter.*tensorboard"):
        rehearse(**given, report_to=["tensorbord"])
    for here in ([], ["tensorboard"]):
        monkeypatch.setattr(
            integration_utils, "get_available_reporting_integrations", lambda found=here: found
        )
        if here:
            # One name is one reporter, not its letters.
            rehearse(**given, report_to="tensorboard")
        else:
            with pytest.raises(InvalidSettingError, match="pip install tensorboard"):
                rehearse(**given, report_to=["tensorboard"])


def test_the_disk_holds_the_merged_model_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    of = subject(RunSettings(output_dir=str(tmp_path), save_steps=0), None)
    free = of.plan.estimate.num_params
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr("ftadvisor.execution.preflight.shutil.disk_usage", lambda _: usage)
    assert not list(preflight.disk(of))
    with pytest.raises(InvalidSettingError, match="will be written"):
        list(preflight.disk(of._replace(run=replace(of.run, merge=True))))


@NEEDS_STACK
def test_an_optimizer_of_a_package_that_is_not_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ftadvisor.execution.preflight.find_spec", lambda _: None)
    data = write_rows(tmp_path / "r.jsonl", rows("sft", 5))
    assert "galore_torch" in str(refused(model, data, technique="galore"))


@NEEDS_STACK
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss_kernel": "torch"}, "--loss-kernel chunked"),
        ({"quantization": "gptq-int4"}, "--quantization nf4"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"eval_share": 1.5}, "eval_share is 1.5"),
        ({"objective": "dpo"}, "dpo"),
        ({"technique": "llamapro"}, "PEFT has it not"),
        ({"gpu": "rtx-1"}, "gpu"),
        ({"lora_rank": 8}, "lora_r"),
        ({"eval_dataset": "none.jsonl"}, "none.jsonl"),
    ],
)
def test_settings_that_cannot_be_run(
    model: Path, tmp_path: Path, options: dict[str, Any], said: str
):
    data = write_rows(tmp_path / "r.jsonl", rows("sft", 5))
    assert said in str(refused(model, data, **options))
    assert not (tmp_path / "out/plan.yaml").exists()


def test_a_plan_with_a_typo(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_rows(tmp_path / "r.jsonl", rows("sft", 5))
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"model: {model}\ntechnique: lora\ndataset: {data}\nsettings: {{learnin_rate: 1e-4}}\n"
    )
    assert main(["run", str(plan), "--output-dir", str(tmp_path / "out")]) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert main(["run", str(plan), "--model", "llama-7b"]) == 2
    assert "both say what is trained" in capsys.readouterr().err


def subject(run_settings: RunSettings, gpu: str | None) -> preflight.Subject:
    from ftadvisor.api.plan_files import complete_plan
    from ftadvisor.api.simulating import settings_of
    from ftadvisor.sources.plans import draft_of

    content = {"model": "llama3.2-1b", "technique": "lora", "hardware": {"gpu": gpu}}
    plan = complete_plan(draft_of("a plan", content))
    nothing = examples.Examples([], [], ())
    return preflight.Subject(
        plan, settings_of(plan.estimate), run_settings, nothing, lambda _: plan.estimate
    )


def test_a_plan_for_a_gpu_where_there_is_none(tmp_path: Path):
    settings = RunSettings(output_dir=str(tmp_path))
    with pytest.raises(InvalidSettingError, match="there is no GPU here"):
        list(preflight.hardware(subject(settings, "rtx4090"), CPU))
    forced = RunSettings(output_dir=str(tmp_path), force=True)
    assert list(preflight.hardware(subject(forced, "rtx4090"), CPU))
    assert list(preflight.hardware(subject(settings, None), CPU))


def test_a_gpu_that_is_too_small(tmp_path: Path):
    small = Device("cuda", "NVIDIA Small", 10**9, "cuda:0", 1)
    settings = RunSettings(output_dir=str(tmp_path))
    with pytest.raises(InvalidSettingError, match="The run needs"):
        list(preflight.memory(subject(settings, "rtx4090"), small))


def test_a_host_that_is_too_small_to_load_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Once for each process where it is quantised and divided: only then is it the host's."""
    of = subject(RunSettings(output_dir=str(tmp_path)), "rtx4090")
    both = 2 * of.plan.estimate.num_params / 2
    two = Device("cuda", "NVIDIA GeForce RTX 4090", 2**34, "cuda:0", 2)

    def checked(free: float, **changed: Any) -> None:
        monkeypatch.setattr(preflight, "free_host_bytes", lambda: free)
        list(preflight.host(of._replace(settings=replace(of.settings, **changed)), two))

    checked(0, strategy="zero3")
    checked(0, quantization="nf4", strategy="ddp")
    checked(both, quantization="nf4", strategy="zero3")
    with pytest.raises(InvalidSettingError, match="the whole model for each"):
        checked(both - 1, quantization="nf4", strategy="fsdp")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    checked(both / 2, quantization="nf4", strategy="fsdp")


def test_a_plan_for_the_cpu_and_its_memory(tmp_path: Path):
    of = subject(RunSettings(output_dir=str(tmp_path)), "cpu")
    assert [event.what for event in preflight.hardware(of, CPU)] == ["trains on cpu"]
    needed = of.plan.estimate.memory.allocated_bytes
    assert not list(preflight.memory(of, CPU._replace(memory_bytes=needed)))
    for device in (CPU._replace(memory_bytes=needed - 1),
                   CPU._replace(memory_bytes=2 * needed - 1, world_size=2)):  # fmt: skip
        with pytest.raises(InvalidSettingError, match="recommend --gpu cpu"):
            list(preflight.memory(of, device))


def test_half_precision_that_a_cpu_only_claims(tmp_path: Path):
    of = subject(RunSettings(output_dir=str(tmp_path)), None)
    with pytest.raises(UnsupportedError, match="computes in fp32"):
        list(preflight.hardware(of._replace(settings=replace(of.settings, autocast="fp16")), CPU))


def test_a_library_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    of = subject(RunSettings(output_dir=str(tmp_path)), None)
    monkeypatch.setattr(
        preflight.metadata, "requires", lambda _: ["trl==1.16.*; extra == 'run'", "rich>=13"]
    )
    for version, refuses in (("1.9.2", True), ("1.16.0", False), ("2.0.1", False)):
        monkeypatch.setattr(preflight.metadata, "version", lambda _, v=version: v)
        if refuses:
            with pytest.raises(InvalidSettingError, match=r"trl 1.9.2 is too old: 1.16 is needed"):
                list(preflight.libraries(of))
        else:
            assert bool(list(preflight.libraries(of))) == (version == "2.0.1")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_option_is_a_field_of_its_class():
    """configuration/adapter_config.py goes by the data's names; PEFT's classes have the same."""
    peft = pytest.importorskip("peft")
    import dataclasses
    import importlib

    from ftadvisor.configuration.adapter_config import NOT_PEFT, PEFT_TYPES
    from ftadvisor.sources.techniques import peft_options, technique_ids

    bottleneck = importlib.import_module("ftadvisor.execution.bottleneck")
    # Found by the placement, and kept for loading: nobody is asked for them.
    fields = {field.name for field in dataclasses.fields(bottleneck.BottleneckConfig)}
    assert fields - {"target_modules"} == {*peft_options("bottleneck")}
    for id_ in {*technique_ids()} - NOT_PEFT - {"bottleneck"}:
        name = PEFT_TYPES.get(id_, id_.upper())
        cls = peft.PEFT_TYPE_TO_CONFIG_MAPPING[getattr(peft.PeftType, name)]
        assert {field.name for field in dataclasses.fields(cls)} == {*peft_options(id_)}


@pytest.mark.parametrize(
    ("schedule", "options", "said"),
    [
        ("cosine_with_min_lr", {}, "options of it that no plan has"),
        ("cosine_warmup_with_min_lr", {}, "options of it that no plan has"),
        ("warmup_stable_decay", {}, "options of it that no plan has"),
        ("reduce_lr_on_plateau", {}, "--eval-steps"),
        ("reduce_lr_on_plateau", {"eval_steps": 5}, ""),
        ("cosine", {}, ""),
    ],
)
def test_a_schedule_that_asks_for_more_than_a_plan_says(
    tmp_path: Path, schedule: str, options: dict[str, Any], said: str
):
    """Transformers refuses them when the model is loaded and evaluated already."""
    of = subject(RunSettings(output_dir=str(tmp_path), **options), None)
    held_out = of.examples._replace(held_out=[{"text": "one"}])
    of = of._replace(examples=held_out, plan=with_settings(of, lr_scheduler_type=schedule))
    if not said:
        list(preflight.schedule(of))
        return
    with pytest.raises(FtadvisorError) as caught:
        list(preflight.schedule(of))
    assert said in str(caught.value)


def test_a_warmup_without_effect_is_said(tmp_path: Path):
    of = subject(RunSettings(output_dir=str(tmp_path)), None)
    plan = with_settings(of, lr_scheduler_type="constant", warmup_steps=0.1)
    (event,) = preflight.schedule(of._replace(plan=plan))
    assert event.what == "warmup_steps 0.1: lr_scheduler_type constant has no warmup"


def with_settings(of: preflight.Subject, **changed: Any) -> Any:
    return replace(of.plan, settings={**of.plan.settings, **changed})


def test_an_optimizer_that_a_cpu_has_not(tmp_path: Path):
    of = subject(RunSettings(output_dir=str(tmp_path)), None)
    of = of._replace(settings=replace(of.settings, optim="galore_adamw_8bit"))
    with pytest.raises(UnsupportedError, match="optim galore_adamw_8bit on a CPU"):
        list(preflight.hardware(of, CPU))


@NEEDS_STACK
def test_the_estimate_is_made_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    from ftadvisor.api import running

    asked: list[str] = []
    real = running.estimate_on

    def spied(name: str, **options: Any) -> Any:
        asked.append(name)
        return real(name, **options)

    monkeypatch.setattr(running, "estimate_on", spied)
    data = write_rows(tmp_path / "r.jsonl", rows("sft", 5))
    rehearse(model=str(model), dataset=str(data), technique="lora", output_dir=tmp_path / "out")
    assert len(asked) == len({*asked}) == 1


def test_a_dataset_whose_name_is_almost_right(model: Path, tmp_path: Path):
    write_rows(tmp_path / "train.jsonl", rows("sft", 5))
    (tmp_path / "train.log").write_text("")
    error = refused(model, tmp_path / "trian.jsonl")
    assert error.suggestions[0] == str(tmp_path / "train.jsonl")
    assert str(tmp_path / "train.log") not in error.suggestions


@pytest.mark.parametrize(
    ("labels", "own", "expected"),
    [
        (("bad", "good"), {"good": 0, "bad": 1}, ("good", "bad")),
        # All classes of the head, or it would be made anew.
        (("bad", "good"), {"good": 1, "bad": 2, "so": 0}, ("so", "good", "bad")),
        (("0", "2"), {"good": 1, "bad": 2, "so": 0}, ("0", "1", "2")),
        (("bad", "good"), {"yes": 0, "no": 1}, ("bad", "good")),
        (("bad", "good"), None, ("bad", "good")),
    ],
)
def test_classes_in_the_order_of_the_checkpoint_s_head(
    labels: tuple[str, ...], own: dict[str, int] | None, expected: tuple[str, ...]
):
    assert classes.as_numbered(labels, own) == expected


def test_two_ways_to_stop(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A rehearsal that shows examples shows them; a command that is asked for is not left out."""
    data = write_rows(tmp_path / "rows.jsonl", rows("sft", 4))
    words = ["run", "--model", str(model), "--technique", "lora", "--dataset", str(data)]
    assert main([*words, "--preview", "--print-command"]) == 2
    assert "preview and print_command each stop" in capsys.readouterr().err
    main([*words, "--preview", "--dry-run"])
    assert "dry_run" not in capsys.readouterr().err


def test_a_place_for_a_run(tmp_path: Path):
    (tmp_path / "file").write_text("")
    check_place(tmp_path / "new/er")
    for place, said in (("file", "is a file"), ("file/x", "which is a file"), ("", "other files")):
        with pytest.raises(InvalidSettingError, match=said):
            check_place(tmp_path / place)
    check_place(tmp_path, lambda names: names == ["file"])
