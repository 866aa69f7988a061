"""Pictures of runs, drawn with matplotlib (`pip install 'fastopt[plot]'`), which is imported when one is asked for.

Every function draws into `ax` when it is given, else into a new figure, and returns the axes.
"""

from fastopt.plots._axes import save
from fastopt.plots.descent import animation, convergence, trajectory
from fastopt.plots.training import gradient_norms, learning_curves, learning_rate_range, optimizer_comparison

__all__ = [
    "animation", "convergence", "gradient_norms", "learning_curves", "learning_rate_range", "optimizer_comparison", "save", "trajectory",
]  # fmt: skip
