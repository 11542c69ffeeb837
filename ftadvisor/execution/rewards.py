"""What scores the answers of grpo and rloo: a reward model's directory, or a Python function."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

from ftadvisor.errors import InvalidSettingError, UnsupportedError, first_line, quoted
from ftadvisor.execution import stack
from ftadvisor.execution.device import Device
from ftadvisor.execution.loading import DTYPES, attention, pretrained, whole
from ftadvisor.execution.preferences import POLICY
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import find_model
from ftadvisor.sources.techniques import find_technique

WAYS = ["--reward-model DIR", "--reward-function rewards.py:score"]
MADE_BY = "ftadvisor run --objective reward, which makes one"
ADAPTER, WHOLE = "adapter_config.json", "config.json"
SCORING = "ForSequenceClassification"


def check_reward(plan: Plan, run: RunSettings) -> None:
    """Raise a FtadvisorError unless exactly one reward is named where one is needed, and it can be
    read. A function's module is executed here: the person asked for it.
    """
    named = [name for name in ("reward_model", "reward_function") if getattr(run, name) is not None]
    if plan.objective not in POLICY:
        if named:
            raise InvalidSettingError(
                f"{named[0]} has no effect with objective {plan.objective}: it belongs to"
                f" {', '.join(POLICY)}.",
                [f"--objective {name}" for name in POLICY],
            )
        return
    if len(named) != 1:
        what = "nothing says how good an answer is" if not named else "both score answers"
        raise InvalidSettingError(f"objective {plan.objective}: {what}.", WAYS)
    is_whole = find_technique(plan.technique).trains_base
    if is_whole and plan.model.endswith(".gguf") and plan.settings.get("beta"):
        raise UnsupportedError.of(
            f"objective {plan.objective} with technique {plan.technique} of a GGUF file",
            "TRL loads the reference itself, from a directory",
            ["--technique lora", "the model's directory"],
        )
    if run.reward_function is not None:
        find_function(run.reward_function)
        return
    _check_model(Path(str(run.reward_model)).expanduser())
    if not plan.settings.get("beta"):
        raise InvalidSettingError(
            f"objective {plan.objective} against a reward model with beta 0: nothing keeps the"
            " model near where it started, and it learns what deceives the reward model.",
            ["--beta 0.04", "settings: {beta: 0.04} in the plan"],
        )


@cache
def find_function(name: str) -> Callable[..., Any]:
    """The function of `module:function`; the module is one that Python finds, or a .py file."""
    place, colon, attribute = name.rpartition(":")
    if not (place and colon and attribute.isidentifier()):
        raise InvalidSettingError.of(
            "reward_function", name, "be module:function", ["--reward-function rewards.py:score"]
        )
    try:
        module = _module(place)
    except Exception as error:
        what = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise InvalidSettingError(
            f"reward_function {quoted(name)}: the module cannot be loaded ({what}).", [WAYS[1]]
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise InvalidSettingError(
            f"reward_function {quoted(name)}: the module has no such function.", [WAYS[1]]
        )
    return found


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        return importlib.import_module(place)
    path = Path(place).expanduser()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{place} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidSettingError(
            f"reward_model {quoted(str(path.parent))}: {path.name} cannot be read ({error}).",
            [MADE_BY],
        ) from error
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _check_model(place: Path) -> None:
    """The directory holds a model, or an adapter, that puts one number to a text."""
    name = quoted(str(place))
    if not place.is_dir():
        raise InvalidSettingError(f"reward_model {name} is no directory.", [MADE_BY])
    if (place / ADAPTER).is_file():
        adapter = _read(place / ADAPTER)
        is_scoring = adapter.get("task_type") == "SEQ_CLS"
        base = Path(str(adapter.get("base_model_name_or_path", "")))
        if base.is_absolute() and not base.is_dir():
            raise InvalidSettingError(
                f"reward_model {name} is an adapter of {quoted(str(base))}, which is not there.",
                [f'"base_model_name_or_path" in {ADAPTER}'],
            )
    elif (place / WHOLE).is_file():
        config = _read(place / WHOLE)
        architectures = config.get("architectures") or [""]
        is_scoring = str(architectures[0]).endswith(SCORING)
        classes = len(config.get("id2label") or "..")
        if is_scoring and classes != 1:
            raise InvalidSettingError(
                f"reward_model {name} tells {classes} classes apart: a reward is one number.",
                [MADE_BY],
            )
    else:
        raise InvalidSettingError(f"reward_model {name} holds no model.", [MADE_BY])
    if not is_scoring:
        raise InvalidSettingError(
            f"reward_model {name} is no reward model: it predicts words.", [MADE_BY]
        )
    if not any((place / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise InvalidSettingError(f"reward_model {name} holds no tokenizer.", [MADE_BY])


def load_reward_model(place: str, settings: Settings, device: Device) -> tuple[Any, Any]:
    """The reward model and its tokenizer, on the device, frozen.

    An adapter is left on its base: all of PEFT's techniques can be, not all can be merged. TRL
    takes any module (trl 1.16 trainer/grpo_trainer.py line 1605).
    """
    folder = Path(place).expanduser()
    tokenizer = pretrained(stack.transformers.AutoTokenizer, str(folder))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    is_adapter = (folder / ADAPTER).is_file()
    base = str(folder)
    if is_adapter:
        base = str(_read(folder / ADAPTER)["base_model_name_or_path"])
    # An adapter brings its head.
    load = pretrained if is_adapter else whole
    model = load(
        stack.transformers.AutoModelForSequenceClassification, base, num_labels=1,
        dtype=getattr(stack.torch, DTYPES[settings.weights_dtype]),
        **attention(find_model(base).spec, settings),
    )  # fmt: skip
    # The score is read at the last token that does not pad.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if is_adapter:
        try:
            model = stack.peft.PeftModel.from_pretrained(model, str(folder))
        except (ValueError, RuntimeError) as error:
            what = first_line(error)
            raise UnsupportedError.of(f"reward_model {quoted(place)}", what, [MADE_BY]) from error
    model.requires_grad_(False)
    return model.to(device.place).eval(), tokenizer
