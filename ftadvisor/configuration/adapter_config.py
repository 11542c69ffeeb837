"""Settings to what PEFT is given: its class and the class's own options.

Said once, for the simulated step and the run alike. PEFT itself is not imported, but handed over:
that the options known here are its classes' fields is tested.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, NamedTuple, cast

from ftadvisor.configuration.peft_config import AS_SETTINGS
from ftadvisor.errors import UnsupportedError, first_line
from ftadvisor.schema.settings import ALL_LINEAR, Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.techniques import (
    default_target_modules,
    expert_modules,
    find_technique,
    peft_options,
    peft_own_options,
)

PEFT_TYPES = {"qlora": "LORA", "dora": "LORA", "rslora": "LORA", "bone": "MISS"}
"""Techniques that PEFT has under another name."""
SWITCHES = {"dora": {"use_dora": True}, "rslora": {"use_rslora": True}}
TASKS = {"seq_cls": "SEQ_CLS", "reward": "SEQ_CLS", "token_cls": "TOKEN_CLS"}
NO_TARGETS = frozenset({"prompt_tuning", "prefix_tuning", "p_tuning", "adaption_prompt"})
NOT_PEFT = frozenset({"full", "galore", "llamapro", "adapter", "adapter_v2"})
TRAINED_HEADS = ("classifier", "score")
"""What PEFT trains whole beside a classifier's adapter, by the end of its name (peft_model.py,
classifier_module_names)."""
MAMBA_TYPES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
MAMBA_MODULES = ("out_proj", "conv1d")
"""tuners/tuners_utils.py, _check_lora_target_modules_mamba: refused, because Mamba's fused kernels
read their weights past the adapter."""


class AdapterConfig(NamedTuple):
    """What PEFT is given."""

    peft_type: str
    """A key of PEFT_TYPE_TO_CONFIG_MAPPING, as text: LORA."""
    options: dict[str, Any]


def peft_config(
    peft: Any,
    model: Any,
    settings: Settings,
    *,
    total_steps: int | None = None,
    instead: Sequence[str] = (),
) -> Any:
    """The object that PEFT wraps this model by.

    `peft` is the library; `total_steps` as in `adapter_config`; `instead`: what works where this
    does not. Raises UnsupportedError for a technique that PEFT has not, or whose class refuses
    these options.
    """
    name, options = adapter_config(
        settings,
        model.config.model_type,
        encoder_decoder=model.config.is_encoder_decoder,
        num_layers=getattr(model.config.get_text_config(), "num_hidden_layers", None),
        total_steps=total_steps,
        linears=linears(model),
        not_adaptable=not_adaptable(model),
        made_anew=made_anew(model),
        norms=norms(model) if settings.technique == "ln_tuning" else (),
    )
    technique = find_technique(settings.technique)
    cls = peft.PEFT_TYPE_TO_CONFIG_MAPPING.get(getattr(peft.PeftType, name, name))
    if cls is None:
        raise UnsupportedError.of(technique.name, "PEFT has no such technique", instead)
    try:
        return cls(**options)
    except (ImportError, ValueError, TypeError) as error:
        # Some classes refuse options that contradict each other, or want another library.
        reason = f"PEFT's class refuses it ({first_line(error)})"
        raise UnsupportedError.of(technique.name, reason, instead) from error


def linears(model: Any) -> list[str]:
    """Names of the linear layers but the head, as `all-linear` means them."""
    head = model.get_output_embeddings()
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if hasattr(module, "in_features") and module is not head
    }
    return sorted(found)


def norms(model: Any) -> list[str]:
    """Names of the norms over the text's hidden size, which LayerNorm tuning means."""
    width = model.config.get_text_config().hidden_size
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Norm")
        and getattr(module, "weight", None) is not None
        and module.weight.numel() == width
        and "vision" not in name
        and "visual" not in name
    }
    return sorted(found)


def not_adaptable(model: Any) -> list[str]:
    """Names of linear layers that PEFT 0.21.2 takes for `all-linear`, and fails of: routers that
    return more than a tensor (in the step: its layer adds to the result), heads that train whole
    (its wrapper refuses what is adapted), and what it refuses in Mamba's layers.
    """
    mamba = MAMBA_MODULES if model.config.model_type in MAMBA_TYPES else ()
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if hasattr(module, "in_features")
        and ("router" in type(module).__name__.lower() or name.endswith((*TRAINED_HEADS, *mamba)))
    }
    return sorted(found)


def made_anew(model: Any) -> list[str]:
    """Names of the modules that the checkpoint lacked, but for the heads that PEFT itself trains
    whole: some classes put a layer between the body and the head (DeBERTa's pooler, ModernBERT's
    and BART's heads), and PEFT would leave it frozen, at random, and not save it.
    """
    return [
        name
        for name in getattr(model, "made_anew", ())
        if not any(part.endswith(TRAINED_HEADS) for part in name.split("."))
    ]


