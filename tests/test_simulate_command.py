"""`ftadvisor simulate` and its kin, with the real training stack."""

from __future__ import annotations

import json
import xml.dom.minidom
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

from ftadvisor import estimate, simulate  # noqa: E402
from ftadvisor.api.selfchecking import compared  # noqa: E402
from ftadvisor.cli import main  # noqa: E402
from ftadvisor.sources.models import model_config  # noqa: E402

ASKED = [
    "--model", "llama-3.2-3b", "--technique", "lora", "--gpu", "l40s",
    "--micro-batch-size", "4", "--max-length", "681",
]  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) in (0, 1)
    return json.loads(capsys.readouterr().out)


def test_the_issue_s_example(home: Path, capsys: pytest.CaptureFixture[str]):
    plot = home / "step.svg"
    found = answered(capsys, "simulate", *ASKED, "--plot", str(plot))
    step, memory = found["simulation"], found["memory"]
    assert found["method"] == "simulated"
    assert sum(memory["parts"].values()) == memory["allocated_bytes"] == step["allocated_bytes"]
    assert memory["allocated_bytes"] <= memory["reserved_bytes"] <= memory["device_bytes"]
    moments = step["timeline"]["moments"]
    assert max(sum(m["live_bytes"]) for m in moments) == sum(
        size for kind, size in step["parts"].items() if kind != "unsplit"
    )
    assert len(moments) < 700
    xml.dom.minidom.parse(str(plot))
    assert answered(capsys, "simulate", *ASKED) == found
    listed = answered(capsys, "estimate", *ASKED, "--simulate")["estimates"]
    assert [row["memory"] for row in listed] == [memory]


def test_trained_parameters_and_work_are_of_all_layers():
    found = simulate("qwen2.5-0.5b", gpu="l40s", technique="lora", lora_r=4)
    closed = estimate("qwen2.5-0.5b", gpu="l40s", technique="lora", lora_r=4)
    assert found.step is not None
    assert found.estimate.num_trainable_params == closed.num_trainable_params
    assert found.step.num_layers == 24
    linear = [w for w in found.step.work if (w.phase, w.category) == ("forward 2", "linear")]
    tokens = 8 * 1024
    # Two a weight and token, of the layers' 358 M and the head's 136 M.
    assert sum(w.flops for w in linear) >= 2 * 350e6 * tokens


def test_what_cannot_be_simulated_says_so(home: Path):
    remote = {**model_config("llama-7b"), "model_type": "llama", "auto_map": {"AutoConfig": "x"}}
    (home / "config.json").write_text(json.dumps(remote))
    assert simulate(str(home)).step is not None
    for question in (
        {"model": "llama-7b", "objective": "ppo"},
        {"model": "llama-7b", "num_gpus": 2, "strategy": "zero3", "gpu": "l40s"},
        {"model": "Qwen/Qwen-7B"},
        {"model": "llama-7b", "gpu": "mi300x"},
    ):
        found = simulate(**question)
        assert found.step is None, question
        assert found.estimate.method == "analytic"
        assert found.reason


CODE = {
    "configuration_own.py": """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "internlm2"
""",
    "modeling_own.py": """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
""",
}


def test_a_checkpoint_s_own_code_runs_only_where_it_is_trusted(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(home / "code"))
    sizes = {
        "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128,
        "tie_word_embeddings": False, "bias": False,
    }  # fmt: skip
    auto = {"AutoConfig": "configuration_own.OwnConfig"}
    auto |= {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    found = {}
    for name, kind, named in (("own", "internlm2", auto), ("plain", "llama", None)):
        (home / name).mkdir()
        config = {"model_type": kind, **sizes, **({"auto_map": named} if named else {})}
        (home / name / "config.json").write_text(json.dumps(config))
        for file, text in CODE.items() if named else ():
            (home / name / file).write_text(text)
        question = {"model": str(home / name), "technique": "full", "max_length": 64}
        found[name] = simulate(**question, trust_remote_code=True)
    assert found["own"].step is not None
    assert found["own"].step.allocated_bytes == found["plain"].step.allocated_bytes
    ran = (home / "code").exists()
    assert ran
    words = ["simulate", "--model", str(home / "own"), "--technique", "full"]
    assert answered(capsys, *words)["method"] == "analytic"
    assert answered(capsys, *words, "--trust-remote-code")["method"] == "simulated"
    (home / "own" / "modeling_own.py").unlink()
    (home / "own" / "configuration_own.py").unlink()
    reason = simulate(str(home / "own"), trust_remote_code=True).reason
    assert "not on this machine" in reason


ARCHITECTURES = ("llama", "qwen2", "gemma2", "gpt2", "opt", "bert")
MENDED = (
    ("falcon", "qlora, trl"),
    ("t5", "full, trl"),
    ("qwen2_vl", "full, trl"),
    ("modernbert", "lora, trl"),
)


@pytest.mark.parametrize(
    ("architecture", "setting"),
    [(a, s) for a in ARCHITECTURES for s in ("lora, trl", "full, trl")] + list(MENDED),
)
def test_the_closed_form_agrees(architecture: str, setting: str):
    row = compared(architecture, setting)
    assert row.error is not None, row.reason
    # Of T5 trained in full torch's allocator holds 3 % in blocks that it does not split; of what is
    # alive the closed form misses 0.2 %.
    assert abs(row.error) <= (0.04 if architecture == "t5" else 0.03), row
