"""What the examples take from the command line: types for `argparse`, which says what is wrong before anything is trained."""

import argparse
import math
from pathlib import Path


def count(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


def seed(text: str) -> int:
    """A whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0; got {number}")
    return number


def seconds(text: str) -> float:
    """A time, longer than none and finite."""
    number = float(text)
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds; got {text}")
    return number


def picture(text: str) -> str:
    """A file in a folder that there is."""
    folder = Path(text).parent
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {folder}")
    return text
