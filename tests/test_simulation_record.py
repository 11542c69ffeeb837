"""Around the simulated step, without the training stack: record, cache, pictures, errors."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import warnings
import xml.dom.minidom
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from ftadvisor import estimate, simulate
from ftadvisor.api.selfchecking import MODELS, SETTINGS, selfcheck
from ftadvisor.cli import main
from ftadvisor.errors import (
    InvalidSettingError,
    MissingExtraError,
    UnknownNameError,
    UnsupportedError,
)
from ftadvisor.render import timeline
from ftadvisor.render.picture import check_target, write_picture
from ftadvisor.schema.selfcheck import Checked, SelfCheck
from ftadvisor.schema.simulation import (
    Consumer,
    Moment,
    PhaseUse,
    PhaseWork,
    SimulatedStep,
    Timeline,
)
from ftadvisor.simulation import simulation, versions
from ftadvisor.simulation.cuda.grids import assumed_grid, grid_of
from ftadvisor.sources import answers
from ftadvisor.sources.coefficients import simulated_intervals
from ftadvisor.sources.gpus import find_gpu
from ftadvisor.units import GIB

ROOT = Path(__file__).parent.parent
STEP = SimulatedStep(
    allocated_bytes=14 * GIB,
    reserved_bytes=15 * GIB,
    device_bytes=16 * GIB,
    peak_phase="backward 2",
    peak_module="model.layers.*.mlp",
    peak_operation="mul",
    parts={"weights": 12 * GIB, "activations": 2 * GIB - 512, "unsplit": 512},
    modules=(Consumer("model.layers.*.mlp <&>", "weights", 9 * GIB, 96),),
    operations=(Consumer("add", "activations", 2 * GIB, 32),),
    phases=(PhaseUse("forward 2", 13 * GIB), PhaseUse("backward 2", 14 * GIB), PhaseUse("end", 9)),
    timeline=Timeline(
        kinds=("weights", "activations"),
        phases=("forward 2", "backward 2", "end"),
        moments=(
            Moment(0, 0, "model.embed_tokens", "embedding", (12 * GIB, 0)),
            Moment(40, 1, "model.layers.*.mlp <&>", "mul", (12 * GIB, 2 * GIB)),
            Moment(90, 2, "", "", (12 * GIB, 0)),
        ),
        num_events=100,
    ),
    work=(PhaseWork("forward 2", "linear", 1e13, 1e9, 200),),
    attention={"flash": 32},
    num_layers=32,
    num_trainable_params=4_194_304,
    num_retries=0,
    seconds=1.5,
    versions={"torch": "2.13.0"},
    assumptions=("simulated: two optimizer steps",),
)
NOTHING = Timeline(kinds=(), phases=(), moments=(), num_events=0)
QUESTION: dict[str, Any] = {"model": "llama-7b", "gpu": "rtx3090", "technique": "lora"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "simulate_step", lambda *_: STEP)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> SimulatedStep:
        raise UnsupportedError.of("objective dpo", "it is not simulated")

    monkeypatch.setattr(simulation, "simulate_step", refuse)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the `run` extra were not installed."""

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    versions.library_versions.cache_clear()
    monkeypatch.setattr(versions, "version", missing)


def test_a_step_is_itself_after_json():
    assert SimulatedStep.from_dict(json.loads(json.dumps(STEP.as_dict()))) == STEP


def test_an_answer_is_kept(home: Path):
    key = answers.key_of({"a": 1, "b": [1, 2]})
    assert key == answers.key_of({"b": [1, 2], "a": 1}) != answers.key_of({"a": 2, "b": [1, 2]})
    assert answers.kept("room", key) is None
    answers.keep("room", key, {"x": 1})
    assert answers.kept("room", key) == {"x": 1}
    assert [file.suffix for file in (home / "room").iterdir()] == [".json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]", b"[" * 100_000])
def test_a_spoilt_file_counts_as_none(home: Path, content: bytes):
    answers.keep("room", "key", {"x": 1})
    (home / "room" / "key.json").write_bytes(content)
    assert answers.kept("room", "key") is None


def test_a_directory_that_cannot_be_written_keeps_nothing(home: Path):
    home.write_text("a file")
    answers.keep("room", "key", {"x": 1})
    assert answers.kept("room", "key") is None


