"""The temperature as a function of the step; the training loop passes it to ``set_temperature``."""

from __future__ import annotations

from unimixer.errors import check_positive


def linear_temperature(step: int, total: int, start: float = 1.0, end: float = 0.05) -> float:
    r"""Linear annealing, :math:`\tau_j = \max(\tau_s - (\tau_s - \tau_e)\, j / J,\ \tau_e)`.

    arXiv:2604.00590, "training". After the last step the temperature stays at its end.

    Example:
        >>> [round(linear_temperature(step, 10), 3) for step in (0, 5, 10, 20)]
        [1.0, 0.525, 0.05, 0.05]
    """
    check_positive(total=total, start=start, end=end)
    return start + (end - start) * min(max(step / total, 0.0), 1.0)


def constant_temperature(step: int, total: int, value: float = 0.1) -> float:
    """The same temperature at every step.

    Example:
        >>> constant_temperature(step=3, total=10)
        0.1
    """
    check_positive(value=value)
    return value
