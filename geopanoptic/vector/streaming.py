"""Batches on their way to a file: made ahead in a thread, fitted to the layer, counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import pyarrow as pa

from geopanoptic.vector.specs import LayerSpec

_AHEAD = 2  # finished batches that may wait for the writer
_DONE = object()


class Stream:
    """The batches of one layer, made in a thread of their own while the last ones are written.

    Tracing runs in compiled code and GDAL writes on one core, so two cores share the work; memory
    holds `_AHEAD` batches more. Batches come in the columns and types of `spec`; `rows` counts
    them. Use as a context manager: it stops the thread when the writer fails, and raises the error
    that stopped the batches.
    """

    def __init__(self, spec: LayerSpec, batches: Iterable[pa.RecordBatch]) -> None:
        self.schema = spec.arrow_schema
        self.rows = 0
        self._error: BaseException | None = None
        self._queue: Queue[Any] = Queue(_AHEAD)
        self._stop = Event()
        self._thread = Thread(target=self._make, args=(batches,), name=spec.name, daemon=True)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error  # the writer only knows that its stream broke, not why

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while (item := self._take()) is not _DONE:
            self.rows += item.num_rows
            yield item

    def _take(self) -> Any:
        """Return the next item; keep what goes wrong, also Ctrl-C, for the end of the stream."""
        try:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item  # noqa: TRY301 - one place keeps both
        except BaseException as why:
            self._error = why
            raise
        return item

    def reader(self) -> pa.RecordBatchReader:
        """Return the batches as what Arrow's C stream interface takes."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def _make(self, batches: Iterable[pa.RecordBatch]) -> None:
        try:
            for batch in batches:
                if not self._put(_fitted(batch, self.schema)):
                    return
            self._put(_DONE)
        except BaseException as why:
            self._put(why)

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except Full:
                continue
            return True
        return False


def _fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with the columns of `schema`, in its order and types."""
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    columns = [batch.column(field.name).cast(field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