def test_the_oldest_answers_go(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answers, "_MOST_FILES", 3)
    for number in range(6):
        answers.keep("room", str(number), {})
    assert len(list((home / "room").iterdir())) == 3


def test_a_second_run_needs_no_library(monkeypatch: pytest.MonkeyPatch):
    installed = {name: f"{release}.0" for name, release in versions.TESTED.items()}
    monkeypatch.setattr(simulation, "library_versions", lambda: installed)
    monkeypatch.setattr(simulation, "import_module", _module_that_summarizes(monkeypatch))
    first = simulate(**QUESTION)
    assert first.step == replace(STEP, versions=installed)
    monkeypatch.setattr(simulation, "import_module", _own_version_only)
    assert simulate(**QUESTION) == first
    with pytest.raises(LookupError):
        simulation.simulate_step({}, *_rest())


def test_answers_are_of_the_code_of_every_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    room = tmp_path / "simulation"
    monkeypatch.setattr(simulation, "__file__", str(room / "simulation.py"))
    files = [room / "step.py", room / "cuda" / "allocator.py", tmp_path / "configuration" / "x.py"]
    states: set[Any] = set()
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    for file in files:
        states.add(simulation._own_state.__wrapped__())
        file.write_text("changed = True")
    states.add(simulation._own_state.__wrapped__())
    assert len(states) == len(files) + 1


def _own_version_only(name: str) -> Any:
    if name != "ftadvisor":
        raise LookupError(name)
    return sys.modules[name]


