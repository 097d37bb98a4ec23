"""The two label rasters of a panoptic map whose outlines are its two layers of polygons."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geopanoptic.polygons import kernels
from geopanoptic.schema import NODATA, LabelSchema

Ints = npt.NDArray[np.int32]

_ALL = np.ones(256, np.uint8)


def thing_labels(
    semantic: npt.NDArray[np.uint8], instance: Ints, schema: LabelSchema | None = None
) -> Ints:
    """Return the labels whose 'id' groups are things: instance ids; else minus the class id.

    The negative labels are not traced, but tell the tracer where a neighbour changes, so that
    things and stuff traced apart still share every vertex. Nodata stays 0. With a `schema` only
    the ids of its things count.
    """
    has_id = _ALL if schema is None else _things(schema)
    return _merged((semantic, instance), has_id, -np.arange(256, dtype=np.int32), (0, 1))


def stuff_labels(semantic: npt.NDArray[np.uint8], instance: Ints, schema: LabelSchema) -> Ints:
    """Return the labels whose 'part' groups are stuff: class ids; -256 - instance id for a thing.

    Only the ids of the schema's things count: COCO tells parts of stuff apart by ids too.
    Void (and a class that is no stuff) is minus its class id, nodata 0.
    """
    to_label = -np.arange(256, dtype=np.int32)
    for spec in schema.stuff:
        to_label[spec.id] = spec.id
    to_label[NODATA] = 0
    return _merged((semantic, instance), _things(schema), to_label, (-256, -1))


def _things(schema: LabelSchema) -> npt.NDArray[np.uint8]:
    marks = np.zeros(256, np.uint8)
    marks[[c.id for c in schema.things]] = 1
    return marks


def _merged(
    pixels: tuple[npt.NDArray[np.uint8], Ints],
    has_id: npt.NDArray[np.uint8],
    of_class: Ints,
    of_instance: tuple[int, int],
) -> Ints:
    semantic, instance = pixels
    assert semantic.shape == instance.shape, f"{semantic.shape} classes, {instance.shape} ids"
    labels = np.empty(semantic.shape, np.int32)
    kernels.merge_labels(
        (
            np.ascontiguousarray(semantic, np.uint8).reshape(-1),
            np.ascontiguousarray(instance, np.int32).reshape(-1),
        ),
        has_id,
        of_class,
        of_instance,
        labels.reshape(-1),
    )
    return labels
