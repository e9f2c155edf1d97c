"""Golden numbers for src/eval/statistics, from scipy and statsmodels.

    pip install scipy statsmodels
    python tests/golden/stats/make.py

Resampling draws other numbers there than here: intervals are compared within `tolerance`.
"""

import json
import pathlib

import numpy as np
import scipy.stats
import statsmodels.stats.contingency_tables as tables
import statsmodels.stats.multitest as multitest
import statsmodels.stats.power as power
import statsmodels.stats.proportion as proportion

rng = np.random.default_rng(7)


def bootstrap(values):
    result = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=100_000, method="percentile", batch=1000,
        rng=np.random.default_rng(1))
    deviation = float(np.std(values) / np.sqrt(len(values)))
    return {
        "values": values.tolist(),
        "low": float(result.confidence_interval.low),
        "high": float(result.confidence_interval.high),
        # Five standard errors of a 2.5 % quantile from 10,000 draws.
        "tolerance": max(5 * deviation * (0.025 * 0.975 / 10_000) ** 0.5 / 0.0584, 1.01 / len(values)
                         if set(values.tolist()) <= {0.0, 1.0} else 0),
    }


def mcnemar(b, c):
    exact = float(tables.mcnemar([[0, b], [c, 0]], exact=True).pvalue)
    mid = 2 * scipy.stats.binom.cdf(min(b, c), b + c, 0.5) - scipy.stats.binom.pmf(min(b, c), b + c, 0.5)
    return {"first_only": b, "second_only": c, "exact": exact, "mid_p": min(1.0, float(mid))}


def permutation(differences, resamples):
    result = scipy.stats.permutation_test(
        (differences, np.zeros_like(differences)), lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples", n_resamples=resamples, vectorized=True,
        rng=np.random.default_rng(2))
    p = float(result.pvalue)
    tolerance = 1e-12 if resamples == np.inf else 5 * (p * (1 - p) / 10_000) ** 0.5 + 2e-4
    return {"differences": differences.tolist(), "p": p, "tolerance": tolerance}


def connor(b, c):
    level, strength = scipy.stats.norm.ppf(0.975), scipy.stats.norm.ppf(0.8)
    n = (level * (b + c) ** 0.5 + strength * (b + c - (b - c) ** 2) ** 0.5) ** 2 / (b - c) ** 2
    return {"first_only": b, "second_only": c, "questions": int(np.ceil(n))}


def needed(d):
    n = power.NormalIndPower().solve_power(effect_size=d, alpha=0.05, power=0.8, ratio=0)
    return {"d": d, "questions": int(np.ceil(n))}


def d(differences):
    return {"differences": differences.tolist(),
            "d": float(np.mean(differences) / np.std(differences, ddof=1))}


def wilson(right, n):
    low, high = proportion.proportion_confint(right, n, method="wilson")
    return {"right": right, "n": n, "low": float(low), "high": float(high)}


golden = {
    "bootstrap": [
        bootstrap(rng.random(50)),
        bootstrap((rng.random(128) < 0.5).astype(float)),
        bootstrap((rng.random(400) < 0.1).astype(float)),
        bootstrap(rng.normal(-0.1, 1, 300)),
    ],
    "wilson": [wilson(right, n) for right, n in [(0, 1), (1, 1), (5, 10), (0, 10), (128, 128), (92, 300)]],
    "mcnemar": [mcnemar(b, c) for b, c in
                [(1, 0), (0, 5), (3, 3), (5, 9), (30, 12), (400, 350), (2000, 1900), (900, 40)]],
    "permutation": [
        permutation(rng.normal(0.5, 1, 8), np.inf),
        permutation(np.round(rng.normal(0.3, 1, 12), 1), np.inf),
        permutation(np.concatenate([rng.normal(0.4, 1, 9), np.zeros(3)]), np.inf),
        permutation(rng.normal(0.15, 1, 100), 100_000),
        permutation(rng.normal(0.3, 1, 60), 100_000),
    ],
    "holm": [{"p": p, "corrected": multitest.multipletests(p, method="holm")[1].tolist()} for p in
             [[0.01, 0.04, 0.03, 0.005], [0.2], [0.5, 0.5, 0.001, 0.9, 0.012], [0.3, 0.0, 1.0]]],
    "cohens_d": [d(rng.normal(0.2, 1, 40)), d(rng.choice([-1.0, 0.0, 1.0], 90))],
    "needed_mcnemar": [connor(b, c) for b, c in [(0.1, 0.05), (0.02, 0.3), (0.25, 0.24)]],
    "needed_mean": [needed(v) for v in (0.2, -0.5, 0.03)],
    "normal_quantile": [{"p": p, "z": float(scipy.stats.norm.ppf(p))} for p in
                        (0.5, 0.8, 0.975, 1 - 0.025 / 18, 1 - 0.025 / 1000)],
}
path = pathlib.Path(__file__).with_name("stats.json")
path.write_text(json.dumps(golden, indent=1) + "\n")
