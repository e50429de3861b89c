"""The scikit-learn side of benchmarks/probe: for each line in, one fit and one line of JSON out."""
import json
import os
import resource
import sys
import time

folder, dim, l2, kind, goal, threads = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], float(sys.argv[5]), sys.argv[6]
tolerances = [float(t) for t in sys.argv[7].split(",")]
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = threads

import warnings

import numpy as np
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

warnings.filterwarnings("ignore")
x = np.fromfile(folder + "/x.f32", "<f4").reshape(-1, dim)
y = np.fromfile(folder + "/y.i64", "<i8")
test = np.fromfile(folder + "/test.f32", "<f4").reshape(-1, dim).astype(np.float64)
exact = x.astype(np.float64)
data = exact if kind == "float64" else x


def fit(tol):
    return LogisticRegression(C=1 / l2, tol=tol, max_iter=20000).fit(data, y)


def loss(m):
    w, b = m.coef_.astype(np.float64), m.intercept_.astype(np.float64)
    z = exact @ w.T + b
    return float((logsumexp(z, axis=1) - z[np.arange(len(y)), y]).mean() + l2 / 2 * (w**2).sum() / len(y))


def cpu():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime


# The loosest tolerance that reaches the goal; float32 may never reach it.
for tol in tolerances:
    if (end := loss(fit(tol))) <= goal:
        break
reached = "" if end <= goal else ", which does not reach it"
print(f"(tol {tol:g}{reached})", flush=True)
for _ in sys.stdin:
    start, used = time.perf_counter(), cpu()
    m = fit(tol)
    seconds, used = time.perf_counter() - start, cpu() - used
    z = test @ m.coef_.astype(np.float64).T + m.intercept_
    top = np.sort(z, axis=1)
    print(json.dumps({"Seconds": seconds, "CPU": used, "Loss": loss(m), "Steps": int(m.n_iter_[0]),
                      "Predicted": z.argmax(1).tolist(), "Margin": (top[:, -1] - top[:, -2]).tolist()}), flush=True)
