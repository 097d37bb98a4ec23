"""The two label rasters of a panoptic map whose outlines are its two layers of polygons."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geopanoptic.schema import NODATA, LabelSchema

Ints = npt.NDArray[np.int32]


def thing_labels(semantic: npt.NDArray[np.uint8], instance: Ints) -> Ints:
    """Return the labels whose 'id' groups are things: instance ids; else minus the class id.

    The negative labels are not traced, but tell the tracer where a neighbour changes, so that
    things and stuff traced apart still share every vertex. Nodata stays 0.
    """
    labels = np.negative(semantic, dtype=np.int32)
    np.copyto(labels, instance, where=instance > 0)
    return labels


def stuff_labels(semantic: npt.NDArray[np.uint8], instance: Ints, schema: LabelSchema) -> Ints:
    """Return the labels whose 'part' groups are stuff: class ids; -256 - instance id for a thing.

    Void (and a class that is no stuff) is minus its class id, nodata 0.
    """
    to_label = -np.arange(256, dtype=np.int32)
    for spec in schema.stuff:
        to_label[spec.id] = spec.id
    to_label[NODATA] = 0
    labels = to_label.take(semantic)
    np.subtract(-256, instance, out=labels, where=instance > 0)
    return labels
