"""The value probe: a ridge regression that reads V(x) from a policy's internal states.

`ValueProbe` is a scikit-learn estimator made of scikit-learn's parts (PCA, StandardScaler, Ridge).
They are all affine, so a fitted probe is one vector and one number, `coef_` and `intercept_`;
prediction is one product, and a checkpoint keeps nothing else of it.

Its targets are the *partners'* rewards (`Rollouts.partner_rewards`): a probe fitted on a response's
own reward would learn to grade that response, and the baseline would no longer be a baseline.
"""

from __future__ import annotations

import hashlib
from collections import deque

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from .errors import NotFiniteError, PoiseLabError, unknown_name
from .internals import Internals
from .settings import Count, NotNegative, checked
from .stats import agreement

INPUTS = ("prompt", "reasoning", "entropy")
ENTROPIES = 3

PROBE_PRESETS = {
    # official release, Qwen3-4B: PCA 32 and 64, ridge 100
    "release": dict(ridge=100.0, pca_prompt=32, pca_reasoning=64),
    # arXiv 2605.07579, Sec. 3.1 and Table 5: no PCA, ridge 0.01
    "paper": dict(ridge=0.01, pca_prompt=None, pca_reasoning=None),
}


class ValueProbe(RegressorMixin, BaseEstimator):
    """Predict V(x), the expected reward of a prompt, from the internals of one response to it.

    ridge: strength of the L2 penalty on standardised inputs.
    pca_prompt, pca_reasoning: principal components kept of each state; None keeps the state as it
        is. Where the rows span fewer dimensions, as many as they span.
    inputs: which of "prompt", "reasoning", "entropy" it reads.

    Learned: coef_ (F,), intercept_ (float), n_features_in_ (F = 2 D + 3).
    """

    def __init__(self, ridge=100.0, pca_prompt=None, pca_reasoning=None, inputs=INPUTS):
        self.ridge = ridge
        self.pca_prompt = pca_prompt
        self.pca_reasoning = pca_reasoning
        self.inputs = inputs

    @classmethod
    def preset(cls, name: str, **changes) -> ValueProbe:
        """The probe of the "paper" or of its official "release"; changes override its settings."""
        if name not in PROBE_PRESETS:
            raise unknown_name("probe preset", name, PROBE_PRESETS)
        return cls(**{**PROBE_PRESETS[name], **changes})

    def check_params(self) -> None:
        """Raise PoiseLabError for settings that mean nothing; `fit` calls it."""
        checked(self.ridge, NotNegative, "probe: ridge")
        for name in ("pca_prompt", "pca_reasoning"):
            if getattr(self, name) is not None:
                checked(getattr(self, name), Count, f"probe: {name}")
        unknown = set(self.inputs) - set(INPUTS)
        if unknown or not self.inputs:
            raise unknown_name("probe input", ", ".join(sorted(unknown)) or "(none)", INPUTS)
        if len(set(self.inputs)) < len(self.inputs):
            raise PoiseLabError(f"probe: inputs={self.inputs!r}; name each of them once")

    def fit(self, X, y, sample_weight=None) -> ValueProbe:
        """Fit to rows of one response each.

        X: Internals, or features (..., 2 D + 3) laid out as `Internals.features`.
        y: (...) targets in [0, 1], one per row: `rollouts.partner_rewards()`.
        sample_weight: (...) of the rows in the least squares (not in the PCA), with mean 1 if the ridge strength
            is to mean the same; None counts every row once.

        Raises PoiseLabError for settings that mean nothing, targets outside [0, 1] or NaN, weights below 0, or if
        rows, targets and weights differ in number.
        """
        self.check_params()
        X, _ = _rows(X)
        y = np.asarray(y, dtype=np.float64).reshape(-1)
        if len(X) != len(y) or not len(y):
            raise PoiseLabError(f"{len(X)} rows of features but {len(y)} targets; give one target per row")
        if not np.isfinite(y).all() or y.min() < 0 or y.max() > 1:
            raise PoiseLabError("targets must be rewards in [0, 1], without NaN; rescale or repair them")
        if sample_weight is not None:
            sample_weight = w = np.asarray(sample_weight, dtype=np.float64).reshape(-1)
            if len(w) != len(y) or not np.isfinite(w).all() or w.min() < 0 or w.sum() == 0:
                raise PoiseLabError(f"weights must be {len(y)} numbers, one per row, none below 0 and not all 0")
        _check_finite(X)
        blocks = _blocks(X.shape[1])
        components = {"prompt": self.pca_prompt, "reasoning": self.pca_reasoning}
        parts = [(name, _reduction(X[:, blocks[name]], components.get(name)), blocks[name]) for name in self.inputs]
        model = make_pipeline(ColumnTransformer(parts), StandardScaler(), Ridge(alpha=self.ridge))
        columns, scaler, ridge = model.fit(X, y, ridge__sample_weight=sample_weight)
        # compose the affine maps: y = ((T(x) - mean) / scale) . beta + b
        beta = ridge.coef_ / scaler.scale_
        self.coef_ = np.zeros(X.shape[1])
        self.intercept_ = float(ridge.intercept_ - beta @ scaler.mean_)
        for name in self.inputs:
            part, of_part = columns.named_transformers_[name], beta[columns.output_indices_[name]]
            if isinstance(part, PCA):
                of_part = part.components_[: part.rank_].T @ of_part
                self.intercept_ -= float(of_part @ part.mean_)
            self.coef_[blocks[name]] = of_part
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X) -> np.ndarray | torch.Tensor:
        """Values in [0, 1], one per row: (P, M) float32 tensor for Internals, else the shape of the rows.

        Raises NotFiniteError for features that are NaN or infinite, PoiseLabError for a number of them that it was not
        fitted on.
        """
        check_is_fitted(self)
        is_internals = isinstance(X, Internals)
        X, shape = _rows(X)
        if X.shape[1] != self.n_features_in_:
            raise PoiseLabError(
                f"the probe was fitted on {self.n_features_in_} features but is given {X.shape[1]}; "
                "use the policy, layer and preset that it was fitted with"
            )
        _check_finite(X)
        values = np.clip(X @ self.coef_ + self.intercept_, 0.0, 1.0).reshape(shape)
        return torch.from_numpy(values).float() if is_internals else values

    def score(self, X, y, sample_weight=None) -> float:
        """The Brier skill of its predictions, 1 - MSE / Var(targets), which is scikit-learn's R^2; 1 is perfect.

        `agreement(probe.predict(X), y)` gives r and the mean absolute error as well.
        """
        return agreement(self.predict(X), y, sample_weight)["brier_skill"]

    def set_fitted(self, coef: np.ndarray, intercept: float) -> ValueProbe:
        """Make this probe a fitted one with the given vector and number."""
        self.coef_, self.intercept_ = np.array(coef, dtype=np.float64), float(intercept)
        self.n_features_in_ = len(self.coef_)
        return self


