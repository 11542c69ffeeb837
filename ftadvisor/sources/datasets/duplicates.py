"""Rows that stand in a file twice: exactly, or nearly."""

from __future__ import annotations

import re
import string
from array import array
from collections.abc import Hashable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from ftadvisor.schema.dataset import Share
from ftadvisor.sources.datasets.sampling import Sampled, share_of

ALIKE = 0.8
"""Jaccard index of two rows' shingles from which on they count as near-duplicates.

Ref: Lee et al. 2022, Deduplicating training data makes language models better (arXiv:2107.06499),
section 4.2: Jaccard index above 0.8."""

SHINGLE_WORDS = 3
SHINGLE_CHARACTERS = 5
"""For text that does not put spaces between words."""
LONGEST_WORD = 20
"""Characters per word from which on there are no spaces between them."""
COMPARED_CHARACTERS = 2000
MOST_SHINGLES = 400
"""Of the start of a row: English prose has about 350 in so many characters."""
MOST_COMPARISONS = 50
"""Rows that one row is compared with, at most: a bound on time where all rows are half alike."""

MOST_HASHES = 2**24
"""16.8 million hashes take 134 MB. Of longer files a half, a quarter ... of all texts is followed,
always all copies of a text or none."""

CHUNK = 1_000_000
"""Hashes that are copied at a time."""

_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_WHITE = b" \t\n\r\v\f"


def normal_hash(text: str) -> int:
    """64 bits of the text without white space and ASCII case; the same within one process."""
    return hash(text.encode("utf-8", "surrogatepass").translate(_LOWER, _WHITE))


class Hashes:
    """Hashes of a split's texts, in bounded memory."""

    def __init__(self, most: int = MOST_HASHES) -> None:
        self._values = array("q")
        self._most = most
        self.divisor: int = 1
        """One of this many texts is followed."""

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: int) -> None:
        """One text's hash."""
        if value % self.divisor == 0:
            self._values.append(value)
            if len(self._values) > self._most:
                self._thin(self.divisor * 2)

    def repeated(self) -> int:
        """Texts that repeat an earlier one."""
        values = self._sorted()
        return self.divisor * int((values[1:] == values[:-1]).sum())

    def shared_with(self, other: Hashes) -> int:
        """Texts that stand in the other split too, each as often as it stands here."""
        import numpy as np

        divisor = max(self.divisor, other.divisor)
        self._thin(divisor)
        other._thin(divisor)
        mine, theirs = self._sorted(), other._sorted()
        found = 0
        for start in range(0, len(theirs), CHUNK):
            part = np.unique(theirs[start : start + CHUNK])
            # A text that the chunk before ends with is counted already.
            part = part[1:] if start and part[0] == theirs[start - 1] else part
            ends = np.searchsorted(mine, part, "right")
            found += int((ends - np.searchsorted(mine, part, "left")).sum())
        return divisor * found

    def _thin(self, divisor: int) -> None:
        """Forget all texts but one of `divisor`, in place."""
        import numpy as np

        if divisor == self.divisor:
            return
        kept = 0
        for start in range(0, len(self._values), CHUNK):
            values = np.frombuffer(self._values, np.int64)
            part = values[start : start + CHUNK]
            part = part[part % divisor == 0]
            values[kept : kept + len(part)] = part
            kept += len(part)
        # An array that a view is left of cannot be cut.
        values = part = None
        del self._values[kept:]
        self.divisor = divisor

    def _sorted(self) -> Any:
        import numpy as np

        if not self._values:
            return np.empty(0, np.int64)
        # In place: the array is the view's memory.
        values = np.frombuffer(self._values, np.int64)
        values.sort()
        return values


