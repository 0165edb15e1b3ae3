"""What scikit-learn, statsmodels, SciPy and NumPy make of the numbers in inputs.json, for the tests of `src/audit`.

    python audit.py FOLDER

FOLDER/inputs.json holds any of the cases below; answers.json gets one answer for each.
"""

import json
import sys
from pathlib import Path

import numpy as np
import statsmodels.api as sm
from scipy.optimize import linprog
from scipy.sparse import coo_matrix
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint


def clustered(values, cluster):
    """A mean and its standard error: least squares on a constant, errors clustered."""
    codes = np.unique(np.asarray(cluster), return_inverse=True)[1]
    fit = sm.OLS(np.asarray(values, float), np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": codes})
    return float(fit.params[0]), float(fit.bse[0])


def rate(hit, cluster):
    hit, cluster = np.asarray(hit, float), np.asarray(cluster)
    n, value = len(hit), float(np.mean(hit))
    clusters = len(np.unique(cluster))
    if clusters < n:
        error = clustered(hit, cluster)[1]
        n = min(value * (1 - value) / error**2, n) if error > 0 else clusters
    lower, upper = proportion_confint(value * n, n, method="wilson")
    return [value, float(lower), float(upper)]


def metrics(case):
    score, y, cluster, t = (np.asarray(case[k]) for k in ("score", "outcome", "cluster", "threshold"))
    y = y.astype(bool)
    flag = score >= t
    tn, fp, fn, tp = confusion_matrix(y, flag).ravel().tolist()
    z = np.log(score) - np.log1p(-score)
    codes = np.unique(cluster, return_inverse=True)[1]
    family, kwds = sm.families.Binomial(), {"groups": codes}
    large = sm.GLM(y.astype(float), np.ones(len(y)), family=family, offset=z).fit(
        tol=1e-14, maxiter=200, cov_type="cluster", cov_kwds=kwds)
    slope = sm.GLM(y.astype(float), np.column_stack([np.ones(len(y)), z]), family=family).fit(
        tol=1e-14, maxiter=200, cov_type="cluster", cov_kwds=kwds)
    order = np.argsort(score, kind="stable")
    n, bins = len(score), case["bins"]
    parts = [order[b * n // bins : (b + 1) * n // bins] for b in range(bins)]
    odds = t / (1 - t)
    net = np.where(flag, np.where(y, 1.0, -odds), 0.0)
    return {
        "confusion": [tp, fn, fp, tn],
        "prevalence": rate(y, cluster),
        "flag_rate": rate(flag, cluster),
        "false_negative_rate": rate(~flag[y], cluster[y]),
        "false_positive_rate": rate(flag[~y], cluster[~y]),
        "positive_predictive_value": rate(y[flag], cluster[flag]),
        "negative_predictive_value": rate(~y[~flag], cluster[~flag]),
        "auroc": roc_auc_score(y, score),
        "auprc": average_precision_score(y, score),
        "brier": [brier_score_loss(y, score), clustered((score - y) ** 2, cluster)[1]],
        "calibration_intercept": [float(large.params[0]), float(large.bse[0])],
        "calibration_slope": [float(slope.params[1]), float(slope.bse[1])],
        "calibration_error": sum(abs(score[p].sum() - y[p].sum()) for p in parts) / n,
        "net_benefit": [(tp - (odds * (flag & ~y)).sum()) / n, clustered(net, cluster)[1]],
    }


def attack(case):
    """How large each number may be, and how small, as far as the told sums leave it open: linear programs over all
    tables of numbers that are not below 0.

    `equations`: lists of (number, coefficient) with a sum each; `numbers`: which to bound. Answers (least, most), each at
    least as far as `enough` where it goes that far: one program lets many numbers rise at once, and what it shows of one
    needs no program of its own."""
    size, enough, numbers = case["size"], case["enough"], case["numbers"]
    rows, columns, values, sums = [], [], [], []
    for row, (terms, value) in enumerate(case["equations"]):
        for number, coefficient in terms:
            rows.append(row), columns.append(number), values.append(coefficient)
        sums.append(value)

    def solve(cost, extra=0, links=None, cap=None):
        matrix = coo_matrix((values, (rows, columns)), shape=(len(sums), size + extra)).tocsr()
        bounds = [(0, None)] * size + [(0, cap)] * extra
        found = linprog(cost, A_ub=links, b_ub=None if links is None else np.zeros(extra), A_eq=matrix, b_eq=sums,
                        bounds=bounds, method="highs")
        assert found.status in (0, 3), found.message
        return found

    most, open_ones = {}, list(numbers)
    for _ in range(12):
        # rise as far as enough, all at once: u <= x, u <= enough
        k = len(open_ones)
        if not k:
            break
        links = coo_matrix(
            (np.concatenate([np.ones(k), -np.ones(k)]), (list(range(k)) * 2, list(range(size, size + k)) + open_ones)),
            shape=(k, size + k))
        found = solve(np.concatenate([np.zeros(size), -np.ones(k)]), k, links, enough)
        done = [n for n in open_ones if found.x[n] >= enough - 1e-6]
        most.update({n: float(found.x[n]) for n in done})
        open_ones = [n for n in open_ones if n not in most]
        if not done:
            break
    for n in open_ones[: case["singly"]] + case["both"]:
        found = solve(-np.eye(1, size, n)[0])
        most[n] = 1e9 if found.status == 3 else float(found.x[n])
    least = {n: float(solve(np.eye(1, size, n)[0]).x[n]) for n in case["both"] if n in most}
    return [[least.get(n, 0.0), most[n]] if n in most else None for n in numbers]


CASES = {
    "metrics": metrics,
    "attack": attack,
    "yekutieli": lambda rows: [multipletests(p, method="fdr_by")[1].tolist() for p in rows],
}


def main(folder):
    folder = Path(folder)
    inputs = json.loads((folder / "inputs.json").read_text())
    answers = {name: CASES[case["of"]](case["given"]) for name, case in inputs.items()}
    (folder / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
