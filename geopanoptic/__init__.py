"""geopanoptic: scene-level panoptic maps from large GeoTIFFs, with ids unique over the scene."""

__version__ = "0.1.0"
