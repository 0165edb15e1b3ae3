"""The profile of a planted world, fitted by sidelight and by the same estimator in NumPy.

    python profile.py BINARY FOLDER [ROUNDS [PATIENTS FINDINGS DRAWS [PROCESSES]]]

Both fit the same cohort: curves, mix and recalibration with their priors, the gate with its wild bootstrap, the race
model's AUC and cross-fitted calibration, sup-t bands over 201 scores, and who in the cohort would be at level 2. NumPy
does every step on whole arrays: Newton from the cohort's solution, on the rows that a draw has, in matrix products, with
as many BLAS threads as there are processors. With more than one of PROCESSES the draws are shared among them, each with
one BLAS thread. What both find is compared before the times are printed.
"""

import json
import os
import subprocess
import sys
import time
from multiprocessing import get_context

if len(sys.argv) > 7 and sys.argv[7] != "1":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"

import numpy as np
from scipy.special import expit, log_softmax
from scipy.stats import norm, rankdata

SD_MIN, SD_MAX, TRACE, FAINT, DELTA, GRID, FOLDS = 0.5, 2.0, 1e-6, 1e-2, 0.05, 201, 5
GROUPS = 3


def basis(x, knots):
    t = knots
    cube = lambda k: np.maximum(x - k, 0) ** 3
    bent = lambda k: (cube(k) - cube(t[2]) * (t[3] - k) / (t[3] - t[2]) + cube(t[3]) * (t[2] - k) / (t[3] - t[2])) / (t[3] - t[0]) ** 2
    return np.column_stack([np.ones_like(x), x, bent(t[0]), bent(t[1])])


def newton(beta, derivatives, precision, center):
    for _ in range(60):
        gradient, information = derivatives(beta)
        gradient = gradient - precision * (beta - center)
        information[np.diag_indices(len(beta))] += precision
        step = np.linalg.solve(information, gradient)
        decrement = gradient @ step
        beta = beta + step
        if decrement < 1e-8:
            return beta, information
    raise RuntimeError("no convergence")


def logistic(design, outcome, weight, precision, start):
    def derivatives(b):
        p = expit(design @ b)
        return design.T @ (weight * (outcome - p)), design.T @ (design * (weight * p * (1 - p))[:, None])

    return newton(start, derivatives, precision, 0.0)


def multinomial(design, hot, weight, precision, center, start):
    k, c = hot.shape[1] - 1, design.shape[1]

    def derivatives(b):
        logits = design @ b.reshape(k, c).T
        top = np.maximum(logits.max(axis=1), 0)[:, None]
        e = np.exp(logits - top)
        p = e / (np.exp(-top) + e.sum(axis=1, keepdims=True))
        gradient = ((weight[:, None] * (hot[:, 1:] - p)).T @ design).ravel()
        information = np.empty((k * c, k * c))
        for i in range(k):
            for j in range(i, k):
                v = weight * p[:, i] * ((i == j) - p[:, j])
                block = design.T @ (design * v[:, None])
                information[i * c : (i + 1) * c, j * c : (j + 1) * c] = block
                information[j * c : (j + 1) * c, i * c : (i + 1) * c] = block.T
        return gradient, information

    return newton(start, derivatives, precision, center)


def between(beta, covariance, own):
    spread = np.sum((beta[own] - beta[own].mean()) ** 2)
    block = covariance[own, own]
    noise = np.trace(block) - block.sum() / len(beta[own])
    return np.clip(np.sqrt(max((spread - noise) / (len(beta[own]) - 1), 0)), SD_MIN, SD_MAX)


