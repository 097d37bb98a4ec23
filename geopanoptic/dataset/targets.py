"""Distances to instance outlines, stored as bytes so that chips are cut from one memory map.

`signed` holds the distance to the outline of the nearest instance, positive inside; `second` the
distance to the second nearest instance. Both in steps of metres: a chip of any scale divides by
its own GSD and has its targets in pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

STEP_M = 0.05
ZERO = 128  # byte of `signed` on the outline
FAR = 255  # byte of `second` when no second instance is near


def distance_bytes(
    instance: npt.NDArray[np.integer], gsd_m: float, step_m: float = STEP_M
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return `signed` and `second` (h, w) uint8 of an instance raster (h, w), 0 = none.

    `step_m`: metres to a step of the bytes.

    Laws: signed > 128 exactly inside instances; second <= 1 pixel exactly where a pixel touches
    another instance than its own.
    """
    signed = np.zeros(instance.shape, np.float32)
    nearest = np.full(instance.shape, np.inf, np.float32)
    second = np.full(instance.shape, np.inf, np.float32)
    pad = int(np.ceil((FAR - ZERO) * step_m / gsd_m)) + 1
    for i, box in enumerate(ndimage.find_objects(instance), start=1):
        if box is None:
            continue
        grown = tuple(
            slice(max(s.start - pad, 0), min(s.stop + pad, n))
            for s, n in zip(box, instance.shape, strict=True)
        )
        own = instance[grown] == i
        outside = ndimage.distance_transform_edt(~own).astype(np.float32)
        # one ring of background: an instance cut by the scene's rim has its outline there
        inside = ndimage.distance_transform_edt(np.pad(own, 1))[1:-1, 1:-1].astype(np.float32)
        near, next_ = nearest[grown], second[grown]
        second[grown] = np.minimum(np.maximum(outside, near), next_)
        nearest[grown] = np.minimum(outside, near)
        signed[grown] = np.where(own, inside, signed[grown])
    signed = np.where(instance > 0, signed, -nearest)
    steps = np.float32(gsd_m / step_m)
    signed_byte = np.clip(np.round(signed * steps), -ZERO, FAR - ZERO) + ZERO
    # rounding must not move an inside pixel onto the outline
    signed_byte = np.where(instance > 0, np.maximum(signed_byte, ZERO + 1), signed_byte)
    second_byte = np.clip(np.round(second * steps), 0, FAR)
    return signed_byte.astype(np.uint8), second_byte.astype(np.uint8)
