"""Estimators for scikit-learn (`pip install 'fastopt[sklearn]'`): in pipelines, searches, cross-validation and calibration.

Options that scikit-learn's own multi-layer perceptrons have are called and mean the same; what is trained is a
`fastopt.Trainer`, left in `trainer_`. Labels may be of any kind. Features are standardized by the network itself, with the weights of
the samples, unless `early_stopping` holds some of them out.
"""

from fastopt.errors import missing_package

try:
    from sklearn.utils.validation import validate_data as _newest  # noqa: F401 - of version 1.6
except ImportError:
    raise missing_package("scikit-learn>=1.6", "sklearn", "fastopt.sklearn") from None

from fastopt.sklearn._classifier import MLPClassifier
from fastopt.sklearn._regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
