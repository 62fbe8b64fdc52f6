"""Images that can't be decoded when their turn comes: a few are left out and counted, many are an error."""

from __future__ import annotations

from threading import Lock

from onnx_basisprune.errors import DataError

# Of a data set. Fewer than a hundred images are few enough to look at the first that is broken.
MOST_BROKEN = 0.01


class BrokenImages:
    """Which of a source's images can't be decoded; shared by all parts of a data set, and by their threads.

    Args:
        total: Images in the source.
    """

    def __init__(self, total: int) -> None:
        self._most = int(MOST_BROKEN * total)
        self._found: dict[str, str] = {}
        self._lock = Lock()

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def add(self, name: str, error: DataError) -> None:
        """Count an image, by `Dataset.name_of`.

        Raises:
            DataError: These are too many: the data set isn't what it should be.
        """
        with self._lock:
            self._found[name] = str(error)
            count = len(self._found)
        if self._most == 0:
            raise error
        if count > self._most:
            raise DataError(
                f"{count} images can't be used, more than {MOST_BROKEN:.0%} of them; one is the following: {error}"
            ) from error

    def describe(self) -> str:
        """Return a warning, `""` where nothing was left out."""
        if not self._found:
            return ""
        first = next(iter(self._found.values()))
        return f"{len(self._found)} images were left out, others of their class took their places; the first: {first}"
