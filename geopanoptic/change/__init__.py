"""Change between two dates: what became of every object and every class."""

from geopanoptic.change.run import Comparison, Running, change
from geopanoptic.change.settings import ChangeSettings

__all__ = ["ChangeSettings", "Comparison", "Running", "change"]
