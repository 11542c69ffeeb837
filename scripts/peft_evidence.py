"""The quality ranking and the front beside PEFT's MetaMathQA table, which was left out of them.

python scripts/peft_evidence.py prints what docs/evidence.md shows.
"""

from __future__ import annotations

from ftadvisor.render.document import Column, Table, Words
from ftadvisor.render.markdown import markdown
from ftadvisor.validation.evidence import Compared, EvidenceReport, evidence_report


def figures(report: EvidenceReport) -> str:
    """How well techniques were told apart, as a Markdown table."""
    heads = (Column("what"), Column("value", right=True), Column("must be", right=True))
    rows = [("Spearman's correlation of quality, ties within 3 points", report.spearman, "0.70")]
    for name, score in (
        ("front", report.front),
        ("front with the measured time", report.measured_time),
        ("front with the measured accuracy", report.measured_quality),
    ):
        stated = name == "front"
        rows += [
            (f"{name}: share of the measured one that is found", score.recall, "0.80" * stated),
            (f"{name}: share of it that is in the measured one", score.precision, "0.60" * stated),
        ]
    cells = tuple((Words(what), Words(f"{value:.2f}"), Words(must)) for what, value, must in rows)
    return markdown((Table(heads, cells),))


def ranking(report: EvidenceReport) -> str:
    """All techniques with evidence, those whose place was missed by most first."""
    heads = (
        Column("technique"),
        *(
            Column(name, right=True)
            for name in (
                "accuracy [%]", "expected [points]", "90 % interval", "place", "expected place",
                "memory [GiB]", "expected", "micro-step [s]", "expected",
            )
        ),
        Column("front"),
    )  # fmt: skip
    rows = sorted(report.known, key=lambda row: (-_missed(row), -row.accuracy))
    return markdown((Table(heads, tuple(_cells(row) for row in rows)),))


def _missed(row: Compared) -> float:
    return abs((row.rank or 0.0) - (row.expected_rank or 0.0))


def _cells(row: Compared) -> tuple[Words, ...]:
    on = {(True, True): "both", (True, False): "measured", (False, True): "expected"}
    return tuple(
        Words(text)
        for text in (
            row.technique,
            f"{row.accuracy:.1f}",
            f"{row.points:+.1f}",
            f"{row.low:+.1f} to {row.high:+.1f}",
            f"{row.rank:g}",
            f"{row.expected_rank:g}",
            f"{row.memory_gib:.1f}",
            f"{row.predicted_gib:.1f}",
            f"{row.seconds:.3f}",
            f"{row.predicted_seconds:.3f}",
            on.get((row.on_front, row.expected_on_front), ""),
        )
    )


def unknown(report: EvidenceReport) -> str:
    """Techniques that nobody else compared: no guess is made."""
    return ", ".join(f"{name} *unknown*" for name in report.unknown)


def main() -> None:
    """Print everything."""
    report = evidence_report()
    print(figures(report))
    print(ranking(report))
    print(unknown(report))


if __name__ == "__main__":
    main()
