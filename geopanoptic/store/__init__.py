"""The work directory and the act of publishing: what is on disk is whole, or it is not there.

Imports neither torch nor dask. Every worker process reaches its job's parts through a `JobRef`.
"""

from geopanoptic.store.job import Job, JobRef
from geopanoptic.store.output import atomic_output, check_output, check_space
from geopanoptic.store.part import Part
from geopanoptic.store.parts import PartStore

__all__ = [
    "Job",
    "JobRef",
    "Part",
    "PartStore",
    "atomic_output",
    "check_output",
    "check_space",
]