class RecentBuffer:
    """The most recent rows that a probe is fitted on. Whole groups are evicted, the oldest first.

    capacity: at most this many rows (responses). A group (the responses to one prompt) stays or
    goes as a whole, so that a response is never kept without its partner. The newest group stays
    even if it alone is larger.
    """

    def __init__(self, capacity: int):
        if capacity < 1:
            raise PoiseLabError(f"a buffer of {capacity} rows holds nothing; give it at least 1")
        self.capacity = capacity
        self._groups: deque[tuple[np.ndarray, ...]] = deque()
        self.rows = 0

    def add(self, features, targets, weights=None) -> None:
        """Append groups: features (P, M, F), targets (P, M), and weights (P, M), always or never."""
        columns = [np.asarray(x, dtype=np.float32) for x in (features, targets, weights) if x is not None]
        for group in zip(*columns, strict=True):
            self._groups.append(group)
            self.rows += len(group[1])
        while self.rows > self.capacity and len(self._groups) > 1:
            self.rows -= len(self._groups.popleft()[1])

    def data(self) -> tuple[np.ndarray, ...]:
        """All rows, oldest first, as `ValueProbe.fit` takes them: features (rows, F), targets (rows,), weights if any."""
        return tuple(np.concatenate(column) for column in zip(*self._groups, strict=True))

    def digest(self) -> str:
        """SHA-256 of the rows: equal where a probe would be fitted on equal rows in an equal order."""
        return hashlib.sha256(b"".join(part.tobytes() for part in self.data())).hexdigest()

    def state_dict(self) -> dict[str, torch.Tensor]:
        if not self._groups:
            return {}
        state = dict(zip(("features", "targets", "weights"), map(torch.from_numpy, self.data()), strict=False))
        return {**state, "sizes": torch.tensor([len(group[1]) for group in self._groups])}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._groups.clear()
        self.rows = 0
        if state:
            sizes = state["sizes"].tolist()
            columns = [state[name].split(sizes) for name in ("features", "targets", "weights") if name in state]
            for group in zip(*columns, strict=True):
                self._groups.append(tuple(column.numpy() for column in group))
                self.rows += len(group[1])


def _rows(X) -> tuple[np.ndarray, tuple[int, ...]]:
    """Features as a float64 matrix, and the shape of its rows."""
    if isinstance(X, Internals):
        X = X.features()
    X = np.asarray(X, dtype=np.float64)
    return X.reshape(-1, X.shape[-1]), X.shape[:-1]


class _Components(PCA):
    """PCA without the components that hold rounding errors only, which standardising would blow up to unit variance."""

    def fit(self, X, y=None):
        variances = super().fit(X).explained_variance_
        self.rank_ = max(1, int((variances > 1e-10 * variances[0]).sum()))
        return self

    def transform(self, X):
        return super().transform(X)[:, : self.rank_]

    def fit_transform(self, X, y=None):  # PCA's own takes another way to these numbers, other in their last bits
        return self.fit(X).transform(X)


def _reduction(columns: np.ndarray, components: int | None) -> _Components | str:
    """What a block of columns goes through; one that never varies has no components."""
    if components is None or not np.ptp(columns, 0).any():
        return "passthrough"
    return _Components(min(components, *columns.shape), random_state=42)


def _check_finite(X: np.ndarray) -> None:
    if not np.isfinite(X).all():
        raise NotFiniteError("features contain NaN or infinity: the policy's hidden states have overflowed")


def _blocks(n_features: int) -> dict[str, slice]:
    width, rest = divmod(n_features - ENTROPIES, 2)
    if rest or width < 1:
        raise PoiseLabError(
            f"{n_features} features are not two states of equal width and {ENTROPIES} entropies; "
            "use Internals.features()"
        )
    return {
        "prompt": slice(0, width),
        "reasoning": slice(width, 2 * width),
        "entropy": slice(2 * width, n_features),
    }
