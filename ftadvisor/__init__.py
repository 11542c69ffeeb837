"""ftadvisor: which fine-tuning fits, and the memory, time and cost of it, before it is run.

    from ftadvisor import estimate, recommend
    recommend("llama3.1-8b", gpu="rtx4090", use_case="chat", dataset="train.jsonl")
    estimate(model="llama-7b", gpu="rtx3090", technique="lora")

Names are loaded at first use, so that `import ftadvisor` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ftadvisor.api import compare, estimate, evaluate, fit, recommend, run, simulate
    from ftadvisor.api.calibrating import load_calibration
    from ftadvisor.errors import (
        AmbiguousNameError,
        DataFileError,
        FtadvisorError,
        InvalidSettingError,
        MissingExtraError,
        ModelUnavailableError,
        UnknownNameError,
        UnsupportedError,
    )
    from ftadvisor.execution.callbacks.advising import FtadvisorCallback as FtadvisorCallback
    from ftadvisor.schema.comparison import Comparison
    from ftadvisor.schema.estimate import Estimate
    from ftadvisor.schema.evaluation import Evaluation
    from ftadvisor.schema.fit import Fit
    from ftadvisor.schema.plan import Plan, Recommendation
    from ftadvisor.schema.report import Report
    from ftadvisor.schema.simulation import Simulation

__all__ = [
    "AmbiguousNameError",
    "Comparison",
    "DataFileError",
    "Estimate",
    "Evaluation",
    "Fit",
    "FtadvisorError",
    "InvalidSettingError",
    "MissingExtraError",
    "ModelUnavailableError",
    "Plan",
    "Recommendation",
    "Report",
    "Simulation",
    "UnknownNameError",
    "UnsupportedError",
    "__version__",
    "compare",
    "estimate",
    "evaluate",
    "fit",
    "load_calibration",
    "recommend",
    "run",
    "simulate",
]

_HOMES = {
    "Comparison": "ftadvisor.schema.comparison",
    "Estimate": "ftadvisor.schema.estimate",
    "Evaluation": "ftadvisor.schema.evaluation",
    "Fit": "ftadvisor.schema.fit",
    # Not in __all__: it needs the training stack, and `from ftadvisor import *` does not.
    "FtadvisorCallback": "ftadvisor.execution.callbacks.advising",
    "Plan": "ftadvisor.schema.plan",
    "Recommendation": "ftadvisor.schema.plan",
    "Report": "ftadvisor.schema.report",
    "Simulation": "ftadvisor.schema.simulation",
    "compare": "ftadvisor.api.comparison",
    "estimate": "ftadvisor.api.estimator",
    "evaluate": "ftadvisor.api.evaluating",
    "fit": "ftadvisor.api.fitting",
    "load_calibration": "ftadvisor.api.calibrating",
    "recommend": "ftadvisor.api.recommender",
    "run": "ftadvisor.api.running",
    "simulate": "ftadvisor.api.simulating",
}


def __getattr__(name: str) -> object:
    if name not in __all__ and name not in _HOMES:
        raise AttributeError(f"module 'ftadvisor' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES.get(name, "ftadvisor.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
