"""Where what later runs may use again is kept."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "BASISPRUNE_CACHE"


def find_cache_folder() -> Path:
    """Return the folder: `$BASISPRUNE_CACHE`, or the system's place for a user's caches. It may not exist yet."""
    import platformdirs

    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("basisprune", appauthor=False)