def near_duplicates(sample: list[Sampled], num_examples: int, duplicate_rows: int) -> Share:
    """Rows with another row at least `ALIKE` to them, exact copies included.

    Within the sample that is counted; a row's partner may lie outside, so that of a larger file the
    value is a floor, and the interval's upper end is what it would be if all came in pairs.
    """
    if not sample:
        return Share(0.0, 0.0, 0.0)
    found = len(_alike([_shingles(row) for row in sample]))
    if len(sample) >= num_examples:
        share = found / len(sample)
        return Share(share, share, share)
    share = share_of(found, len(sample))
    certain = duplicate_rows / num_examples
    in_pairs = share.high * (num_examples - 1) / max(1, len(sample) - 1)
    value = max(share.value, certain)
    return Share(value, max(share.low, certain), max(value, min(1.0, in_pairs)))


def _shingles(row: Sampled) -> array[int]:
    """Hashes of a row's shingles, each once, in the order of the text."""
    text = row.text[:COMPARED_CHARACTERS]
    words = re.findall(r"\w+", text.lower())
    grams: Iterable[Hashable]
    if len(text) > LONGEST_WORD * len(words) and words:
        joined = "".join(words)
        last = max(1, len(joined) - SHINGLE_CHARACTERS + 1)
        grams = (joined[i : i + SHINGLE_CHARACTERS] for i in range(last))
    elif len(words) < SHINGLE_WORDS:
        grams = (tuple(words) or text,)
    else:
        grams = zip(*(words[i:] for i in range(SHINGLE_WORDS)), strict=False)
    if row.apart:
        grams = ((gram, row.apart) for gram in grams)
    return array("q", dict.fromkeys(map(hash, islice(grams, MOST_SHINGLES))))


class _Group(NamedTuple):
    """Rows with the same shingles."""

    shared: list[int]
    """Ranks of those that other rows have too, the rarest first."""
    members: frozenset[int]
    size: int
    """Of all shingles, also those that no other row has."""
    rows: list[int]


def _alike(rows: list[array[int]]) -> set[int]:
    """Indices of rows that have a partner.

    Ref: Bayardo et al. 2007, Scaling up all pairs similarity search: sets that agree by t share one
    of the |x| - ceil(t |x|) + 1 rarest members of each, so only those are looked up.
    """
    groups = _groups(rows)
    partnered = {row for group in groups if len(group.rows) > 1 for row in group.rows}
    holders: dict[int, list[_Group]] = {}
    for group in sorted(groups, key=lambda group: group.size):
        rarest = group.size - _ceil(ALIKE * group.size) + 1
        alone = group.size - len(group.shared)
        prefix = group.shared[: max(0, rarest - alone)]
        for other in islice(_holders_of(prefix, holders), MOST_COMPARISONS):
            if group.rows[0] in partnered and other.rows[0] in partnered:
                continue
            both = len(group.members & other.members)
            if both >= ALIKE * (group.size + other.size - both):
                partnered.update(group.rows, other.rows)
        for member in prefix:
            holders.setdefault(member, []).append(group)
    return partnered


def _holders_of(members: list[int], holders: dict[int, list[_Group]]) -> Iterator[_Group]:
    """Each group that holds one of the members, once."""
    seen: set[int] = set()
    for member in members:
        for group in holders.get(member, ()):
            if group.rows[0] not in seen:
                seen.add(group.rows[0])
                yield group


def _groups(rows: list[array[int]]) -> list[_Group]:
    """Shingles as ranks of rarity, which need far less memory than the words."""
    import numpy as np

    every = np.concatenate([np.frombuffer(row, np.int64) for row in rows])
    _, first, place, counts = np.unique(
        every, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, counts))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    found: dict[tuple[frozenset[int], int], _Group] = {}
    start = 0
    for index, row in enumerate(rows):
        mine = place[start : start + len(row)]
        start += len(row)
        shared: list[int] = np.sort(rank[mine[counts[mine] > 1]]).tolist()
        members = frozenset(shared)
        # A row with a shingle of its own is like no other.
        key = (members, -1 if len(shared) == len(row) else index)
        found.setdefault(key, _Group(shared, members, len(row), [])).rows.append(index)
    return list(found.values())


def _ceil(value: float) -> int:
    # 0.8 of a count may come out a hair above a whole number; the prefix may only be longer.
    return int(value - 1e-9) + 1
