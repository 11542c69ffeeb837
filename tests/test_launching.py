"""One plan in one process or in several: the same losses, and nothing silently something else."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from execution_models import rows, without_dropout, write_rows

import ftadvisor
from ftadvisor.api.plan_files import complete_plan
from ftadvisor.api.running import rehearse
from ftadvisor.api.simulating import settings_of
from ftadvisor.cli import main
from ftadvisor.errors import FtadvisorError, InvalidSettingError, UnsupportedError
from ftadvisor.execution import arguments, launching, loading, preflight
from ftadvisor.execution.device import Device
from ftadvisor.execution.examples import Examples
from ftadvisor.render.run import rehearsal_document
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.plans import draft_of
from ftadvisor.sources.records import read_records
from ftadvisor.sources.yaml_files import dump_yaml

HERE = RunSettings(output_dir="out")


def settings(strategy: str, **options: Any) -> Settings:
    """Those of a plan for two GPUs."""
    content = {
        "model": "llama3.2-1b", "technique": "lora", "hardware": {"gpu": "rtx4090", "num_gpus": 2},
        "settings": {"strategy": strategy, **options},
    }  # fmt: skip
    return settings_of(complete_plan(draft_of("a plan", content)).estimate)


def test_fsdp_is_version_two_wrapped_by_layer():
    found = launching.strategy_arguments(settings("fsdp", gradient_checkpointing="full"))
    assert found["fsdp_config"]["version"] == 2
    assert found["fsdp_config"]["auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    assert found["fsdp_config"]["reshard_after_forward"]
    kept = launching.strategy_arguments(settings("fsdp-shard-grad-op"))
    assert not kept["fsdp_config"]["reshard_after_forward"]
    assert launching.strategy_arguments(settings("ddp")) == {}


@pytest.mark.parametrize(
    ("strategy", "place"), [("ddp", "cuda:1"), ("fsdp", "cpu"), ("zero3", "cpu")]
)
def test_what_is_divided_is_loaded_on_the_cpu(strategy: str, place: str):
    """On a GPU, where Transformers puts what is quantised unasked, all of it would have to fit."""
    pytest.importorskip("trl")
    device = Device("cuda", "NVIDIA GeForce RTX 4090", 2**34, "cuda:1", 2)
    options = loading._options(settings(strategy, quantization="nf4"), device, ())
    assert options["device_map"] == {"": place}


def test_zero_is_its_stage_with_its_offloads():
    found = launching.strategy_arguments(
        settings("zero3", offload_optimizer=True, offload_params=True)
    )["deepspeed"]
    assert found["zero_optimization"]["stage"] == 3
    assert found["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert found["zero_optimization"]["offload_param"] == {"device": "cpu"}
    plain = launching.strategy_arguments(settings("zero2"))["deepspeed"]["zero_optimization"]
    assert plain == {"stage": 2, "reduce_bucket_size": "auto"}


def test_words_say_what_differs_from_the_usual():
    run = replace(HERE, max_steps=3, report_to=("tensorboard", "wandb"), force=True)
    words = launching.words_of(Path("out/plan.yaml"), run)
    assert words == ["run", "out/plan.yaml", "--output-dir", "out", "--max-steps", "3",
                     "--report-to", "tensorboard", "wandb", "--force"]  # fmt: skip
    alone = replace(settings("ddp"), num_gpus=1, strategy="none")
    assert launching.command_of(words, alone)[0] == "ftadvisor"
    assert launching.command_of(words, settings("ddp"))[:4] == [
        "torchrun", "--standalone", "--nproc-per-node", "2",
    ]  # fmt: skip


def test_an_engine_of_one_process_is_launched_too():
    """DeepSpeed finds no place for a process that no launcher has started, and the Trainer refuses
    FSDP in one."""
    one = replace(settings("zero2", offload_optimizer=True), num_gpus=1)
    assert launching.command_of([], one)[:4] == [
        "torchrun",
        "--standalone",
        "--nproc-per-node",
        "1",
    ]
    assert launching.accelerate_configuration(one, gpu=True)["distributed_type"] == "DEEPSPEED"


def test_layers_are_checkpointed_by_transformers_under_fsdp():
    """accelerate's own draws dropout anew when it computes a layer again, and knows no
    selection."""
    for how in ("full", "selective"):
        chosen = settings("fsdp", gradient_checkpointing=how)
        assert not launching.strategy_arguments(chosen)["fsdp_config"]["activation_checkpointing"]
        found = arguments._checkpointing(chosen) | launching.strategy_arguments(chosen)
        assert found["activation_checkpointing"]
        assert bool(found["activation_checkpointing_kwargs"].get("selective")) == (
            how == "selective"
        )


def failure(exitcode: int, said: str | None = None, when: int = 0, second: int = 100) -> Any:
    """As torchrun tells of a process."""
    from types import SimpleNamespace

    message = {"message": said, "suggestions": [], "status": "failed", "nanoseconds": when}
    return SimpleNamespace(exitcode=exitcode, timestamp=second, message=message if said else "?")


@pytest.mark.parametrize(
    ("failures", "rank", "said"),
    [
        # The one that was killed, not the one that noticed it.
        ({0: failure(1, "peer is gone", 7), 1: failure(-9, second=101)}, 1, "SIGKILL"),
        # Of the same second.
        ({0: failure(1, "peer is gone", 9), 1: failure(1, "out of memory", 8)}, 1, "out of memory"),
        # torchrun ended it, which hung, half a minute later.
        ({0: failure(-9, second=130), 1: failure(1, "out of memory", 8)}, 1, "out of memory"),
        ({0: failure(-15), 1: failure(3, second=99)}, 1, "exit code 3"),
    ],
)
def test_the_process_that_failed_first(failures: dict[int, Any], rank: int, said: str):
    found = launching._first(failures)
    assert found.failed.rank == rank
    assert said in found.message


def test_fsdp_on_a_cpu_is_refused():
    """Transformers' Trainer would make DDP of it (study 2.4)."""
    with pytest.raises(UnsupportedError, match=r"fsdp on a CPU.*--strategy ddp"):
        list(launching.check_strategy(settings("fsdp"), cpu=True))
    with pytest.raises(UnsupportedError, match="int8 with strategy fsdp"):
        list(launching.check_strategy(settings("fsdp", quantization="int8"), cpu=False))


