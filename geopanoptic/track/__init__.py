"""Objects over a series of dates: one id each, who came from whom, when they came and went."""

from geopanoptic.track.dates import DatedMap, from_glob, from_stac, read_pair
from geopanoptic.track.run import TrackOutputs, Tracks, track, track_views
from geopanoptic.track.settings import TrackSettings
from geopanoptic.track.views import DateView

__all__ = [
    "DateView",
    "DatedMap",
    "TrackOutputs",
    "TrackSettings",
    "Tracks",
    "from_glob",
    "from_stac",
    "read_pair",
    "track",
    "track_views",
]