class Finding:
    """What is known of one finding before the bootstrap."""

    def __init__(self, z, outcome, group, posteriors, signs, rng):
        self.z, self.outcome, self.group = z, outcome, group
        self.center, self.scale = z.mean(), z.std(ddof=1)
        x = (z - self.center) / self.scale
        self.knots = np.quantile(x, [0.05, 0.35, 0.65, 0.95])
        spline = basis(x, self.knots)
        hot = np.eye(GROUPS)[group]
        kept = np.maximum(posteriors / posteriors.sum(axis=1, keepdims=True), 1e-6)
        self.ratios = np.log(kept[:, 1:] / kept[:, :1])
        self.hot, self.mix = hot, spline
        self.curve = np.column_stack([spline, hot, hot * x[:, None]])
        self.race = np.column_stack([spline, self.ratios])
        ranges = [np.quantile(z[group == g], [0.01, 0.99]) for g in range(GROUPS)]
        self.low, self.high = max(r[0] for r in ranges), min(r[1] for r in ranges)
        ones = np.ones(len(z))
        self.faint = (np.full(8, FAINT), np.zeros(8))
        prior, middle = np.full(12, FAINT), np.zeros(12)
        for k in range(2):
            prior[6 * k + 4 : 6 * k + 6] = 1
            middle[6 * k + 4 + k] = 1
        self.trust = (prior, middle)
        self.quality(posteriors)
        self.gate(spline, x, signs, rng)
        wide = np.r_[np.full(4, TRACE), np.full(6, SD_MAX**-2)]
        beta, information = logistic(self.curve, outcome, ones, wide, np.zeros(10))
        covariance = np.linalg.inv(information)
        self.shift_sd, self.slope_sd = between(beta, covariance, slice(4, 7)), between(beta, covariance, slice(7, 10))
        self.precision = np.r_[np.full(4, TRACE), np.full(3, self.shift_sd**-2), np.full(3, self.slope_sd**-2)]
        self.point = self.refit(ones, [np.zeros(10), np.zeros(8), middle])

    def refit(self, weight, start):
        own = weight > 0
        w = weight[own]
        hot = self.hot[own]
        return [
            logistic(self.curve[own], self.outcome[own], w, self.precision, start[0])[0],
            multinomial(self.mix[own], hot, w, *self.faint, start[1])[0],
            multinomial(self.race[own], hot, w, *self.trust, start[2])[0],
        ]

    def quality(self, posteriors):
        n = len(self.z)
        self.auc = []
        for g in range(GROUPS):
            positive = self.group == g
            m = positive.sum()
            ranks, own, other = rankdata(posteriors[:, g]), rankdata(posteriors[positive, g]), rankdata(posteriors[~positive, g])
            v10, v01 = (ranks[positive] - own) / (n - m), 1 - (ranks[~positive] - other) / m
            auc = v10.mean()
            variance = n / (n - 1) * (np.sum(((v10 - auc) / m) ** 2) + np.sum(((v01 - auc) / (n - m)) ** 2))
            self.auc.append((auc, auc - norm.ppf(0.975) * np.sqrt(variance)))
        fold = np.random.default_rng(1).permutation(np.arange(n) % FOLDS)
        probability, start = np.empty((n, GROUPS)), self.trust[1]
        for k in range(FOLDS):
            start = multinomial(self.race, self.hot, (fold != k).astype(float), *self.trust, start)[0]
            own = fold == k
            logits = np.column_stack([np.zeros(own.sum()), self.race[own] @ start.reshape(2, 6).T])
            probability[own] = np.exp(log_softmax(logits, axis=1))
        error = 0
        for g in range(GROUPS):
            order = np.argsort(probability[:, g], kind="stable")
            gap = probability[order, g] - self.hot[order, g]
            error += sum(abs(part.sum()) for part in np.array_split(gap, 10)) / n / GROUPS
        self.calibration_error = error
        centers = np.array([self.ratios[self.group == g].mean(axis=0) for g in range(GROUPS)])
        off = self.ratios - centers[self.group]
        precision = np.linalg.inv(off.T @ off / (n - GROUPS) + 1e-3 * np.eye(2))
        distance = np.min([np.einsum("ij,jk,ik->i", self.ratios - c, precision, self.ratios - c) for c in centers], axis=0)
        self.reach = (centers, precision, np.quantile(distance, 0.995), distance)

    def gate(self, spline, x, signs, rng):
        n = len(x)
        own = self.hot[:, 1:]
        full = np.column_stack([spline] + [c for g in range(2) for c in (own[:, g], own[:, g] * x)])
        ones = np.ones(n)
        null, _ = logistic(spline, self.outcome, ones, np.full(4, TRACE), np.zeros(4))
        alternative, _ = logistic(full, self.outcome, ones, np.full(8, TRACE), np.zeros(8))
        value = lambda d, b: np.sum(self.outcome * (d @ b) - np.logaddexp(0, d @ b))
        self.statistic = 2 * (value(full, alternative) - value(spline, null))
        p = expit(spline @ null)
        information = full.T @ (full * (p * (1 - p))[:, None])
        projection = information[4:, :4] @ np.linalg.inv(information[:4, :4])
        root = np.linalg.cholesky(information[4:, 4:] - projection @ information[:4, 4:])
        scores = np.linalg.solve(root, ((self.outcome - p)[:, None] * (full[:, 4:] - full[:, :4] @ projection.T)).T).T
        for draws in signs:
            larger = 0
            for done in range(0, draws, 250):
                drawn = rng.integers(0, 2, (min(250, draws - done), n), dtype=np.int8).astype(float) * 2 - 1
                larger += np.sum(np.sum((drawn @ scores) ** 2, axis=1) >= self.statistic)
            self.p = (1 + larger) / (1 + draws)
            if self.p > 0.05:
                break

    def at(self, z, parameters):
        """Everything at scores `z` (rows) under parameter vectors (columns): event logits, mix."""
        curve, mix, _ = parameters
        x = (z - self.center) / self.scale
        spline = basis(x, self.knots)
        common = spline @ curve[:, :4].T
        logits = np.stack([common + curve[:, 4 + g] + x[:, None] * curve[:, 7 + g] for g in range(GROUPS)])
        mixes = np.stack([np.zeros_like(common), spline @ mix[:, :4].T, spline @ mix[:, 4:].T])
        return logits, np.exp(log_softmax(mixes, axis=0))

    def bands(self, drawn):
        z = np.linspace(self.low, self.high, GRID)
        families = []
        for parameters in ([p[None] for p in self.point], drawn):
            logits, mix = self.at(z, parameters)
            event = expit(logits)
            expected = np.sum(mix * event, axis=0)
            spread = np.stack([event[i] - event[j] for i in range(3) for j in range(i + 1, 3)])
            families.append([logits, spread, event - expected, np.log(expected / (1 - expected))[None]])
        self.critical = []
        for middle, values in zip(*families):
            ratio = np.abs(values - middle) / values.std(axis=-1, ddof=1, keepdims=True)
            self.critical.append(max(np.quantile(ratio.max(axis=(0, 1)), 0.95), norm.ppf(0.975)))

    def elevated(self, drawn):
        """Patients at level 2, by direction. Only where the estimate alone allows it are the draws asked."""
        found = [0, 0]
        if not self.enabled:
            return found
        positive = self.z >= 0
        sign = np.where(positive, -1.0, 1.0)
        point = [p[None] for p in self.point]
        logits, mix = self.at(self.z, point)
        event = expit(logits[:, :, 0])
        expected = np.sum(mix[:, :, 0] * event, axis=0)
        race = np.column_stack([np.zeros(len(self.z)), self.race @ self.point[2].reshape(2, 6).T])
        posterior = np.exp(log_softmax(race, axis=1))
        excess = sign * np.sum(posterior.T * (event - expected), axis=0)
        within = (self.z >= self.low) & (self.z <= self.high) & (self.reach[3] <= self.reach[2])
        own = np.flatnonzero((excess > DELTA) & within)
        nearby = [np.sort(self.z[self.group == g]) for g in range(GROUPS)]
        for rows in np.array_split(own, max(1, len(own) // 100)):
            z = self.z[rows]
            logits, mix = self.at(z, drawn)
            events = expit(logits)
            means = np.sum(mix * events, axis=0)
            vertex = (events - means).std(axis=-1, ddof=1)
            beta = drawn[2].reshape(-1, 2, 6)
            drawn_race = np.stack([np.zeros((len(rows), len(beta))), self.race[rows] @ beta[:, 0].T, self.race[rows] @ beta[:, 1].T])
            pi = np.exp(log_softmax(drawn_race, axis=0))
            moved = np.sum(pi * (event[:, rows] - expected[rows])[:, :, None], axis=0).std(axis=-1, ddof=1)
            half = self.critical[2] * (np.sum(posterior[rows].T * vertex, axis=0) + moved)
            se = norm.ppf(0.975) * logits.std(axis=-1, ddof=1)
            center = np.log(event[:, rows] / (1 - event[:, rows]))
            width = (expit(center + se) - expit(center - se)) / 2
            near = np.min([np.searchsorted(s, z + 0.5, "right") - np.searchsorted(s, z - 0.5) for s in nearby], axis=0)
            flagged = (excess[rows] - half > DELTA) & (width.max(axis=0) <= 0.1) & (near >= 30)
            found[0] += int(np.sum(flagged & ~positive[rows]))
            found[1] += int(np.sum(flagged & positive[rows]))
        return found


def holm(p):
    order, adjusted, running = np.argsort(p), np.empty(len(p)), 0
    for rank, i in enumerate(order):
        running = max(running, min(1, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def draws_of(job):
    seed, count = job
    rng = np.random.default_rng(seed)
    n = len(FITTED[0].z)
    drawn = []
    for _ in range(count):
        weight = np.bincount(rng.integers(0, n, n), minlength=n).astype(float)
        drawn.append([f.refit(weight, f.point) for f in FITTED])
    return drawn


def fit(z, outcome, group, posteriors, draws, processes):
    global FITTED
    rng = np.random.default_rng(1)
    signs = [2 * draws, max(2 * draws, 800 * len(z))]
    FITTED = [Finding(z[f], outcome[f], group, posteriors, signs, rng) for f in range(len(z))]
    jobs = [(seed, len(part)) for seed, part in enumerate(np.array_split(np.arange(draws), 4 * processes))]
    if processes > 1:
        with get_context("fork").Pool(processes) as pool:
            drawn = [d for part in pool.map(draws_of, jobs, chunksize=1) for d in part]
    else:
        drawn = [d for job in jobs for d in draws_of(job)]
    enabled = holm([f.p for f in FITTED]) <= 0.05
    results = []
    for k, f in enumerate(FITTED):
        f.enabled = enabled[k]
        parts = [np.array([d[k][part] for d in drawn]) for part in range(3)]
        f.bands(parts)
        results.append({"critical": f.critical, "elevated": f.elevated(parts)})
    return FITTED, results


def compare(theirs, fitted, results):
    """The estimates are the same; what hangs on random draws is as near as those allow."""
    for ours, f, r in zip(theirs, fitted, results):
        point = np.concatenate(f.point)
        assert np.allclose(ours["point"], point, rtol=2e-4, atol=2e-4), (np.array(ours["point"]) - point)
        assert abs(ours["statistic"] / f.statistic - 1) < 1e-4, (ours["statistic"], f.statistic)
        assert abs(ours["p"] - f.p) < 0.06, (ours["p"], f.p)
        assert np.allclose(ours["critical"], r["critical"], rtol=0.15), (ours["critical"], r["critical"])
        assert np.allclose(ours["elevated"], r["elevated"], rtol=0.3, atol=60), (ours["elevated"], r["elevated"])
        assert abs(ours["calibration_error"] - f.calibration_error) < 0.004


def main(binary, folder, rounds=3, patients=20000, findings=14, draws=1000, processes=1):
    rounds, patients, findings, draws, processes = map(int, (rounds, patients, findings, draws, processes))
    runs = []
    for i in range(rounds):
        arguments = [binary, str(patients), str(findings), str(draws), folder] + (["write"] if i == 0 else [])
        runs.append(json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout))
    times = [r["seconds"] for r in runs]
    print(f"sidelight, {runs[0]['threads']} threads: " + ", ".join(f"{t:.2f} s" for t in times), flush=True)
    load = lambda name, *shape: np.fromfile(f"{folder}/{name}").reshape(shape)
    z, outcome = load("z", findings, patients), load("outcome", findings, patients)
    group, posteriors = load("group", patients).astype(int), load("posteriors", patients, GROUPS)
    start = time.perf_counter()
    fitted, results = fit(z, outcome, group, posteriors, draws, processes)
    numpy_time = time.perf_counter() - start
    print(f"NumPy {np.__version__}, {processes} processes: {numpy_time:.1f} s")
    compare(runs[0]["findings"], fitted, results)
    best = float(np.median(times))
    print(f"{findings} findings, 3 groups, {patients} patients, {draws} draws: {best:.2f} s against {numpy_time:.1f} s, {numpy_time / best:.1f} times")


if __name__ == "__main__":
    main(*sys.argv[1:])