def test_a_plan_of_fsdp_stops_on_a_cpu():
    """The refusal is asked for among the checks."""
    draft = {"model": "llama3.2-1b", "technique": "lora", "settings": {"strategy": "fsdp"},
             "hardware": {"gpu": "rtx4090", "num_gpus": 2}}  # fmt: skip
    plan = complete_plan(draft_of("a plan", draft))
    of = preflight.Subject(
        plan, settings_of(plan.estimate), replace(HERE, force=True), Examples([], [], ()),
        lambda _: None,
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="fsdp on a CPU"):
        list(preflight.hardware(of, Device("cpu", "cpu", None, "cpu", 2)))


def test_deepspeed_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    content = {"model": "llama3.2-1b", "technique": "lora", "settings": {"strategy": "zero2"},
               "hardware": {"gpu": "rtx4090", "num_gpus": 2}}  # fmt: skip
    plan = complete_plan(draft_of("a plan", content))
    of = preflight.Subject(
        plan, settings_of(plan.estimate), HERE, Examples([], [], ()), lambda _: None
    )
    with pytest.raises(InvalidSettingError, match="pip install deepspeed"):
        list(preflight.technique(of))


def test_a_world_of_another_size_is_refused():
    """`accelerate launch --cpu` starts one process, whatever it is asked for (study 2.5)."""
    from types import SimpleNamespace

    one = SimpleNamespace(
        args=SimpleNamespace(world_size=1), is_fsdp_enabled=False, is_deepspeed_enabled=False
    )
    with pytest.raises(UnsupportedError, match="the libraries started 1"):
        launching.check_trainer(one, settings("ddp"))
    one.args.world_size = 2
    launching.check_trainer(one, settings("ddp"))
    with pytest.raises(UnsupportedError, match="fsdp is not as planned"):
        launching.check_trainer(one, settings("fsdp"))
    of = preflight.Subject(
        complete_plan(
            draft_of("a plan", {"model": "llama3.2-1b", "technique": "lora",
                                "hardware": {"gpu": None, "num_gpus": 2}})
        ), settings("ddp"), HERE, Examples([], [], ()), lambda _: None,
    )  # fmt: skip
    with pytest.raises(InvalidSettingError, match="this is one of 1"):
        list(preflight.hardware(of, Device("cpu", "cpu", 2**34, "cpu", 1)))


@pytest.mark.parametrize(
    "strategy", ["none", "ddp", "zero1", "zero2", "zero3", "fsdp", "fsdp-shard-grad-op"]
)
def test_a_trainers_arguments_say_how_its_processes_share(
    strategy: str, monkeypatch: pytest.MonkeyPatch
):
    """Of the arguments that a plan's strategy becomes, and of accelerate's own variable."""
    from types import SimpleNamespace

    made = launching.strategy_arguments(Settings(technique="full", strategy=strategy))  # pyright: ignore[reportArgumentType]
    stage = made.get("deepspeed", {}).get("zero_optimization", {}).get("stage")
    args = SimpleNamespace(
        world_size=1 if strategy == "none" else 2,
        deepspeed_plugin=None if stage is None else SimpleNamespace(zero_stage=stage),
        fsdp=made.get("fsdp", False),
        fsdp_config=made.get("fsdp_config"),
    )
    assert launching.strategy_of(args) == strategy
    if strategy == "ddp":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        assert launching.strategy_of(args) == "fsdp"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_rows(tmp_path / "sft.jsonl", rows("sft"))
    return tmp_path


