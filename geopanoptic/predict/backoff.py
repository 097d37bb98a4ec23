"""Out of memory on the device: halve the batch, remember that, and go on."""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError
from geopanoptic.models import Fields, Segmenter

log = logging.getLogger("geopanoptic.predict")

_SAID = ("out of memory", "not enough memory", "failed to allocate")


class Device:
    """The device of this process, as far as its memory goes; used by one thread at a time.

    `most`: the chips that went through at once after it had been too small for more (None: it
    never was). It holds for the rest of the process: another tile of the same size takes as much.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def forward(self, model: Segmenter, chips: npt.NDArray[Any]) -> Fields:
        """Run `model.forward` on chips (n, band, h, w), all at once or in as few runs as fit.

        Raises SceneError, with the cure, when not even one chip fits.
        """
        count = len(chips)
        while True:
            step = min(count, self.most or count)
            fields = _in_steps(model, chips, step)
            if fields is not None:
                return fields
            # Only here, when the error and the activations its traceback held are gone.
            _give_back()
            if step == 1:
                raise SceneError(
                    f"the device has not enough memory for one window of {chips.shape[3]} x "
                    f"{chips.shape[2]} px; use a smaller --tile, or --device cpu"
                )
            self.most = step // 2
            log.warning(
                "the device ran out of memory with %d tiles at once; from now on %d",
                step, self.most,
            )  # fmt: skip


DEVICE = Device()


def _in_steps(model: Segmenter, chips: npt.NDArray[Any], step: int) -> Fields | None:
    """Return the fields of all chips, or None when memory ran out."""
    try:
        pieces = [model.forward(chips[i : i + step]) for i in range(0, len(chips), step)]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out: of torch, of another engine, of Python."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"OutOfMemoryError", "MemoryError"}:
        return True
    return isinstance(error, RuntimeError) and any(s in str(error).lower() for s in _SAID)


def _give_back() -> None:
    torch: Any = sys.modules.get("torch")  # not imported: then nothing of it holds memory
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
