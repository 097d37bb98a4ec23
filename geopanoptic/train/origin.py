"""The model that a training goes on from: its architecture, its classes, its weights.

No torch until the weights are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.models import read_card
from geopanoptic.models.checkpoint import model_path, read_header, read_tensors
from geopanoptic.models.sources import HubDirectory
from geopanoptic.schema import LabelSchema


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of the model to go on from.

    `names`: its classes, in the order of its outputs; `schema`: the same with kinds and colours,
    None when a directory of transformers has no card; `mean`, `std`: of its bands, empty when
    nobody says them.
    """

    start: str
    architecture: str
    arguments: Mapping[str, Any]
    names: tuple[str, ...]
    schema: LabelSchema | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    is_folder: bool = False

    @classmethod
    def of(cls, start: str) -> Origin:
        """Find a bundled model, a file, or a directory of transformers (with a card or without).

        Raises CheckpointError when there is none, or it holds no weights that are safe to read.
        """
        folder = Path(start)
        if (folder / "config.json").is_file() and not (folder / "card.yaml").is_file():
            return cls._bare(folder)
        card = read_card(start)
        return cls(
            start,
            card.architecture,
            card.arguments,
            card.schema.names,
            card.schema,
            card.mean,
            card.std,
            folder.is_dir(),
        )

    @classmethod
    def _bare(cls, folder: Path) -> Origin:
        """Read what a directory of transformers says without a card of ours."""
        directory = HubDirectory(folder)
        config = directory.config()
        directory.weights()
        labels = config.get("id2label")
        names: tuple[str, ...] = ()
        if isinstance(labels, dict):
            names = tuple(str(labels[k]) for k in sorted(labels, key=int))
        mean, std = directory.scaling()
        architecture = f"hf_{config.get('model_type')}"
        return cls(
            str(folder), architecture, {"config": config}, names, None, mean, std, is_folder=True
        )

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Read the weights; CheckpointError when they are damaged or not those of the card."""
        if not self.is_folder:
            path = model_path(self.start)
            return read_tensors(path, read_header(path))
        from geopanoptic.models.systems.hugging_face import directory_tensors

        config = dict(self.arguments["config"])
        found = directory_tensors(Path(self.start), self.architecture, config)
        return {k: np.asarray(v.numpy()) for k, v in found.items()}


def with_labels(config: Mapping[str, Any], schema: LabelSchema) -> dict[str, Any]:
    """Return a configuration of transformers for other classes."""
    names = schema.names
    return {k: v for k, v in config.items() if k != "num_labels"} | {
        "id2label": {str(k): name for k, name in enumerate(names)},
        "label2id": {name: k for k, name in enumerate(names)},
    }
