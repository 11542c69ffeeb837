"""Techniques and objectives by name: `data/techniques.json`, `target_modules.json` and
`peft_options.json`."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from ftadvisor.errors import InvalidSettingError, UnknownNameError
from ftadvisor.schema.settings import Objective
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.data_files import read_json

OBJECTIVES: tuple[str, ...] = get_args(Objective)

TASKS: dict[str, tuple[str | None, str | None]] = {
    "adapters": ("bottleneck", "sft"),
    "houlsby": ("bottleneck", None),
    "peft": ("lora", None),
    "full_fine_tuning": ("full", None),
    "full_ft": ("full", None),
    "fft": ("full", None),
    "full_galore": ("galore", None),
    "llama_pro": ("llamapro", None),
    "llama_adapter": ("adaption_prompt", None),
    "prefix": ("prefix_tuning", None),
    "prompt": ("prompt_tuning", None),
    "ptuning": ("p_tuning", None),
    "p_tuning_v1": ("p_tuning", None),
    "layernorm_tuning": ("ln_tuning", None),
    "instruction": (None, "sft"),
    "instruction_tuning": (None, "sft"),
    "supervised": (None, "sft"),
    "domain": (None, "cpt"),
    "pretraining": (None, "cpt"),
    "continued_pretraining": (None, "cpt"),
    "rlhf": ("lora", "grpo"),
    "distill": (None, "distillation"),
    "classification": (None, "seq_cls"),
    "text_classification": (None, "seq_cls"),
    "multimodal": ("lora", "sft"),
}
"""Other names of techniques and objectives: which technique, which objective; None: open."""


@cache
def _rows() -> dict[str, Technique]:
    return {row["id"]: Technique(**row) for row in read_json("techniques.json")}


def technique_ids() -> tuple[str, ...]:
    """Ids in the file's order: the best known first."""
    return tuple(_rows())


def all_techniques() -> tuple[Technique, ...]:
    """All techniques, in the file's order."""
    return tuple(_rows().values())


def find_technique(name: str) -> Technique:
    """The technique of that id or other name. Raises UnknownNameError with near misses."""
    rows = _rows()
    found = rows.get(name)
    if found is not None:
        return found
    bare = _bare(name)
    known = bare if bare in rows else _by_bare().get(bare.replace("_", ""))
    alias = TASKS.get(bare, (None, None))[0]
    if known is None and alias is None:
        names = (*rows, *(alias for alias, (id_, _) in TASKS.items() if id_))
        raise UnknownNameError("technique", name, names, see="ftadvisor list techniques")
    return rows[known or str(alias)]


def find_task(technique: str | None, objective: str | None) -> tuple[str | None, str | None]:
    """The technique's id and the objective that two names mean; None where one is left open.

    Each may be given as the other, and names that set both are understood: `adapters` is
    (bottleneck, sft), `rlhf` (lora, grpo), `domain` (open, cpt). What is said outright outranks
    what another name implies: `--technique qlora --objective rlhf` is (qlora, grpo).
    Raises UnknownNameError, and InvalidSettingError where the two contradict each other.
    """
    first, second = _task("technique", technique), _task("objective", objective)
    for axis, i in (("techniques", 0), ("objectives", 1)):
        outright = first[1 - i] is None and second[1 - i] is None
        if outright and first[i] and second[i] and first[i] != second[i]:
            raise InvalidSettingError(
                f"technique {technique} and objective {objective} name two {axis}.",
                [f"--{axis[:-1]} {first[i]}", f"--{axis[:-1]} {second[i]}"],
            )
    return first[0] or second[0], second[1] or first[1]


def technique_option(technique: str, option: str) -> Any:
    """PEFT's default of one of a technique's options; None where it has none."""
    return find_technique(technique).settings.get("peft_config", {}).get(option)


@cache
def peft_options(technique: str) -> dict[str, Any]:
    """What peft_config may hold for a technique: the option's name and its kind.

    A technique that is not PEFT's has the options that its own row names.
    """
    content = read_json("peft_options.json")
    row: dict[str, Any] | None = content["techniques"].get(technique)
    if row is None:
        own: dict[str, Any] = find_technique(technique).settings.get("peft_config", {})
        return dict.fromkeys(own, "any")
    if "like" in row:
        row = content["techniques"][row["like"]]
    assert row is not None
    return {**row, **dict.fromkeys(content["common"], "any")}


@cache
def peft_own_options() -> frozenset[str]:
    """What every configuration class has and PEFT fills in itself."""
    return frozenset(read_json("peft_options.json")["common"])


def default_target_modules(technique: str, model_type: str) -> tuple[str, ...] | None:
    """The modules that PEFT adapts when nobody names them; None where it has no default."""
    found = target_table(technique).get(model_type)
    return tuple(found) if found else None


@cache
def target_table(technique: str) -> dict[str, list[str]]:
    """The default modules of a technique by model type, as PEFT's mapping has them."""
    tables: dict[str, dict[str, Any]] = read_json("target_modules.json")["tables"]
    table = tables.get(technique, tables["lora"])
    if "like" not in table:
        return table
    own = {key: names for key, names in table.items() if key != "like"}
    return {**tables[table["like"]], **own}


def _task(axis: str, name: str | None) -> tuple[str | None, str | None]:
    if name is None:
        return None, None
    bare = _bare(name)
    if bare in OBJECTIVES:
        return None, bare
    if bare in TASKS:
        return TASKS[bare]
    if axis == "objective" and bare not in _rows():
        names = (*OBJECTIVES, *(alias for alias, (_, goal) in TASKS.items() if goal))
        raise UnknownNameError(axis, name, names, see="ftadvisor list objectives")
    return find_technique(name).id, None


@cache
def _by_bare() -> dict[str, str]:
    return {id_.replace("_", ""): id_ for id_ in _rows()}


def _bare(name: str) -> str:
    return "_".join(str(name).casefold().replace("-", " ").replace("_", " ").split())
