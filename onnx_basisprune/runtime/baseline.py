"""Whether the original model does better than guessing on the images it was given."""

from __future__ import annotations

from onnx_basisprune.runtime.evaluation import Predictions

# The least that a baseline must be over chance, as a part of the way from chance to perfect.
_LEAST_SKILL = 0.05
_LARGEST_P_VALUE = 0.01
# What a usable classifier reaches at least, as a part of the same way: see `_can_tell`.
_USABLE_SKILL = 0.5


def check_above_chance(predictions: Predictions) -> str | None:
    """Say why the accuracy looks like guessing, the mark of wrong preprocessing or wrong class order.

    It does where top-1 makes less than 5 % of the way from chance to perfect, or where guessing would be as
    good with a probability over 1 % although the images suffice to tell.

    Args:
        predictions: Of the original model.

    Returns:
        A line that names figure, images, chance and likely causes; `None` where all is well or labels are
        missing.
    """
    if predictions.labels is None:
        return None
    from scipy.stats import binom

    n = len(predictions.classes)
    right = int((predictions.classes == predictions.labels).sum())
    chance = 1 / predictions.class_count
    near = right / n < chance + _LEAST_SKILL * (1 - chance)
    # sf(k - 1) is P(at least k right).
    explained = float(binom.sf(right - 1, n, chance)) > _LARGEST_P_VALUE
    enough = _can_tell(n, chance)
    if not near and not (explained and enough):
        return None
    few = "" if enough else "too few images to tell; "
    return (
        f"Top-1 accuracy of the original model is {right / n:.1%} on {n} images, near chance ({chance:.1%} "
        f"for {predictions.class_count} classes); likely causes: {few}wrong preprocessing or colour order "
        "(--preprocess, --mean, --std, --scale, --color); class folders whose sorted order is not the "
        "model's class order (--labels); images of other classes than the model's."
    )


def _can_tell(n: int, chance: float) -> bool:
    """Return whether a usable classifier would be told from guessing on `n` images, 99 times in 100."""
    from scipy.stats import binom

    least_right = binom.isf(_LARGEST_P_VALUE, n, chance) + 1
    usable = chance + _USABLE_SKILL * (1 - chance)
    return bool(binom.sf(least_right - 1, n, usable) >= 1 - _LARGEST_P_VALUE)
