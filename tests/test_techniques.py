"""Techniques and objectives by name, PEFT's default modules, and the rows of the data file."""

from __future__ import annotations

import pytest

from ftadvisor.errors import InvalidSettingError, UnknownNameError
from ftadvisor.sources.techniques import (
    OBJECTIVES,
    TASKS,
    all_techniques,
    default_target_modules,
    find_task,
    find_technique,
    technique_ids,
    technique_option,
)

ISSUE = [
    "full", "lora", "rslora", "dora", "qlora", "adalora", "ia3", "vera", "loha", "lokr", "oft",
    "boft", "ln_tuning", "bottleneck", "adaption_prompt", "prefix_tuning", "prompt_tuning",
    "p_tuning", "galore", "llamapro",
]  # fmt: skip
PUBLISHED = [
    "adamss", "beft", "bone", "c3a", "deft", "delora", "fourierft", "frod", "glora", "gralora",
    "hira", "lily", "miss", "osf", "peanut", "psoft", "pvera", "randlora", "road", "shira",
    "tinylora", "trainable_tokens", "unilora", "vblora", "waveft", "adapter", "adapter_v2",
]  # fmt: skip


@pytest.mark.parametrize("name", ISSUE + PUBLISHED)
def test_every_technique_is_found_by_its_name(name: str):
    assert find_technique(name).id == name


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("LoRA", "lora"),
        ("QLORA", "qlora"),
        ("ln-tuning", "ln_tuning"),
        ("PrefixTuning", "prefix_tuning"),
        ("prefix", "prefix_tuning"),
        ("prompt", "prompt_tuning"),
        ("adapters", "bottleneck"),
        ("rlhf", "lora"),
        ("full-galore", "galore"),
        ("p tuning", "p_tuning"),
    ],
)
def test_loose_names(name: str, id_: str):
    assert find_technique(name).id == id_


def test_unknown_name_lists_near_misses():
    with pytest.raises(UnknownNameError) as caught:
        find_technique("lorra")
    assert "lora" in caught.value.suggestions


@pytest.mark.parametrize(
    ("technique", "objective", "task"),
    [
        (None, None, (None, None)),
        ("lora", None, ("lora", None)),
        ("adapters", None, ("bottleneck", "sft")),
        ("instruction", None, (None, "sft")),
        (None, "domain", (None, "cpt")),
        ("rlhf", None, ("lora", "grpo")),
        ("dpo", None, (None, "dpo")),
        ("qlora", "rlhf", ("qlora", "grpo")),
        ("rlhf", "dpo", ("lora", "dpo")),
        ("adapters", "rlhf", ("bottleneck", "grpo")),
        ("adapters", "cpt", ("bottleneck", "cpt")),
        (None, "qlora", ("qlora", None)),
        ("distill", None, (None, "distillation")),
        ("full", "sft", ("full", "sft")),
    ],
)
def test_task(technique: str | None, objective: str | None, task: tuple[str | None, str | None]):
    assert find_task(technique, objective) == task


@pytest.mark.parametrize(
    ("technique", "objective"), [("dpo", "kto"), ("lora", "qlora"), ("instruction", "domain")]
)
def test_two_names_for_one_axis_contradict(technique: str, objective: str):
    with pytest.raises(InvalidSettingError, match="name two"):
        find_task(technique, objective)


def test_misspelt_objective_names_the_objectives():
    with pytest.raises(UnknownNameError, match="objective") as caught:
        find_task(None, "grp")
    assert "grpo" in caught.value.suggestions


def test_aliases_mean_what_exists():
    for technique, objective in TASKS.values():
        assert technique is None or technique in technique_ids()
        assert objective is None or objective in OBJECTIVES


def test_rows_are_complete():
    ids = technique_ids()
    assert len(set(ids)) == len(ids)
    for t in all_techniques():
        assert t.name, t.id
        assert t.sentence.endswith("."), t.id
        assert t.source, t.id
        assert not (t.trains_base and t.quantizable), t.id
    assert {t.id for t in all_techniques() if t.trains_base} == {"full", "galore"}
    assert {t.id for t in all_techniques() if t.forbids_checkpointing} == {"prefix_tuning"}


@pytest.mark.parametrize(
    ("technique", "model_type", "modules"),
    [
        ("lora", "llama", ("q_proj", "v_proj")),
        ("lora", "phi", ("q_proj", "v_proj", "fc1", "fc2")),
        ("vera", "phi", ("q_proj", "v_proj")),
        ("vera", "gpt2", ("c_attn",)),
        ("fourierft", "gpt2", ("mlp.c_proj",)),
        ("ia3", "llama", ("k_proj", "v_proj", "down_proj")),
        ("lora", "no_such_type", None),
    ],
)
def test_default_target_modules(technique: str, model_type: str, modules: tuple[str, ...] | None):
    assert default_target_modules(technique, model_type) == modules


def test_options_have_peft_defaults():
    assert technique_option("oft", "oft_block_size") == 32
    assert technique_option("lora", "no_such_option") is None


@pytest.mark.slow
def test_defaults_are_those_of_the_installed_peft():
    """Ranks and options of the data file against PEFT's configuration classes."""
    peft = pytest.importorskip("peft")
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    classes = {kind.lower(): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    assert peft is not None
    for t in all_techniques():
        cls = classes.get(t.id if t.id not in ("rslora", "dora", "qlora") else "lora")
        if cls is None or t.id == "bone":
            continue
        defaults = {name: f.default for name, f in cls.__dataclass_fields__.items()}
        if "lora_r" in t.settings:
            assert t.settings["lora_r"] == defaults["r"], t.id
        for option, value in t.settings.get("peft_config", {}).items():
            if option in ("num_virtual_tokens", "adapter_len", "adapter_layers", "token_indices"):
                continue
            stated = defaults[option]
            assert value == getattr(stated, "value", stated), (t.id, option)


@pytest.mark.slow
def test_target_modules_are_those_of_the_installed_peft():
    constants = pytest.importorskip("peft.utils.constants")
    for t in all_techniques():
        name = t.id.upper().replace("LN_TUNING", "LNTUNING")
        table = getattr(constants, f"TRANSFORMERS_MODELS_TO_{name}_TARGET_MODULES_MAPPING", None)
        for model_type, modules in (table or {}).items():
            if isinstance(modules, list):
                assert default_target_modules(t.id, model_type) == tuple(modules), t.id
