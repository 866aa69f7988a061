"""Errors with a type of their own; everything else is `TypeError` or `ValueError`."""


class NonFiniteLossError(FloatingPointError):
    """The loss, or a weight, became infinite or NaN during training.

    Attributes
    ----------
    step : int
        Updates done before the one that failed.
    epoch : int
        Epoch, counted from 0, in which it happened.
    """

    def __init__(self, message: str, *, step: int = -1, epoch: int = -1) -> None:
        super().__init__(message)
        self.step = step
        self.epoch = epoch


def missing_package(package: str, extra: str, purpose: str) -> ImportError:
    """Build the one sentence that says which extra to install."""
    return ImportError(f"{purpose} needs the package {package!r}; install it with: pip install 'fastopt[{extra}]'.")
