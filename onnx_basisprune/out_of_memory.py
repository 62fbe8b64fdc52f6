"""What to do where memory doesn't suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnx_basisprune.errors import OutOfMemoryError, is_out_of_memory


@contextmanager
def suggest_batch_size(batch_size: int) -> Iterator[None]:
    """Say which batch size to try where the work inside runs out of memory.

    Args:
        batch_size: Images per batch of that work.

    Raises:
        OutOfMemoryError: It did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = (
            f"try --batch-size {max(1, batch_size // 4)}"
            if batch_size > 1
            else "one image at a time is already the least: use a machine with more memory"
        )
        raise OutOfMemoryError(f"Out of memory with batches of {batch_size}: {remedy}.") from error
