"""Techniques and objectives by name: `data/techniques.json`, `target_modules.json` and
`peft_options.json`."""

from __future__ import annotations

from functools import cache
from typing import Any, cast, get_args

from ftadvisor.errors import DataFileError, InvalidSettingError, UnknownNameError, quoted
from ftadvisor.schema.settings import Objective, Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.field_checks import NAMES, OBJECT, TEXT, check_row, record_kinds, rows_by_id

OBJECTIVES: tuple[str, ...] = get_args(Objective)
_OPTIONS = "peft_options.json"

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


_FILE = "techniques.json"
_TARGETS = "target_modules.json"


@cache
def _rows() -> dict[str, Technique]:
    kinds = record_kinds(Technique)
    rows = rows_by_id(_FILE, read_json(_FILE))
    return {id_: Technique(**check_row(_FILE, id_, row, kinds)) for id_, row in rows.items()}


@cache
def _used(id_: str) -> Technique:
    """The technique of an id, its settings checked: each row when it is first asked for."""
    found = _rows()[id_]
    check_row(_FILE, id_, found.settings, {}, record_kinds(Settings), inside="settings")
    return found


def check_techniques() -> None:
    """Raise DataFileError at the first row of either file that cannot be right."""
    for id_ in _rows():
        _used(id_)
    for technique in _tables():
        target_table(technique)


def technique_ids() -> tuple[str, ...]:
    """Ids in the file's order: the best known first."""
    return tuple(_rows())


def all_techniques() -> tuple[Technique, ...]:
    """All techniques, in the file's order."""
    return tuple(_used(id_) for id_ in _rows())


def find_technique(name: str) -> Technique:
    """The technique of that id or other name. Raises UnknownNameError with near misses."""
    rows = _rows()
    if name in rows:
        return _used(name)
    bare = _bare(name)
    known = bare if bare in rows else _by_bare().get(bare.replace("_", ""))
    alias = TASKS.get(bare, (None, None))[0]
    if known is None and alias not in rows:
        names = (*rows, *(alias for alias, (id_, _) in TASKS.items() if id_))
        raise UnknownNameError("technique", name, names, see="ftadvisor list techniques")
    return _used(known or str(alias))


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
    content = read_json(_OPTIONS)
    row: dict[str, Any] | None = content["techniques"].get(technique)
    if row is None:
        own: dict[str, Any] = find_technique(technique).settings.get("peft_config", {})
        return dict.fromkeys(own, "any")
    if "like" in row:
        row = content["techniques"][row["like"]]
    assert row is not None
    return {**row, **dict.fromkeys(content["common"], "any")}


def check_peft_options() -> None:
    """Raise DataFileError at the first technique of the file that cannot be right."""
    kinds = {"about": TEXT, "source": TEXT, "date": TEXT, "common": NAMES, "techniques": OBJECT}
    content = check_row(_OPTIONS, None, read_json(_OPTIONS), kinds)
    known = dict.fromkeys(_rows(), OBJECT)
    for id_, row in check_row(_OPTIONS, None, content["techniques"], {}, known).items():
        if row.get("like", id_) not in content["techniques"]:
            raise DataFileError(
                _OPTIONS, id_, "like", f"is {quoted(row['like'])}", "a technique of the file"
            )


@cache
def peft_own_options() -> frozenset[str]:
    """What every configuration class has and PEFT fills in itself."""
    return frozenset(read_json(_OPTIONS)["common"])


def default_target_modules(technique: str, model_type: str) -> tuple[str, ...] | None:
    """The modules that PEFT adapts when nobody names them; None where it has no default."""
    found = target_table(technique).get(model_type)
    return tuple(found) if found else None


PEFT_LORA = frozenset({"lora", "rslora", "dora", "qlora"})
"""Techniques that are PEFT's LORA."""


@cache
def expert_modules(technique: str, model_type: str) -> tuple[str, ...]:
    """Names of matrices that PEFT takes for parameters of all experts, as its LoRA alone does.

    None: it takes no such parameters of this model.
    """
    if technique not in PEFT_LORA:
        return ()
    content: Any = read_json(_TARGETS)
    return tuple(cast("dict[str, list[str]]", content["experts"]).get(model_type, ()))


@cache
def target_table(technique: str) -> dict[str, list[str]]:
    """The default modules of a technique by model type, as PEFT's mapping has them."""
    tables = _tables()
    name = technique if technique in tables else "lora"
    table = tables[name]
    own = {key: names for key, names in table.items() if key != "like"}
    check_row(_TARGETS, name, own, {}, dict.fromkeys(own, NAMES))
    like = table.get("like")
    if like is None:
        return own
    others = [other for other in tables if "like" not in tables[other]]
    if like not in others:
        raise DataFileError(_TARGETS, name, "like", f"is {quoted(like)}", " or ".join(others))
    return {**target_table(like), **own}


@cache
def _tables() -> dict[str, dict[str, Any]]:
    content = read_json(_TARGETS)
    tables: Any = cast("dict[str, Any]", content).get("tables") if type(content) is dict else None
    rows = cast("dict[str, Any]", tables) if isinstance(tables, dict) else {}
    if "lora" not in rows:
        raise DataFileError(_TARGETS, None, "tables", "has no table lora", '{"lora": {...}, ...}')
    return check_row(_TARGETS, None, rows, dict.fromkeys(rows, OBJECT), inside="tables")


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
