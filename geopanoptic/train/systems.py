"""What a training of each architecture begins with: decoder, thresholds, arguments. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from geopanoptic.errors import ConfigError
from geopanoptic.schema import LabelSchema
from geopanoptic.train.origin import Origin, with_labels

if TYPE_CHECKING:
    from geopanoptic.train.settings import TrainConfig

Architecture = Literal["", "dense", "panoptic_fpn", "mask_rcnn", "hf_mask2former", "hf_maskformer"]

DENSE = "dense"
_DECODERS = {
    "panoptic_fpn": "paste",
    "mask_rcnn": "paste",
    "hf_mask2former": "queries",
    "hf_maskformer": "queries",
}
# Thresholds of `fusion.FusionRules` that a model of masks begins with.
_FIRST = {"score": 0.5, "mask": 0.5, "visible": 0.5, "stuff": 0.0, "area_px": 9.0}
_ONLY_DENSE = ("encoder", "decoder", "decoder_channels", "class_weight", "frozen_stages")


def architecture_of(config: TrainConfig) -> str:
    """Return the architecture: the configuration's, else that of `start`, else `dense`.

    Raises ConfigError for one that cannot be trained, for another than that of `start`, and for
    settings that it does not have.
    """
    wanted = str(config.architecture)
    if config.start:
        theirs = Origin.of(config.start).architecture
        if wanted and wanted != theirs:
            raise ConfigError(
                f"architecture is {wanted}, but start ({config.start}) is {theirs}: leave "
                "`architecture` out to go on from it, or `start` to begin anew"
            )
        wanted = theirs
    wanted = wanted or DENSE
    if wanted != DENSE and wanted not in _DECODERS:
        raise ConfigError(
            f"a model of the architecture '{wanted}' cannot be trained; dense, "
            f"{', '.join(_DECODERS)} can"
        )
    foreign = ["network"] if wanted == DENSE else [*_ONLY_DENSE]
    if given := [name for name in foreign if getattr(config, name)]:
        cure = (
            "encoder, decoder and instances say what it is"
            if wanted == DENSE
            else "`network` holds its arguments"
        )
        raise ConfigError(f"{wanted} has no setting {', '.join(given)}: {cure}")
    return wanted


def decoder_name(architecture: str, instances: str) -> str:
    """Return the decoder of a card: of dense networks what tells instances apart."""
    return _DECODERS.get(architecture, instances)


def first_rules(given: Mapping[str, float]) -> dict[str, float]:
    """Return the thresholds that a model of masks begins with: the given ones, usual ones."""
    return _FIRST | dict(given)


def network_arguments(
    config: TrainConfig, architecture: str, schema: LabelSchema
) -> dict[str, Any]:
    """Return the arguments of a system of masks: those of `start` and, over them, of `network`.

    Raises ConfigError for classes that it cannot tell apart.
    """
    if not schema.things:
        raise ConfigError(f"{architecture} finds things, and the classes have none; use dense")
    if architecture == "mask_rcnn" and len(schema.stuff) != 1:
        raise ConfigError(
            f"mask_rcnn is taught by what is no thing, too: name exactly one stuff class for that "
            f"(like other), not {len(schema.stuff)}; panoptic_fpn takes more"
        )
    theirs = dict(Origin.of(config.start).arguments) if config.start else {}
    out = theirs | config.network
    if architecture.startswith("hf_"):
        merged = {**theirs.get("config", {}), **config.network.get("config", {})}
        return out | {"config": with_labels(merged, schema)}
    return out | {"in_channels": len(config.bands)}