def _module_that_summarizes(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Module:
        __version__ = "0.1.0"

        @staticmethod
        def summarized(*_: Any) -> SimulatedStep:
            return STEP

    return lambda name: _own_version_only(name) if name == "ftadvisor" else Module


def _rest() -> tuple[Any, ...]:
    from ftadvisor.schema.settings import Settings
    from ftadvisor.sources.trainers import find_trainer

    return Settings(technique="lora"), find_trainer("trl-1.16"), find_gpu("rtx3090"), 0.0


@pytest.mark.usefixtures("simulated")
def test_an_estimate_takes_over_what_was_simulated():
    closed, found = estimate(**QUESTION), estimate(**QUESTION, simulate=True)
    assert (closed.method, found.method) == ("analytic", "simulated")
    assert found.memory.allocated_bytes == 14 * GIB == sum(found.memory.parts.values())
    assert found.memory.reserved_bytes == 15 * GIB
    assert found.memory.allocated_low_bytes < 14 * GIB < found.memory.allocated_high_bytes
    assert found.num_trainable_params == 4_194_304
    assert (found.time, found.cost) == (closed.time, closed.cost)
    assert "simulated: two optimizer steps" in found.assumptions


@pytest.mark.usefixtures("simulated")
def test_the_cache_that_grows_with_varying_lengths_is_in_the_interval():
    closed, found = estimate(**QUESTION), estimate(**QUESTION, simulate=True)
    fixed = {"mean_length": 1024, "max_length": 1024}
    assert found.memory.reserved_high_bytes >= closed.memory.reserved_high_bytes
    narrow = estimate(**QUESTION, **fixed, simulate=True).memory
    assert narrow.reserved_high_bytes == round(15 * GIB * simulated_intervals()["reserved"].high)


@pytest.mark.usefixtures("refused")
def test_what_cannot_be_simulated_gets_the_closed_form():
    closed, found = estimate(**QUESTION), simulate(**QUESTION)
    assert found.step is None
    assert found.estimate.method == "analytic"
    assert found.estimate.memory == closed.memory
    assert "objective dpo is not supported" in found.reason
    assert found.estimate.assumptions[0].startswith("memory is the closed form's")


@pytest.mark.usefixtures("refused")
def test_the_command_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    plot = tmp_path / "step.svg"
    words = ["simulate", "--model", "llama-7b", "--gpu", "rtx3090", "--plot", str(plot)]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Not simulated: objective dpo")
    assert "nothing written" in printed.err
    assert not plot.exists()


@pytest.mark.usefixtures("simulated")
def test_the_command_prints_the_estimate_s_record(capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", "--model", "llama-7b", "--gpu", "rtx3090", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "simulated"
    assert found["memory"]["allocated_bytes"] == 14 * GIB
    assert found["simulation"]["timeline"]["moments"][1]["operation"] == "mul"


@pytest.mark.usefixtures("simulated")
def test_the_command_prints_who_holds_what(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    plot = tmp_path / "step.html"
    words = ["simulate", "--model", "llama-7b", "--gpu", "rtx3060", "--plot", str(plot)]
    assert main(words) == 1
    printed = capsys.readouterr()
    for part in ("backward 2", "model.layers.*.mlp", "unsplit", "simulated"):
        assert part in printed.out
    assert "the picture is in" in printed.err
    assert plot.read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("simulated")
def test_estimate_lists_all_techniques_simulated(capsys: pytest.CaptureFixture[str]):
    words = ["estimate", "--model", "llama-7b", "--gpu", "rtx3090", "--simulate", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)["estimates"]
    assert {row["method"] for row in found} == {"simulated"}


@pytest.mark.usefixtures("simulated")
def test_recommend_simulates_its_plan_and_alternatives():
    from ftadvisor import recommend

    found = recommend("llama-7b", gpu="rtx4090", use_case="chat", simulate=True)
    assert found.plan is not None
    assert found.plan.estimate.method == "simulated"
    assert {a.plan.estimate.method for a in found.alternatives} <= {"simulated"}


def test_recommend_goes_on_to_what_fits(monkeypatch: pytest.MonkeyPatch):
    from ftadvisor import recommend

    usual = recommend("llama-7b", gpu="rtx4090", use_case="chat")
    assert usual.plan is not None
    first = usual.plan.technique
    large = replace(
        STEP,
        allocated_bytes=90 * GIB,
        reserved_bytes=91 * GIB,
        device_bytes=92 * GIB,
        parts={"weights": 90 * GIB},
    )

    def step(config: Any, settings: Any, *_: Any) -> SimulatedStep:
        return large if settings.technique == first else STEP

    monkeypatch.setattr(simulation, "simulate_step", step)
    found = recommend("llama-7b", gpu="rtx4090", use_case="chat", simulate=True)
    assert found.plan is not None
    assert found.plan.technique != first
    assert f"{first} would be chosen, but simulated it needs 91.0 GiB." in found.warnings
    monkeypatch.setattr(simulation, "simulate_step", lambda *_: large)
    none = recommend("llama-7b", gpu="rtx4090", use_case="chat", simulate=True)
    assert none.plan is None


@pytest.mark.usefixtures("simulated")
def test_validate_scores_the_simulation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = (ROOT / "data" / "measurements" / "h100.jsonl").read_text().splitlines()
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(lines[:2]))
    assert main(["validate", str(rows), "--simulate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    predicted = {row["predicted_gib"] for row in found["rows"] if row["metric"] == "allocated"}
    assert predicted <= {14.0}
    assert found["bounds"] == []


@pytest.mark.usefixtures("bare")
def test_without_the_extra_one_sentence_says_what_to_install(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(MissingExtraError):
        estimate(**QUESTION, simulate=True)
    asked = ["--model", "llama-7b", "--gpu", "rtx3090"]
    for words in (
        ["simulate", *asked], ["estimate", *asked, "--simulate"],
        ["recommend", *asked, "--use-case", "chat", "--simulate"],
        ["selfcheck"], ["validate", "--simulate"],
    ):  # fmt: skip
        assert main(words) == 2, words
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "pip install 'ftadvisor[run]'" in said


def test_nothing_but_simulate_imports_the_training_stack():
    code = (
        "import sys; from ftadvisor import estimate, recommend, simulate; "
        "estimate('llama-7b', gpu='rtx3090'); "
        "recommend('llama-7b', gpu='rtx4090', use_case='chat'); "
        "print(sorted({'torch', 'transformers', 'peft', 'ftadvisor.simulation.simulation'} "
        "& set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_other_vendors_are_refused():
    with pytest.raises(UnsupportedError, match="CUDA"):
        simulation.capability_of(find_gpu("mi300x"))
    assert simulation.capability_of(find_gpu("rtx3090")) == (8, 6)


def test_what_would_take_minutes_is_refused(monkeypatch: pytest.MonkeyPatch):
    installed = {name: f"{release}.0" for name, release in versions.TESTED.items()}
    monkeypatch.setattr(simulation, "library_versions", lambda: installed)
    found = simulate(**QUESTION, micro_batch_size=100_000)
    assert "would take minutes" in found.reason


def test_versions_are_those_of_the_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"]["run"]
    extra = dict(line.split("==") for line in lines if "==" in line)
    assert {f"{v}.*" for v in versions.TESTED.values()} <= set(extra.values())
    assert all(extra[name] == f"{tested}.*" for name, tested in versions.TESTED.items())


def test_other_versions_are_said_once():
    installed = {name: f"{release}.3" for name, release in versions.TESTED.items()}
    assert versions.untested(installed) == ()
    (said,) = versions.untested({**installed, "torch": "2.9.1"})
    assert "torch 2.9.1 (checked in 2.13)" in said
    versions.warn_of_untested.cache_clear()
    with pytest.warns(versions.UntestedVersionWarning):
        versions.warn_of_untested((said,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        versions.warn_of_untested((said,))


def test_a_picture_is_well_formed_and_says_where_the_peak_is():
    drawn = timeline.svg(STEP, "a <model> & more")
    xml.dom.minidom.parseString(drawn)
    for part in ("peak 14.0 GiB: backward 2", "forward 2", "activations", "&lt;model&gt;"):
        assert part in drawn
    assert drawn.count("<title>") == len(STEP.timeline.moments)


def test_a_picture_of_nothing_is_one():
    empty = replace(STEP, timeline=NOTHING)
    xml.dom.minidom.parseString(timeline.svg(empty, "nothing"))


@pytest.mark.parametrize("name", ["step.pdf", "step", "svg", ""])
def test_a_picture_has_a_format(name: str):
    with pytest.raises(InvalidSettingError, match="must end in"):
        check_target(name)


def test_a_png_needs_matplotlib(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidSettingError, match="matplotlib") as raised:
        check_target("step.png")
    assert "--plot FILE.svg" in raised.value.suggestions


def test_a_png_is_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib")
    for name, step in (("step", STEP), ("nothing", replace(STEP, timeline=NOTHING))):
        file = tmp_path / f"{name}.png"
        write_picture(str(file), timeline.picture(step, "a title"))
        assert file.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(InvalidSettingError, match="cannot be written"):
        write_picture(str(tmp_path / "no" / "step.svg"), timeline.picture(STEP, "title"))
    # Known before anything is drawn.
    with pytest.raises(InvalidSettingError, match="there is no directory"):
        check_target(str(tmp_path / "no" / "step.svg"))
    (tmp_path / "step.svg").mkdir()
    with pytest.raises(InvalidSettingError, match="is a directory"):
        check_target(str(tmp_path / "step.svg"))


def checked(analytic: int, simulated: int | None) -> Checked:
    return Checked("llama", "x", "lora", analytic, simulated, "loss", "backward 2")


def test_a_selfcheck_holds_within_its_bounds():
    good = SelfCheck((checked(1000, 1001), checked(1000, 1000), checked(1000, None)))
    assert good.holds
    assert len(good.compared) == 2
    assert good.spread().worst == pytest.approx(1 / 1001)
    assert not SelfCheck((checked(1000, 1050), checked(1000, 1000))).holds
    assert not SelfCheck(()).holds


def test_a_selfcheck_knows_its_architectures():
    assert len(MODELS) * len(SETTINGS) >= 200
    with pytest.raises(UnknownNameError):
        selfcheck(["lama"])
    with pytest.raises(UnknownNameError) as raised:
        selfcheck(["nope"])
    assert raised.value.suggestions == tuple(MODELS)


def test_unknown_multiprocessors_are_those_of_the_largest_of_the_kind():
    assert grid_of(find_gpu("rtx4090"), (8, 9)) == (128, 1536)
    assert grid_of(find_gpu("h20"), (9, 0)) == grid_of(None, (9, 0)) == (132, 2048)
    assert grid_of(find_gpu("b300"), (10, 3)) == grid_of(None, (8, 0)) == (108, 2048)
    assert assumed_grid(find_gpu("rtx4090"), (8, 9)) is None
    for name, capability, whose in (("h20", (9, 0), "largest"), ("b300", (10, 3), "A100's")):
        said = assumed_grid(find_gpu(name), capability)
        assert said is not None
        assert whose in said
