"""What statsmodels, scikit-learn and SciPy make of the numbers in inputs.json, for the tests of `src/stats` and
`src/assess`.

    python statistics.py FOLDER

FOLDER/inputs.json holds any of the cases below; answers.json gets one answer for each. Splines are built here from
SciPy's natural cubic spline, which spans the same functions as the basis of `src/stats/spline.rs` and has another basis:
what is compared are fitted values, likelihoods and standard errors, which depend on no basis.
"""

import json
import sys
from pathlib import Path

import numpy as np
import statsmodels.api as sm
from scipy import optimize
from scipy.interpolate import CubicSpline
from scipy.special import expit, log_softmax
from scipy.stats import chi2
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint


def spline(x, knots):
    """The natural cubic splines that are 1 at one knot and 0 at the others; lines beyond the outer knots."""
    x, knots = np.asarray(x), np.asarray(knots)
    if not len(knots):
        return np.column_stack([np.ones_like(x), x])
    columns = []
    for unit in np.eye(len(knots)):
        curve = CubicSpline(knots, unit, bc_type="natural")
        inside = curve(np.clip(x, knots[0], knots[-1]))
        left = np.minimum(x - knots[0], 0) * curve(knots[0], 1)
        right = np.maximum(x - knots[-1], 0) * curve(knots[-1], 1)
        columns.append(inside + left + right)
    return np.column_stack(columns)


def glm(design, outcome, weight=None):
    model = sm.GLM(outcome, design, family=sm.families.Binomial(), freq_weights=weight)
    return model.fit(tol=1e-14, maxiter=200)


def logistic(case):
    design = spline(case["x"], case["knots"])
    weight = np.asarray(case["weight"])
    fit = glm(design, np.asarray(case["outcome"]), weight)
    se = np.sqrt(np.einsum("ij,jk,ik->i", design, np.linalg.inv(design.T @ (design * (weight * fit.mu * (1 - fit.mu))[:, None])), design))
    eta = design @ fit.params
    # not fit.llf, which some releases compute without the weights
    value = float(np.sum(weight * (np.asarray(case["outcome"]) * eta - np.logaddexp(0, eta))))
    return {"eta": eta.tolist(), "log_likelihood": value, "se": se.tolist()}