def write(place: Path, model: Path, **hardware: Any) -> Path:
    """A plan of four rows a step."""
    content = {
        "model": str(model), "technique": "lora", "dataset": str(place / "sft.jsonl"),
        "hardware": {"gpu": None, **hardware},
        "settings": {"weights_dtype": "fp32", "autocast": "none", "micro_batch_size": 2,
                     "gradient_accumulation_steps": 2 // hardware.get("num_gpus", 1),
                     "max_length": 64, "learning_rate": 5e-3, "lora_dropout": 0.0},
    }  # fmt: skip
    file = place / "plan.yaml"
    file.write_text(dump_yaml(content))
    return file


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("objective", ["sft", "seq_cls"])
def test_two_processes_learn_as_one_does(
    models: dict[str, Path], work: Path, capfd: pytest.CaptureFixture[str], objective: str
):
    """The same losses for the same global batch; one process writes and prints."""
    model = models["decoder"]
    if objective != "sft":
        model = without_dropout(models["encoder"], work / "encoder")
        write_rows(work / "sft.jsonl", rows(objective))
    plan = write(work, model)
    options: dict[str, Any] = {"max_steps": 4, "eval_share": 0.2}
    one = ftadvisor.run(plan, output_dir=work / "one", **options)
    words = ["--max-steps", "4", "--eval-share", "0.2", "--num-processes", "2", "--json"]
    capfd.readouterr()
    handler = signal.getsignal(signal.SIGINT)
    assert main(["run", str(plan), "--output-dir", str(work / "two"), *words]) == 0
    assert signal.getsignal(signal.SIGINT) == handler
    two = json.loads(capfd.readouterr().out)
    assert two["plan"]["hardware"]["num_gpus"] == 2
    assert two["plan"]["settings"]["gradient_accumulation_steps"] == 1
    losses = [[row["loss"] for row in rows] for rows in (one.losses, two["losses"])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert one.metrics["eval_loss"].after == pytest.approx(
        two["metrics"]["eval_loss"]["after"], abs=1e-5
    )
    recorded = [(row["num_gpus"], row["strategy"]) for row in read_records().rows]
    assert recorded == [(1, "none"), (2, "ddp")]
    logged = (work / "two/log.jsonl").read_text().splitlines()
    assert len([row for row in logged if '"loss"' in row]) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trainer_of_another_world_does_not_train(
    models: dict[str, Path], work: Path, monkeypatch: pytest.MonkeyPatch
):
    from types import SimpleNamespace

    from ftadvisor.execution.trainers import BUILDERS

    other = SimpleNamespace(
        args=SimpleNamespace(world_size=3), is_fsdp_enabled=False, is_deepspeed_enabled=False
    )
    monkeypatch.setitem(BUILDERS, "sft", lambda _: other)
    with pytest.raises(UnsupportedError, match=r"the libraries started 3\. Try"):
        ftadvisor.run(write(work, models["decoder"]), output_dir=work / "out", max_steps=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_one_of_the_processes_fails_of_is_said_once(
    models: dict[str, Path], work: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = write(work, models["decoder"], num_gpus=2)
    # The weights are read by the processes alone.
    broken = work / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((models["decoder"] / "config.json").read_text())
    plan.write_text(plan.read_text().replace(str(models["decoder"]), str(broken)))
    with pytest.raises(FtadvisorError, match="has no tokenizer that Transformers can load"):
        ftadvisor.run(plan, output_dir=work / "out", max_steps=2)
    assert not list((work / "out").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_rehearsal_leaves_nothing_and_a_command_what_it_needs(
    models: dict[str, Path], work: Path
):
    plan = write(work, models["decoder"], num_gpus=2)
    found = rehearse(plan, output_dir=work / "out")
    assert found.command.startswith("torchrun --standalone --nproc-per-node 2 ")
    assert " -m ftadvisor run " in found.command
    assert not (work / "out").exists()
    # The command's plan is not there: nothing was written.
    shown = str(rehearsal_document(found))
    assert "After --print-command, which writes this plan: torchrun" in shown
    assert "lora_target_modules all-linear" in shown
    assert rehearse(plan, output_dir=work / "out", write=True).command == found.command
    accelerate = pytest.importorskip("accelerate.commands.config.config_args")
    read = accelerate.load_config_from_file(str(work / "out/accelerate.yaml"))
    assert read.num_processes == 2
    # What was prepared is no other run.
    assert rehearse(work / "out/plan.yaml", output_dir=work / "out")
    plan.write_text(plan.read_text().replace("max_length: 64", "max_length: 32"))
    with pytest.raises(InvalidSettingError, match="another run"):
        rehearse(plan, output_dir=work / "out")


@pytest.mark.slow
def test_accelerate_reads_every_configuration(tmp_path: Path):
    accelerate = pytest.importorskip("accelerate.commands.config.config_args")
    for strategy in ("ddp", "fsdp", "fsdp-shard-grad-op", "zero2", "zero3"):
        content = launching.accelerate_configuration(settings(strategy), gpu=True)
        file = tmp_path / f"{strategy}.yaml"
        file.write_text(dump_yaml(content))
        found = accelerate.load_config_from_file(str(file))
        kind = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero": "DEEPSPEED"}
        assert found.distributed_type.value == kind[strategy.rstrip("123").partition("-")[0]]


def test_a_batch_that_cannot_be_divided(work: Path):
    plan = write(work, Path("llama3.2-1b"))
    with pytest.raises(InvalidSettingError, match=r"num_processes 3.*--num-processes 2"):
        rehearse(plan, num_processes=3, output_dir=work / "out")
