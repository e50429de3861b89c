"""Writes fits.json: made-up features of unit length and what scikit-learn makes
of them: loss, predictions and near ties of LogisticRegression, and of
KNeighborsClassifier with the weights of DINO's protocol.

Run with scikit-learn 1.9: python make.py
"""
import base64, json, warnings
import numpy as np
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

warnings.filterwarnings("ignore")


def pack(x):
    return base64.b64encode(np.ascontiguousarray(x, "<f4").tobytes()).decode()


def unit(x):
    x = x.astype(np.float32)
    return (x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)


cases = []
for seed, (n, test, d, classes, noise) in enumerate([(150, 60, 12, 5, 0.6), (40, 40, 33, 7, 0.8), (300, 50, 16, 2, 1.5), (90, 30, 21, 3, 0.1)]):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, d))
    def draw(n):
        y = np.concatenate([np.arange(classes), rng.choice(classes, n - classes, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))])
        return unit(centres[y] + 1.5 + noise * rng.normal(size=(n, d))), y
    x, y = draw(n)
    xt, yt = draw(test)
    x[n // 2:n // 2 + 5], y[n // 2:n // 2 + 5] = x[:5], (y[:5] + 1) % classes  # equal rows of two classes
    x64, t64 = x.astype(np.float64), xt.astype(np.float64)
    fits = []
    for l2 in [1e-4, 1e-1, 1.0, 100.0] + [1e-6] * (seed != 2):
        m = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=10000, solver="newton-cholesky").fit(x64, y)
        w, b = m.coef_, m.intercept_
        if classes == 2:  # scikit-learn has one row w, and penalises that
            w, b = np.concatenate([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])
        z = x64 @ w.T + b
        penalty = (m.coef_ ** 2).sum()
        loss = float((logsumexp(z, axis=1) - z[np.arange(n), y]).mean() + l2 / 2 * penalty / n)
        zt = t64 @ w.T + b
        top = np.sort(zt, axis=1)
        fits.append({"l2": l2, "loss": loss, "predicted": zt.argmax(1).tolist(), "close": (top[:, -1] - top[:, -2] < 1e-5 * np.abs(zt).max()).tolist()})
    knn = {}
    for k in (1, 5, 20):
        m = KNeighborsClassifier(k, algorithm="brute", metric="cosine", weights=lambda dist: np.exp((1 - dist) / 0.07)).fit(x64, y)
        p = np.sort(m.predict_proba(t64), axis=1)
        near = -np.sort(-t64 @ x64.T, axis=1)  # equal cosines at the end of the list: either is right
        knn[k] = {"predicted": m.predict(t64).tolist(), "close": ((p[:, -1] - p[:, -2] < 1e-6) | (near[:, k - 1] - near[:, k] < 1e-9)).tolist()}
    cases.append({"dim": d, "classes": classes, "x": pack(x), "y": y.tolist(), "xt": pack(xt), "fits": fits, "neighbours": knn})
json.dump(cases, open("fits.json", "w"), separators=(",", ":"))
