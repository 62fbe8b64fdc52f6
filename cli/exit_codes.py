"""What the exit codes mean; they stay for good, scripts rely on them."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
ERROR: Final = 1
WRONG_USAGE: Final = 2
GATE_FAILED: Final = 3
INTERRUPTED: Final = 130
TERMINATED: Final = 143
