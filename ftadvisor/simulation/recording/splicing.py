"""A deep model's events from a shallow one's: a middle layer's, repeated.

What the allocator reserves depends on the order of all requests, so it is replayed at full depth.
The events of one period of layers in the middle are repeated as often as the depth asks: after each
other where the step runs forwards, before each other where it runs backwards.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from ftadvisor.simulation.recording.pattern import Pattern, layer_of
from ftadvisor.simulation.recording.record import EMPTY_CACHE, Allocation, Phase, Recording, Work

Place = int | None
"""The layer that an event belongs to; None: outside of all."""


def spliced(shallow: Recording, pattern: Pattern) -> Recording:
    """The recording of all the pattern's layers."""
    copies = (pattern.num_layers - shallow.num_layers) // pattern.period
    if copies <= 0:
        return shallow
    return _Splice(shallow, pattern, copies).made()


@dataclass
class _Splice:
    source: Recording
    pattern: Pattern
    copies: int
    allocations: list[Allocation] = field(default_factory=list[Allocation])
    events: list[int] = field(default_factory=list[int])
    phases: list[Phase] = field(default_factory=list[Phase])

    def __post_init__(self) -> None:
        self.numbers: dict[tuple[int, int], int] = {}
        """A source allocation's number and its copy to the number here; freed ones are gone."""
        self.owners: dict[int, Place] = {}
        self.twins: dict[int, int] = {}
        """Of a neighbour's allocation: the middle's that corresponds to it."""
        self.handed: set[int] = set()
        """What the middle has made and the layer beside it frees, one after the other; what else
        outlives the middle's events goes with all copies at once."""

    def made(self) -> Recording:
        """The whole recording."""
        source = self.source
        ends = [phase.start for phase in source.phases[1:]] + [len(source.events)]
        spans = [
            (phase, self._places(phase, end))
            for phase, end in zip(source.phases, ends, strict=True)
        ]
        for phase, places in spans:
            for at, place in enumerate(places):
                event = source.events[phase.start + at]
                if event > 0:
                    self.owners[event] = place
        self._pair()
        for phase, places in spans:
            for at, place in enumerate(places):
                twin = self.twins.get(-source.events[phase.start + at])
                if twin is not None and self._in_middle(place):
                    self.handed.add(twin)
        for phase, places in spans:
            self.phases.append(Phase(phase.name, len(self.events)))
            self._emit(phase, places)
        return replace(
            source,
            allocations=tuple(self.allocations),
            events=tuple(self.events),
            phases=tuple(self.phases),
            num_layers=self.pattern.num_layers,
            num_trainable_params=sum(
                n * self._times(layer) for layer, n in source.trainable_params
            ),
            trainable_bytes=self._in_order(),
            trainable_params=tuple((p, n * self._times(p)) for p, n in source.trainable_params),
            work=tuple(self._repeated(work) for work in source.work),
        )

    def _times(self, layer: Place) -> int:
        return self.copies + 1 if self._in_middle(layer) else 1

    def _in_order(self) -> tuple[tuple[Place, int], ...]:
        """All layers' trained parameters, the middle's as often as it is repeated."""
        found: list[tuple[Place, int]] = []
        grouped = groupby(self.source.trainable_bytes, lambda pair: self._in_middle(pair[0]))
        for inside, group in grouped:
            found += list(group) * (self.copies + 1 if inside else 1)
        return tuple(found)

    def _repeated(self, work: Work) -> Work:
        """Clipping and the optimizer work on lists of all trained tensors, whosever they are."""
        kernels = work.kernels * self._times(work.layer)
        times: float = self._times(work.layer)
        if work.phase.startswith(("clip", "step")):
            few = self.source.trainable_params
            times = sum(n * self._times(p) for p, n in few) / max(1, sum(n for _, n in few))
        return work._replace(
            flops=work.flops * times,
            moved_bytes=work.moved_bytes * times,
            kernels=kernels,
        )

    def _places(self, phase: Phase, end: int) -> list[Place]:
        """Where each event of a phase belongs."""
        source = self.source
        streaming = phase.name.startswith(("forward", "backward", "generate"))
        places: list[Place] = []
        running: Place = None
        for event in source.events[phase.start : end]:
            own: Place = None
            if event != EMPTY_CACHE:
                own = layer_of(source.allocations[abs(event) - 1].module)
            if streaming and event < 0:
                own = running
            running = own
            places.append(own)
        return _filled(places) if streaming else places

    def _in_middle(self, place: Place) -> bool:
        return place is not None and place in self.pattern.middle

    def _pair(self) -> None:
        """Match the allocations of the layers beside the middle with the middle's own."""
        found: dict[tuple[Any, ...], int] = {}
        seen: Counter[tuple[Any, ...]] = Counter()
        beside: list[tuple[int, tuple[Any, ...]]] = []
        for number, place in self.owners.items():
            if place is None or abs(self._shift(place)) > 1:
                continue
            a = self.source.allocations[number - 1]
            relative = (place - self.pattern.middle.start) % self.pattern.period
            key = (self._shift(place), a.phase, relative, a.operation, a.size)
            seen[key] += 1
            rest = (*key[1:], seen[key])
            if self._shift(place) == 0:
                found[rest] = number
            else:
                beside.append((number, rest))
        self.twins = {number: found[key] for number, key in beside if key in found}

    def _shift(self, place: int) -> int:
        """Periods between a layer and the middle."""
        return (place - self.pattern.middle.start) // self.pattern.period

    def _emit(self, phase: Phase, places: list[Place]) -> None:
        backwards = phase.name.startswith("backward")
        order = range(self.copies, -1, -1) if backwards else range(self.copies + 1)
        at = 0
        while at < len(places):
            end = at
            inside = self._in_middle(places[at])
            while end < len(places) and self._in_middle(places[end]) == inside:
                end += 1
            events = self.source.events[phase.start + at : phase.start + end]
            if inside:
                for copy in order:
                    for event in events:
                        self._middle(event, copy)
            else:
                for event, place in zip(events, places[at:end], strict=True):
                    self._outside(event, place)
            at = end

    def _middle(self, event: int, copy: int) -> None:
        if event > 0:
            self._allocate(event, copy)
            return
        number = -event
        place = self.owners.get(number)
        if self._in_middle(place):
            self._free(number, copy)
            return
        shift = 0 if place is None else self._shift(place)
        # A layer frees what the one before or after it has made: copies have copies beside them.
        edge = 0 if shift <= 0 else self.copies
        if copy == edge:
            self._free(number, 0)
        elif number in self.twins:
            self._free(self.twins[number], copy + (1 if shift > 0 else -1))

    def _outside(self, event: int, place: Place) -> None:
        if event == EMPTY_CACHE:
            self.events.append(EMPTY_CACHE)
        elif event > 0:
            self._allocate(event, 0)
        elif not self._in_middle(self.owners.get(-event)):
            self._free(-event, 0)
        elif place is None or -event not in self.handed:
            for copy in range(self.copies + 1):
                self._free(-event, copy)
        else:
            self._free(-event, 0 if place < self.pattern.middle.start else self.copies)

    def _allocate(self, number: int, copy: int) -> None:
        self.allocations.append(self.source.allocations[number - 1])
        self.numbers[number, copy] = len(self.allocations)
        self.events.append(len(self.allocations))

    def _free(self, number: int, copy: int) -> None:
        made = self.numbers.pop((number, copy), None)
        if made is not None:
            self.events.append(-made)


def _filled(places: list[Place]) -> list[Place]:
    """What runs between two layers belongs to the second of them."""
    last = max((at for at, place in enumerate(places) if place is not None), default=-1)
    first = next((at for at, place in enumerate(places) if place is not None), 0)
    filled = list(places)
    following: Place = None
    for at in range(last, first - 1, -1):
        if filled[at] is None:
            filled[at] = following
        following = filled[at]
    return filled
