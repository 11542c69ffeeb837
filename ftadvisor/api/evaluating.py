"""`evaluate`: how good a trained model or an adapter is on rows that it was not trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ftadvisor.api.plan_files import read_plan
from ftadvisor.api.run_plans import planned
from ftadvisor.api.simulating import settings_of
from ftadvisor.configuration.options import PRECISIONS
from ftadvisor.errors import InvalidSettingError, near_misses, quoted
from ftadvisor.schema.evaluation import Evaluation
from ftadvisor.schema.plan import Plan, PlanHardware
from ftadvisor.schema.report import Event
from ftadvisor.schema.run import MOST_ANSWERS, RunSettings
from ftadvisor.sources.plans import PLAN_FILE

METRICS = (
    "eval_loss", "perplexity", "general_perplexity", "token_accuracy", "accuracy", "f1", "mcc",
    "exact_match", "bleu", "chrf", "rouge", "meteor", "reward_accuracy", "reward_margin",
    "mean_reward", "kl",
)  # fmt: skip
"""What can be asked for; the objective decides which of them there are."""
AS_MERGED = (
    "max_length", "max_target_length", "max_completion_length", "weights_dtype", "autocast",
    "attn_implementation", "micro_batch_size", "beta", "num_generations", "teacher_model", "lmbda",
)  # fmt: skip
"""Settings that what is measured of a merged model depends on, as its adapter was trained with."""
OF_ANSWERS = ("exact_match", "bleu", "chrf", "rouge", "meteor")


def evaluate(
    model: str | os.PathLike[str],
    *,
    dataset: str | os.PathLike[str],
    objective: str | None = None,
    metrics: Sequence[str] | None = None,
    eval_answers: int = MOST_ANSWERS,
    seed: int = 0,
    reward_model: str | os.PathLike[str] | None = None,
    reward_function: str | None = None,
    **settings: Any,
) -> Evaluation:
    """Metrics with 90 % intervals; an adapter is compared with its base.

    `model`: what `run` wrote, PEFT's adapter directory, or a model. What `run` wrote knows its
    objective and settings; for the others they are given as to `run`. What grpo and rloo have
    trained is scored by `reward_model` or `reward_function`. Raises FtadvisorError.
    """
    for name in metrics or ():
        if name not in METRICS:
            raise InvalidSettingError(
                f"{quoted(name)} is no metric.", near_misses(name, METRICS) or METRICS
            )
    place = os.fspath(model)
    plan = _plan(place, os.fspath(dataset), objective, {**settings, "seed": seed})
    if objective not in (None, plan.objective):
        raise InvalidSettingError(
            f"{quoted(place)} was trained for {plan.objective}, not for {objective}.",
            [f"--objective {plan.objective}"],
        )
    if metrics is not None and not {*metrics} & {*OF_ANSWERS}:
        eval_answers = 0
    run = RunSettings(
        output_dir="", eval_answers=eval_answers, reward_function=reward_function,
        reward_model=None if reward_model is None else os.fspath(reward_model),
    )  # fmt: skip
    from ftadvisor.execution.evaluation.alone import evaluate as evaluated

    # One process evaluates, whatever trained.
    alone = replace(
        settings_of(plan.estimate), num_gpus=1, strategy="none", offload_params=False,
        offload_optimizer=False,
    )  # fmt: skip
    found = evaluated(place, plan, alone, run, _labels(Path(place)))
    if metrics is None:
        return found
    kept = {k: v for k, v in found.metrics.items() if k.startswith(tuple(metrics))}
    return replace(found, metrics=kept, events=(*found.events, *_not_measured(metrics, found)))


def _not_measured(metrics: Sequence[str], found: Evaluation) -> Iterator[Event]:
    """Those that were asked for and are not there. Raises InvalidSettingError where none is."""
    missing = [name for name in metrics if not any(key.startswith(name) for key in found.metrics)]
    if not missing:
        return
    said = f"{', '.join(missing)}: not measured for {found.objective} here"
    if len(missing) == len(metrics):
        raise InvalidSettingError(f"{said}.", [f"--metrics {' '.join(found.metrics)}"])
    yield Event("evaluation", 0, said)


def _plan(place: str, dataset: str, objective: str | None, settings: dict[str, Any]) -> Plan:
    """The run's own plan with other data; else one that is made of what is given.

    Raises InvalidSettingError for settings other than a run's.
    """
    from ftadvisor.execution.merging import MERGED

    folder = Path(place).absolute()
    # What `run --merge` wrote lies in the run's directory.
    is_merged = folder.name == MERGED and not (folder / PLAN_FILE).is_file()
    written = (folder.parent if is_merged else folder) / PLAN_FILE
    if written.is_file():
        plan = read_plan(written)
        _check_as_planned(plan, settings, str(written))
        if plan.dataset is None:
            raise InvalidSettingError(f"{quoted(str(written))} names no dataset.")
        here = PlanHardware(gpu=plan.hardware.gpu, num_gpus=1)
        data = replace(plan.dataset, path=dataset)
        plan = replace(plan, dataset=data, hardware=here, seed=settings["seed"])
        return _of_whole(plan, dataset) if is_merged else plan
    adapter = _content(Path(place) / "adapter_config.json")
    given = {
        "model": adapter.get("base_model_name_or_path", place),
        "technique": "lora" if adapter else "full",
        "dataset": dataset,
        **settings,
    }
    if objective is not None:
        given["objective"] = objective
    return planned(None, given)[0]


def _check_as_planned(plan: Plan, settings: dict[str, Any], file: str) -> None:
    """A run's directory is evaluated as it was trained: other settings would have no effect."""
    for name in settings.keys() - {"seed"}:
        stated = {name: settings[name]}
        if name == "precision":
            stated = PRECISIONS.get(str(settings[name]), stated)
        if any(plan.settings.get(key) != value for key, value in stated.items()):
            raise InvalidSettingError(
                f"{name} {quoted(settings[name])}: {quoted(file)} says otherwise.",
                [f"leave {name} out"],
            )


def _of_whole(plan: Plan, dataset: str) -> Plan:
    """The plan of an adapter's run for the model that it was merged into, beside the same base."""
    kept = {name: plan.settings[name] for name in AS_MERGED if name in plan.settings}
    given = {"model": plan.model, "technique": "full", "objective": plan.objective}
    made, _ = planned(None, {**given, "dataset": dataset, "seed": plan.seed, **kept})
    return replace(made, dataset=plan.dataset)


def _labels(place: Path) -> tuple[str, ...]:
    """The classes: what the run wrote, else the checkpoint's own."""
    written = _content(place / "report.json").get("labels")
    if written:
        return tuple(written)
    own: dict[str, str] = _content(place / "config.json").get("id2label") or {}
    return tuple(own[number] for number in sorted(own, key=int))


def _content(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    try:
        return cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8")))
    except OSError:
        return {}
    except ValueError as error:
        raise InvalidSettingError(f"{quoted(str(file))} is no JSON: {error}.") from None