def ridge(case):
    """scikit-learn: ½ Σ β² + C Σ loss, the precision is 1/C; no intercept of its own."""
    design = np.asarray(case["design"])
    fit = LogisticRegression(C=1 / case["precision"], fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    fit.fit(design, case["outcome"], sample_weight=case["weight"])
    return fit.coef_[0].tolist()


def likelihood_ratio(case):
    """By group: intercepts and slopes of x beside the common spline, against the spline alone."""
    x, group, outcome = (np.asarray(case[k]) for k in ("x", "group", "outcome"))
    common = spline(x, case["knots"])
    own = [(group == g).astype(float) for g in range(1, case["groups"])]
    full = np.column_stack([common] + own + [o * x for o in own])
    statistic = 2 * (glm(full, outcome).llf - glm(common, outcome).llf)
    df = 2 * (case["groups"] - 1)
    return {"statistic": statistic, "p": chi2.sf(statistic, df)}


def multinomial(case):
    design = np.column_stack([spline(case["x"], case["knots"])] + [np.asarray(c) for c in case["columns"]])
    fit = sm.MNLogit(np.asarray(case["group"]), design).fit(method="newton", maxiter=200, tol=1e-14, disp=False)
    return {"probabilities": fit.predict(design).tolist(), "log_likelihood": fit.llf}


def minimum(start, loss):
    """The minimum of a convex loss with gradient and Hessian, as far down as double precision goes."""
    found = optimize.minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
    return found.x


def newton(beta, value, derivatives):
    for _ in range(100):
        gradient, hessian = derivatives(beta)
        step = np.linalg.solve(hessian, gradient)
        length = 1.0
        while value(beta - length * step) > value(beta) + 1e-12 and length > 1e-8:
            length /= 2
        beta = beta - length * step
        if np.max(np.abs(step)) < 1e-12:
            break
    return beta


def curves(case):
    """The penalised curves of method.md §1 with given widths of the priors: spline without penalty but a trace on the
    basis of the profile, a_g and b_g normal. The basis is the profile's own here, since penalties depend on it."""
    design, outcome = np.asarray(case["design"]), np.asarray(case["outcome"])
    precision = np.asarray(case["precision"])
    loss = lambda b: np.sum(np.logaddexp(0, design @ b) - outcome * (design @ b)) + 0.5 * precision @ (b * b)

    def derivatives(b):
        p = expit(design @ b)
        return design.T @ (p - outcome) + precision * b, design.T @ (design * (p * (1 - p))[:, None]) + np.diag(precision)

    beta = newton(np.zeros(design.shape[1]), loss, derivatives)
    # a second opinion from a general minimiser
    general = minimum(np.zeros(len(beta)), lambda b: (loss(b), derivatives(b)[0]))
    return {"beta": beta.tolist(), "general": general.tolist(), "covariance": np.linalg.inv(derivatives(beta)[1]).tolist()}


def recalibration(case):
    """Multinomial with a ridge towards `center`, by a general minimiser from the log-likelihood alone."""
    design, group, classes = np.asarray(case["design"]), np.asarray(case["group"]), case["classes"]
    precision, center = np.asarray(case["precision"]), np.asarray(case["center"])
    hot = np.eye(classes)[group]

    def loss(b):
        logits = np.column_stack([np.zeros(len(design)), design @ b.reshape(classes - 1, -1).T])
        logs = log_softmax(logits, axis=1)
        value = -np.sum(hot * logs) + 0.5 * precision @ (b - center) ** 2
        gradient = ((np.exp(logs) - hot)[:, 1:].T @ design).ravel() + precision * (b - center)
        return value, gradient

    beta = center
    for method, options in [("BFGS", {"gtol": 1e-7, "maxiter": 10000}), ("L-BFGS-B", {"gtol": 1e-10, "ftol": 0, "maxiter": 10000})]:
        beta = optimize.minimize(loss, beta, jac=True, method=method, options=options).x
    return beta.tolist()


def delong(case):
    """DeLong's structural components from all pairs, and their sums over clusters (Obuchowski 1997)."""
    score, positive, cluster = np.asarray(case["score"]), np.asarray(case["positive"]), np.asarray(case["cluster"])
    x, y = score[positive], score[~positive]
    won = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    auc, v10, v01 = won.mean(), won.mean(axis=1), won.mean(axis=0)
    variance = v10.var(ddof=1) / len(x) + v01.var(ddof=1) / len(y)
    names = np.unique(cluster)
    part = np.array([
        (v10 - auc)[cluster[positive] == c].sum() / len(x) + (v01 - auc)[cluster[~positive] == c].sum() / len(y)
        for c in names
    ])
    clustered = len(names) / (len(names) - 1) * np.sum(part**2)
    return {"auc": auc, "sklearn": roc_auc_score(positive, score), "variance": variance, "clustered": clustered}


def temperature(case):
    """Temperature by a bounded scalar minimiser over ln T, of classes (rows sum to 1) or of single findings."""
    p, truth = np.asarray(case["probabilities"]), np.asarray(case["truth"])
    if case["kind"] == "classes":
        logs = np.log(p)
        loss = lambda t: -np.mean(log_softmax(logs / np.exp(t), axis=1)[truth == 1])
    else:
        z = np.log(p) - np.log1p(-p)
        loss = lambda t: np.mean(np.logaddexp(0, z / np.exp(t)) - truth * z / np.exp(t))
    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-12}).x))


CASES = {
    "logistic": logistic,
    "ridge": ridge,
    "likelihood_ratio": likelihood_ratio,
    "multinomial": multinomial,
    "curves": curves,
    "recalibration": recalibration,
    "delong": delong,
    "temperature": temperature,
    "wilson": lambda rows: [proportion_confint(k, n, method="wilson") for k, n in rows],
    "holm": lambda rows: [multipletests(p, method="holm")[1].tolist() for p in rows],
    "isotonic": lambda c: IsotonicRegression().fit(c["score"], c["outcome"], sample_weight=c["weight"]).predict(c["score"]).tolist(),
}


def main(folder):
    folder = Path(folder)
    inputs = json.loads((folder / "inputs.json").read_text())
    answers = {name: CASES[case["of"]](case["given"]) for name, case in inputs.items()}
    (folder / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
