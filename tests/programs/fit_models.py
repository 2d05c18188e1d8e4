"""Prints how well models of an image's libraries do, between 0 and 1, as JSON."""

import json

import numpy as np
import pyarrow.dataset
import pyarrow.parquet  # noqa: F401
import scipy.sparse as sp
from joblib import parallel_backend
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

features = np.random.default_rng(1).normal(size=(400, 8))
labels = (features[:, 0] > 0).astype(int)
reduced = TruncatedSVD(7).fit(sp.csr_array(features)).explained_variance_ratio_.sum()
with parallel_backend("loky", n_jobs=2):
    linear = cross_val_score(LogisticRegression(), features, labels).mean()
models = [CalibratedClassifierCV(LogisticRegression()), HistGradientBoostingClassifier()]
scores = [model.fit(features, labels).score(features, labels) for model in models]
print(json.dumps([reduced, linear, *scores]))
