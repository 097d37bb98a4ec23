"""The work directory and the act of publishing: what is on disk is whole, or it is not there.

Imports neither torch nor dask. Every worker process reaches its job's parts through a `JobRef`.
"""

from geopanoptic.store.job import Job, JobRef
from geopanoptic.store.objects import ObjectParts, is_object_store
from geopanoptic.store.output import (
    atomic_output,
    atomic_outputs,
    check_output,
    check_outputs,
    check_space,
)
from geopanoptic.store.part import Packed, Part, pack_array
from geopanoptic.store.parts import PartStore
from geopanoptic.store.remote_job import ObjectJob, open_job

__all__ = [
    "Job",
    "JobRef",
    "ObjectJob",
    "ObjectParts",
    "Packed",
    "Part",
    "PartStore",
    "atomic_output",
    "atomic_outputs",
    "check_output",
    "check_outputs",
    "check_space",
    "is_object_store",
    "open_job",
    "pack_array",
]
