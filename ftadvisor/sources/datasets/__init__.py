"""From a dataset on this machine to its sizes, formats, lengths and faults.

files → readers (one module per kind of file) → formats → census (one pass over all rows) →
duplicates, tokens, statistics → profile and workload, the two records that are asked for.
"""

from ftadvisor.sources.datasets.profile import profile_dataset
from ftadvisor.sources.datasets.tokens import CHARACTERS_PER_TOKEN
from ftadvisor.sources.datasets.workload import first_format, read_workload

__all__ = ["CHARACTERS_PER_TOKEN", "first_format", "profile_dataset", "read_workload"]
