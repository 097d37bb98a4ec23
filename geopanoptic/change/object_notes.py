"""What a reader of object changes should know before believing them."""

from __future__ import annotations

import numpy as np
import shapely

from geopanoptic.change.objects import UNNAMED, Events, ObjectSet


def object_notes(
    before: ObjectSet, after: ObjectSet, events: Events, offset: tuple[float, float]
) -> tuple[str, ...]:
    """Return sentences on classes that do not meet and on layers of unequal extent.

    For vector layers: nobody knows where they did not look, so objects outside the other layer's
    bounding box are counted and named. `offset`: what the after objects were moved back by.
    """
    notes = []
    names = [sorted({*s.class_names.tolist()} - {UNNAMED}) for s in (before, after)]
    if names[0] and names[1] and not {*names[0]} & {*names[1]}:
        shown = [", ".join(n[:5]) + (", ..." if len(n) > 5 else "") for n in names]
        notes.append(
            f"the two dates have no class name in common (before: {shown[0]}; after: {shown[1]}), "
            f"so no object can be unchanged; name another attribute with --class-field, or join "
            f"classes with --compatible"
        )
    if not len(before) or not len(after):
        return tuple(notes)
    moved = np.array([*offset, *offset])
    for status, objects, event, other, shift, date in (
        ("added", after, events.event_of_after, before, moved, "before"),
        ("removed", before, events.event_of_before, after, -moved, "after"),
    ):
        alone = events.status_of(event) == status
        boxes, around = shapely.bounds(objects.geometry), shapely.total_bounds(other.geometry)
        around = around + shift
        outside = (boxes[:, 0] > around[2]) | (boxes[:, 2] < around[0])
        outside |= (boxes[:, 1] > around[3]) | (boxes[:, 3] < around[1])
        n = int((alone & outside).sum())
        if n:
            notes.append(
                f"{n} of {int(alone.sum())} {status} objects lie outside the bounding box of the "
                f"{date} layer, which may not have covered that ground; clip the layers to common "
                f"ground, or give it as --mask-{date}"
            )
    return tuple(notes)
