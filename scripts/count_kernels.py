"""Counts the kernels that a layer of each architecture launches; writes data/kernels.json.

Two depths of the real Transformers model are recorded on meta tensors, and what one layer (or one
period of different layers) adds is counted. Needs the `run` extra.
"""

from __future__ import annotations

import json
import sys
from datetime import date
from importlib.metadata import version
from typing import Any

from ftadvisor.errors import UnsupportedError
from ftadvisor.schema.settings import Settings
from ftadvisor.simulation.model.building import transformers_config
from ftadvisor.simulation.recording.pattern import layer_pattern
from ftadvisor.simulation.step import record_step
from ftadvisor.sources.data_files import data_dir
from ftadvisor.sources.models import catalogue_rows, model_config
from ftadvisor.sources.trainers import find_trainer

WAYS: dict[str, dict[str, Any]] = {
    "trained": {"technique": "full", "weights_dtype": "bf16", "autocast": "none"},
    "mixed": {"technique": "full", "weights_dtype": "fp32", "autocast": "bf16"},
    "frozen": {"technique": "prompt_tuning", "weights_dtype": "bf16", "autocast": "none"},
}
ENCODERS = (
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "electra",
    "deberta-v2",
    "modernbert",
    "albert",
)
PAIRS = ("t5", "mt5", "bart")
TOKENS = 64
ABOUT = (
    "Kernels that one layer launches, [forward, backward]; a pair of layers of an encoder-decoder"
    " counts half. trained: weights in half precision; mixed: fp32 weights under autocast; frozen:"
    " no weight's gradient (as trained, where PEFT has no prompt tuning of the type). Written by"
    " scripts/count_kernels.py."
)
SOURCE = "transformers {}, torch {}, operations of ATen that are no views"


def main() -> None:
    """One model of each type, the smallest first; types that cannot be recorded are named."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in sorted(catalogue_rows(), key=lambda r: r.get("num_params") or 0):
        config = model_config(row["id"])
        kind = config.get("model_type")
        if kind is None or kind in found:
            continue
        try:
            found[kind] = ways_of(config)
        except Exception as error:  # whatever one type fails with, the others are counted
            sys.stderr.write(f"{kind}: {str(error)[:150]}\n")
    content = {
        "about": ABOUT,
        "source": SOURCE.format(version("transformers"), version("torch")),
        "date": date.today().isoformat(),
        "kernels": dict(sorted(found.items())),
    }
    lines = json.dumps(content, indent=1).replace("[\n    ", "[").replace(",\n     ", ", ")
    (data_dir() / "kernels.json").write_text(lines + "\n", encoding="utf-8")


def ways_of(config: dict[str, Any]) -> dict[str, list[float]]:
    """Each way's counts; where PEFT has no prompt tuning of a type, frozen is taken as trained."""
    found = {way: layer_kernels(config, way) for way in ("trained", "mixed")}
    try:
        return {**found, "frozen": layer_kernels(config, "frozen")}
    except UnsupportedError:
        return {**found, "frozen": found["trained"]}


def layer_kernels(config: dict[str, Any], way: str) -> list[float]:
    """What one layer adds to a forward and to a backward."""
    pattern = layer_pattern(transformers_config(config))
    if pattern is None:
        raise ValueError("no pattern of layers")
    fewer, more = (phases(config, pattern.prefix + times * pattern.period, way) for times in (1, 2))
    halves = 2 if config["model_type"] in PAIRS else 1
    each = pattern.period * halves
    return [(more[p] - fewer[p]) / each for p in ("forward 2", "backward 2")]


def phases(config: dict[str, Any], num_layers: int, way: str) -> dict[str, int]:
    """Kernels of each phase of a step."""
    kind = config["model_type"]
    objective = "seq_cls" if kind in ENCODERS else "seq2seq" if kind in PAIRS else "clm"
    settings = Settings(
        objective=objective, micro_batch_size=2, max_length=TOKENS, mean_length=TOKENS,
        mean_padded_length=TOKENS, longest_length=TOKENS, optim="sgd", max_grad_norm=0.0,
        max_target_length=TOKENS,
        peft_config={"num_virtual_tokens": 4} if way == "frozen" else {}, **WAYS[way],
    )  # fmt: skip
    trainer = find_trainer("transformers-5")
    recording = record_step(
        config, settings, trainer, compute_capability=(8, 0), num_layers=num_layers
    )
    found: dict[str, int] = {}
    for work in recording.work:
        found[work.phase] = found.get(work.phase, 0) + work.kernels
    return found


if __name__ == "__main__":
    main()
