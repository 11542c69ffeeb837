"""The quality ranking against PEFT's MetaMathQA table, its own rows left out."""

from __future__ import annotations

from functools import cache

import pytest

from ftadvisor.advice.choice import front
from ftadvisor.schema.rule import Quality
from ftadvisor.sources.measurements import read_measurements
from ftadvisor.sources.rules import built_in_rules
from ftadvisor.validation.evidence import (
    LEFT_OUT,
    SOURCE,
    EvidenceReport,
    correlation,
    evidence_report,
    tied_ranks,
)


@cache
def report() -> EvidenceReport:
    return evidence_report()


def test_all_experiments_of_the_table_are_there():
    assert len([m for m in read_measurements() if m.source == SOURCE]) == 66


def test_what_comes_from_the_table_is_left_out():
    # Rows that cite it under another name would let it in again.
    for rule in built_in_rules():
        compares = any(isinstance(effect, Quality) for effect in rule.effects)
        if compares and not rule.id.startswith(LEFT_OUT):
            assert "method_comparison" not in rule.url + rule.source, rule.id


def test_the_ranking_correlates_with_measured_accuracy():
    assert len(report().known) >= 20
    assert report().spearman >= 0.7


def test_the_front_finds_the_measured_one():
    assert report().front.recall >= 0.8
    assert report().front.precision >= 0.6


def test_the_front_is_found_where_the_time_is_known():
    assert report().measured_time.recall >= 0.8
    assert report().measured_time.precision >= 0.6


def test_a_technique_without_evidence_is_unknown_not_guessed():
    assert {"lily", "waveft", "tinylora"} <= set(report().unknown)
    for row in report().rows:
        if row.technique in report().unknown:
            assert (row.points, row.expected_rank, row.expected_on_front) == (None, None, False)


def test_ties_are_groups_below_their_first():
    assert tied_ranks({"a": 50.0, "b": 48.0, "c": 46.9, "d": 40.0}) == {
        "a": 1.5,
        "b": 1.5,
        "c": 3.0,
        "d": 4.0,
    }


def test_correlation_of_hand_worked_ranks():
    assert correlation([1, 2, 3], [1, 2, 3]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15)
    assert correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)


def test_front_of_hand_worked_rows():
    rows = {
        "good": (60.0, 20.0, 2.0),
        "tied and smaller": (58.0, 18.0, 1.9),
        "worse and larger": (50.0, 21.0, 1.0),
        "beaten in all": (50.0, 22.0, 2.5),
    }
    assert front(rows) == {"tied and smaller", "worse and larger"}