def adapter_config(
    settings: Settings,
    model_type: str,
    *,
    encoder_decoder: bool,
    num_layers: int | None = None,
    total_steps: int | None = None,
    linears: Sequence[str] = (),
    not_adaptable: Sequence[str] = (),
    made_anew: Sequence[str] = (),
    norms: Sequence[str] = (),
) -> AdapterConfig:
    """The class and the options that these settings are in PEFT.

    `model_type` is the checkpoint's, whose default target modules are taken where none are named;
    `num_layers` are its layers, which LLaMA-Adapter adapts all of where it is told of more;
    `total_steps` are the optimizer steps of the run, which AdaLoRA's schedule asks for;
    `linears` are the names of all linear layers, which PEFT is told one by one where it would adapt
    a mixture's experts and router besides: it forms a second copy of them in every forward, and
    takes no dropout; `not_adaptable` are those that all linear layers are without;
    `made_anew` are layers that a checkpoint lacked, which train whole beside the adapter; `norms`
    are the norms, which LayerNorm tuning trains where PEFT has no default. Raises UnsupportedError.
    """
    technique = find_technique(settings.technique)
    if technique.id in NOT_PEFT:
        raise UnsupportedError.of(technique.name, "PEFT has no such technique")
    fields = peft_options(technique.id).keys() | peft_own_options()
    options: dict[str, Any] = dict(technique.settings.get("peft_config", {}))
    options |= {o: getattr(settings, AS_SETTINGS[o]) for o in _settable(technique) & fields}
    options |= {k: v for k, v in settings.peft_config.items() if v is not None}
    options |= SWITCHES.get(technique.id, {})
    options = {k: v for k, v in options.items() if k in fields and k not in peft_own_options()}
    if technique.id not in NO_TARGETS and "target_modules" in fields:
        options["target_modules"] = _targets(settings, options, model_type, norms)
        if options["target_modules"] == ALL_LINEAR and "exclude_modules" in fields:
            options["exclude_modules"] = _excluded(options, not_adaptable)
            if experts := expert_modules(technique.id, model_type):
                options["target_modules"] = [name for name in linears if name not in experts]
    options |= _saved(options, made_anew, fields)
    if options.get("oft_block_size"):
        # The two are the matrix's width together; PEFT takes one of them.
        options.pop("r", None)
    if "adapter_layers" in options and num_layers is not None:
        options["adapter_layers"] = min(options["adapter_layers"], num_layers)
    if total_steps is not None and "total_step" in fields:
        options.setdefault("total_step", total_steps)
    usual = "SEQ_2_SEQ_LM" if encoder_decoder else "CAUSAL_LM"
    options["task_type"] = TASKS.get(settings.objective, usual)
    name = PEFT_TYPES.get(technique.id, technique.id.upper())
    return AdapterConfig(name, {k: _listed(v) for k, v in options.items() if v is not None})


def _saved(options: dict[str, Any], made_anew: Sequence[str], fields: Set[str]) -> dict[str, Any]:
    """What trains whole beside an adapter, which is not adapted besides."""
    if not made_anew or "modules_to_save" not in fields:
        return {}
    found: dict[str, Any] = {
        "modules_to_save": [*(options.get("modules_to_save") or ()), *made_anew]
    }
    if "exclude_modules" in fields:
        found["exclude_modules"] = _excluded(options, made_anew)
    return found


def _listed(value: Any) -> Any:
    """Lists, which a frozen record holds as tuples: PEFT indexes tensors with them, and a tuple is
    one index of several dimensions (peft 0.21.2 tuners/trainable_tokens/layer.py line 145).
    """
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in cast("dict[str, Any]", value).items()}
    return list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value


def _settable(technique: Technique) -> set[str]:
    """PEFT's options that settings of ftadvisor's own stand for."""
    own = {option for option, setting in AS_SETTINGS.items() if setting in technique.settings}
    # A setting of all that are LoRA, whose default is none of a technique's own.
    return own | ({"lora_dropout"} if "lora_alpha" in own else set())


def _targets(
    settings: Settings, options: dict[str, Any], model_type: str, norms: Sequence[str]
) -> list[str] | str | None:
    if settings.lora_target_modules:
        names = list(settings.lora_target_modules)
        return names[0] if names == [ALL_LINEAR] else names
    given = options.get("target_modules")
    if given or settings.technique == "trainable_tokens":
        # Without a name PEFT takes the embeddings whose tokens are trained (peft 0.21.2
        # tuners/trainable_tokens/model.py line 32), whatever LoRA would adapt.
        return given
    found = default_target_modules(settings.technique, model_type)
    if found:
        return list(found)
    # Where PEFT has no default it refuses; all norms or linear layers are taken, as in an estimate.
    return list(norms) if settings.technique == "ln_tuning" else ALL_LINEAR


def _excluded(options: dict[str, Any], not_adaptable: Sequence[str]) -> list[str] | str | None:
    given: Sequence[str] = options.get("exclude_modules") or []
    if isinstance(given, str):
        # A pattern of the user's own.
        return given
    return [*given, *(name for name in not_adaptable if name not in given)] or None
