"""Metrics as figures of sums over pieces (rows, or batches of them).

So a metric over any sample of the pieces is the same function of other sums, which is what its
interval needs. The libraries are imported where a metric of theirs is asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

Sums = Any
"""A numpy vector."""
Pair = tuple[str, str]
"""What the model answered, and the reference."""
LARGEST_EXPONENT = 700.0
"""exp of more overflows a float."""
WITHOUT_WORDNET = "meteor_without_wordnet"


class Tally(NamedTuple):
    """One metric of a model."""

    pieces: Any
    """A numpy matrix: a row for each independent piece."""
    figure: Callable[[Sums], float]
    """From the pieces' sum, over any of them, to the metric."""

    @property
    def value(self) -> float:
        """Over all pieces."""
        return self.figure(self.pieces.sum(axis=0))


def mean(values: Sequence[float], weights: Sequence[float] | None = None) -> Tally:
    """The weighted mean."""
    return Tally(_weighted(values, weights), _ratio)


def difference(first: Sequence[float], second: Sequence[float]) -> Tally:
    """The first's mean over the second's."""
    pieces = [(value, 1.0, 0.0, 0.0) for value in first]
    pieces += [(0.0, 0.0, value, 1.0) for value in second]
    return Tally(np.array(pieces), _apart)


def perplexity(losses: Sequence[float], tokens: Sequence[float]) -> Tally:
    """exp of the mean loss of a token."""
    return Tally(_weighted(losses, tokens), _exponential)


def classification(pieces: Sequence[Sequence[tuple[int, int]]]) -> dict[str, Tally]:
    """Accuracy, macro F1 and Matthews' correlation of (true, predicted) classes.

    The sums are each class's hits, its true and its predicted cases: all three need no more.
    """
    names = sorted({name for piece in pieces for pair in piece for name in pair})
    place = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(pieces), 3, len(names)))
    for i, piece in enumerate(pieces):
        for true, predicted in piece:
            counts[i, 0, place[true]] += true == predicted
            counts[i, 1, place[true]] += 1
            counts[i, 2, place[predicted]] += 1
    flat = counts.reshape(len(pieces), -1)
    return {"accuracy": Tally(flat, _accuracy), "f1": Tally(flat, _f1), "mcc": Tally(flat, _mcc)}


def answered(pairs: Sequence[Pair], say: Callable[[str], None]) -> dict[str, Tally]:
    """What answers share with their references; `say` is told what is not measured, and why."""
    found = {"exact_match": mean([float(a.strip() == r.strip()) for a, r in pairs])}
    for library, measures in (
        ("sacrebleu", _sacrebleu),
        ("rouge_score", _rouge),
        ("nltk", _meteor),
    ):
        try:
            found |= measures(pairs)
        except ModuleNotFoundError:
            say(f"{library} is not installed: its metrics are left out")
    if WITHOUT_WORDNET in found:
        say("WordNet is not installed: METEOR matches words and stems, not synonyms")
    return found


def _sacrebleu(pairs: Sequence[Pair]) -> dict[str, Tally]:
    metrics = import_module("sacrebleu").metrics
    answers, references = [a for a, _ in pairs], [r for _, r in pairs]
    found: dict[str, Tally] = {}
    for name, metric in (("bleu", metrics.BLEU()), ("chrf", metrics.CHRF())):
        # What its own bootstrap resamples (sacrebleu 2.6 metrics/helpers.py); it takes no seed.
        rows = metric._extract_corpus_statistics(answers, [references])

        def figure(sums: Sums, score: Any = metric._compute_score_from_stats) -> float:
            return float(score([int(n) for n in sums]).score)

        found[name] = Tally(np.array(rows, dtype=float), figure)
    return found


def _rouge(pairs: Sequence[Pair]) -> dict[str, Tally]:
    names = ("rouge1", "rouge2", "rougeL")
    scorer = import_module("rouge_score.rouge_scorer").RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(reference, answer) for answer, reference in pairs]
    return {name: mean([score[name].fmeasure for score in scores]) for name in names}


def _meteor(pairs: Sequence[Pair]) -> dict[str, Tally]:
    score = import_module("nltk.translate.meteor_score").single_meteor_score
    wordnet = import_module("nltk.corpus").wordnet
    name = "meteor"
    try:
        wordnet.ensure_loaded()
    except LookupError:
        name, wordnet = WITHOUT_WORDNET, _NoSynonyms
    values = [score(_words(r), _words(a), wordnet=wordnet) for a, r in pairs]
    return {name: mean(values)}


class _NoSynonyms:
    """In WordNet's place: words match exactly or by their stem."""

    @staticmethod
    def synsets(_: str) -> list[Any]:
        return []


def _words(text: str) -> list[str]:
    """As NLTK's wordpunct_tokenize; its word_tokenize needs data that is not installed."""
    return re.findall(r"\w+|[^\w\s]+", text)


def _weighted(values: Sequence[float], weights: Sequence[float] | None) -> Any:
    shares = np.ones(len(values)) if weights is None else np.array(weights, dtype=float)
    return np.stack([np.array(values, dtype=float) * shares, shares], axis=1)


def _ratio(sums: Sums) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _apart(sums: Sums) -> float:
    return _ratio(sums[:2]) - _ratio(sums[2:])


def _exponential(sums: Sums) -> float:
    return math.exp(min(_ratio(sums), LARGEST_EXPONENT))


def _accuracy(sums: Sums) -> float:
    hits, true, _ = sums.reshape(3, -1)
    return float(hits.sum() / true.sum()) if true.sum() else math.nan


def _f1(sums: Sums) -> float:
    return float(np.mean([*_f1_by_class(sums)]))


def _f1_by_class(sums: Sums) -> Iterator[float]:
    """Of the classes that occur, as scikit-learn's macro average has them."""
    for hits, true, predicted in sums.reshape(3, -1).T:
        if true + predicted:
            yield 2 * hits / (true + predicted)


def _mcc(sums: Sums) -> float:
    """Gorodkin 2004, for any number of classes; 0 where one side has but one class."""
    hits, true, predicted = sums.reshape(3, -1)
    count = true.sum()
    spread = (count**2 - (true**2).sum()) * (count**2 - (predicted**2).sum())
    return float((hits.sum() * count - (true * predicted).sum()) / spread**0.5) if spread else 0.0
