"""The quality ranking beside a benchmark that was left out of it: PEFT's MetaMathQA table.

Its 66 runs fine-tune one model on one dataset with 39 techniques and publish accuracy, memory and
time. The evidence without the rows that come from that table (`peft-*`) says how good each
technique should be; the estimate says what it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from ftadvisor.advice.choice import front
from ftadvisor.advice.engine import holding
from ftadvisor.advice.facts import size_class
from ftadvisor.advice.quality import TIED_POINTS, Standing, pooled_quality
from ftadvisor.schema.measurement import Measurement
from ftadvisor.schema.situation import Facts
from ftadvisor.sources.measurements import read_measurements
from ftadvisor.sources.models import find_model
from ftadvisor.sources.rules import built_in_rules
from ftadvisor.validation.rows import row_of

SOURCE = "PEFT MetaMathQA"
LEFT_OUT = "peft-"
"""What the ids of rules begin with that come from the table."""
PERCENT = 100.0
STEPS, BATCH = 5000, 4
"""Optimizer steps and examples in each, as its runs state."""


class Compared(NamedTuple):
    """A technique at its best setting: what the table says, and what was expected."""

    technique: str
    run: str
    """The run of the table that scored best."""
    accuracy: float
    """Measured [%]."""
    memory_gib: float
    seconds: float
    """Of a micro-step."""
    points: float | None
    """Expected against LoRA; None: unknown."""
    low: float | None
    high: float | None
    predicted_gib: float | None
    predicted_seconds: float | None
    rank: float | None
    """Among the techniques that have evidence, by accuracy; ties share the mean of their places."""
    expected_rank: float | None
    on_front: bool
    expected_on_front: bool


class FrontScore(NamedTuple):
    """A front beside the measured one."""

    recall: float
    """Of the measured front, the share that was found."""
    precision: float
    """Of the front that was found, the share that is measured to be one."""


@dataclass(frozen=True, slots=True)
class EvidenceReport:
    """All techniques of the table, and how well they were told apart."""

    rows: tuple[Compared, ...]
    spearman: float
    front: FrontScore
    """Quality, memory and time as ftadvisor expects them."""
    measured_time: FrontScore
    """The same with the measured time: whether quality and memory alone would find it."""
    measured_quality: FrontScore
    """The same with the measured accuracy."""

    @property
    def known(self) -> tuple[Compared, ...]:
        """Those that have evidence from elsewhere."""
        return tuple(row for row in self.rows if row.points is not None)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Those that have none, and get no guess."""
        return tuple(row.technique for row in self.rows if row.points is None)


def evidence_report() -> EvidenceReport:
    """The comparison, over the techniques that have evidence from elsewhere."""
    best = _best_runs()
    standings = _standings(next(iter(best.values())))
    known = {name: m for name, m in best.items() if name in standings}
    accuracy = {name: PERCENT * float(m.row["quality"]) for name, m in known.items()}
    points = {name: standings[name].points for name in known}
    rank, expected_rank = tied_ranks(accuracy), tied_ranks(points)
    taken = {name: _predicted(m) for name, m in known.items()}
    measured_front = front({n: (accuracy[n], *_measured(m)) for n, m in known.items()})
    expected_front = front({n: (points[n], *taken[n]) for n in known})
    rows = [
        _compared(name, m, standings.get(name))._replace(
            predicted_gib=taken[name][0] if name in taken else None,
            predicted_seconds=taken[name][1] if name in taken else None,
            rank=rank.get(name),
            expected_rank=expected_rank.get(name),
            on_front=name in measured_front,
            expected_on_front=name in expected_front,
        )
        for name, m in best.items()
    ]
    timed = front({n: (points[n], taken[n][0], _measured(m)[1]) for n, m in known.items()})
    scored = front({n: (accuracy[n], *taken[n]) for n in known})
    return EvidenceReport(
        rows=tuple(sorted(rows, key=lambda row: -row.accuracy)),
        spearman=correlation([rank[n] for n in known], [expected_rank[n] for n in known]),
        front=_score(expected_front, measured_front),
        measured_time=_score(timed, measured_front),
        measured_quality=_score(scored, measured_front),
    )


def _score(found: frozenset[str], measured: frozenset[str]) -> FrontScore:
    both = len(found & measured)
    return FrontScore(both / len(measured), both / len(found))


def tied_ranks(values: Mapping[str, float], tied: float = TIED_POINTS) -> dict[str, float]:
    """Places from 1 on, the greatest first; what is within `tied` of its group's first is equal.

    The values are gone through from the greatest down: one that is `tied` or more below the group's
    first begins the next group. All of a group have the mean of its places.
    """
    order = sorted(values, key=lambda name: -values[name])
    groups: list[list[str]] = []
    for name in order:
        if groups and values[groups[-1][0]] - values[name] < tied:
            groups[-1].append(name)
        else:
            groups.append([name])
    found: dict[str, float] = {}
    before = 0
    for group in groups:
        found |= dict.fromkeys(group, before + (len(group) + 1) / 2)
        before += len(group)
    return found


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Pearson's, which of ranks is Spearman's."""
    mean_one, mean_other = sum(one) / len(one), sum(other) / len(other)
    pairs = [(a - mean_one, b - mean_other) for a, b in zip(one, other, strict=True)]
    norm = (sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs)) ** 0.5
    return sum(a * b for a, b in pairs) / norm


def _best_runs() -> dict[str, Measurement]:
    """The run of each technique that scored best."""
    best: dict[str, Measurement] = {}
    for m in read_measurements():
        if m.source != SOURCE or m.row.get("quality") is None:
            continue
        name = _technique(m)
        if name not in best or m.row["quality"] > best[name].row["quality"]:
            best[name] = m
    return best


def _technique(m: Measurement) -> str:
    """In the table rsLoRA is LoRA with another scale."""
    config = cast("dict[str, Any]", m.row.get("peft_config") or {})
    return "rslora" if config.get("use_rslora") else str(m.row["technique"])


def _standings(m: Measurement) -> Mapping[str, Standing]:
    """What the evidence expects of the table's situation, its own rows left out."""
    params = float(find_model(m.model).spec.num_params)
    facts = Facts(
        num_params=params,
        size_class=size_class(params),
        family="decoder",
        modality="text",
        use_case="reasoning",
        objective="sft",
        num_examples=float(STEPS * BATCH),
        mean_tokens=float(m.row["mean_tokens_per_sample"]),
    )
    rules = [rule for rule in built_in_rules() if not rule.id.startswith(LEFT_OUT)]
    return pooled_quality(holding(rules, facts)).standings


def _measured(m: Measurement) -> tuple[float, float]:
    return m.memory_gib or 0.0, m.micro_step_seconds or 0.0


def _predicted(m: Measurement) -> tuple[float, float]:
    row = row_of(m)
    assert row.memory is not None
    assert row.time is not None
    return row.memory.predicted, row.time.predicted


def _compared(name: str, m: Measurement, standing: Standing | None) -> Compared:
    memory_gib, seconds = _measured(m)
    return Compared(
        technique=name,
        run=m.id,
        accuracy=PERCENT * float(m.row["quality"]),
        memory_gib=memory_gib,
        seconds=seconds,
        points=standing.points if standing else None,
        low=standing.low if standing else None,
        high=standing.high if standing else None,
        predicted_gib=None,
        predicted_seconds=None,
        rank=None,
        expected_rank=None,
        on_front=False,
        expected_on_front=False,
    )
