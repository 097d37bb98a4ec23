"""`geopanoptic` as in a shell, but with a model that reads the truth out of the pixels, slowly.

    command.py SECONDS predict SCENE --out ...

SECONDS are what each tile takes, so that something can happen to the run meanwhile.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))


def main() -> None:
    from slow_oracle import SlowOracle

    import geopanoptic.predict as _  # noqa: F401 - the room; `geopanoptic.predict` is its function
    from geopanoptic.cli.main import entry

    model = SlowOracle(seconds=float(sys.argv.pop(1)))
    room: Any = sys.modules["geopanoptic.predict"]
    run = room.run
    room.run = lambda scene, _model, *rest: run(scene, model, *rest)
    entry()


if __name__ == "__main__":
    main()
