"""Where work runs: threads of this process, local worker processes, or a Dask cluster.

Importing this room imports neither Dask nor torch; the engine that needs them does.
"""

from geopanoptic.workers.engine import Engine, open_engine
from geopanoptic.workers.malloc import settle_malloc, trim_heap
from geopanoptic.workers.spec import EngineSpec, Failure, Tls

__all__ = ["Engine", "EngineSpec", "Failure", "Tls", "open_engine", "settle_malloc", "trim_heap"]
