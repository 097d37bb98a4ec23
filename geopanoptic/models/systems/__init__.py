"""Systems whose answer is a set of masks: which there are. No torch here.

Each is a module with `build(card) -> segmenter.MaskNetwork`.
"""

from __future__ import annotations

from collections.abc import Mapping

# The architecture of a card -> the module of this room that builds it.
SYSTEMS: Mapping[str, str] = {
    "mask_rcnn": "mask_rcnn",
    "panoptic_fpn": "panoptic_fpn",
    "hf_maskformer": "hugging_face",
    "hf_mask2former": "hugging_face",
    "hf_oneformer": "hugging_face",
    "hf_eomt": "hugging_face",
    "hf_detr": "hugging_face",
}
