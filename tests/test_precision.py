"""Every metric against its definition in 60-digit arithmetic, on random and adversarial inputs of all types.

The definitions take the rows as they stand and multiply nothing out that nrc sums: projections of rows, singular
values of rows, least squares on rows. The numbers of a float16 input are those numbers, exactly.
"""

import math
from collections import Counter

import mpmath as mp
import numpy as np
import pytest
import torch

from nrc.metrics import measure_moments, measure_with_reasons
from nrc.moments import Moments

mp.mp.dps = 60

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOLERANCE = 1e-6
# Sums of squares of order 1 in float64 leave 1e-16 in doubt: a value far below its own scale has that many digits less.
ABSOLUTE = 1e-14


def matrix(a):
    return mp.matrix(np.asarray(a, dtype=float).tolist())


def centred(h):
    mean = [mp.fsum(h[:, j]) / h.rows for j in range(h.cols)]
    return mp.matrix([[h[i, j] - mean[j] for j in range(h.cols)] for i in range(h.rows)])


def square(a):
    return mp.fsum(x * x for x in a)


def eigen(sigma):
    """Descending eigenvalues and eigenvectors in columns."""
    values, vectors = mp.eigsy(sigma)
    order = sorted(range(len(values)), key=lambda k: -values[k])
    v = mp.matrix(sigma.rows, sigma.rows)
    for new, old in enumerate(order):
        v[:, new] = vectors[:, old]
    return [max(values[k], mp.mpf(0)) for k in order], v


def left_over(rows, basis):
    """mean |x - P x|^2 of rows, P on orthonormal columns."""
    rest = rows - (rows * basis) * basis.T
    return square(rest) / rows.rows


def normalised(rows):
    out = rows.copy()
    for i in range(rows.rows):
        size = mp.sqrt(square(rows[i, :]))
        if size:
            out[i, :] = rows[i, :] / size
    return out


def orthonormal(columns):
    """Gram-Schmidt, twice, of independent columns."""
    q = columns.copy()
    for k in range(q.cols):
        for _ in range(2):
            for j in range(k):
                q[:, k] = q[:, k] - q[:, j] * (q[:, j].T * q[:, k])[0]
        q[:, k] = q[:, k] / mp.sqrt(square(q[:, k]))
    return q


def entropy_rank(lengths, eps=0):
    total = mp.fsum(lengths)
    p = [x / total + eps for x in lengths]
    return mp.exp(-mp.fsum(x * mp.log(x) for x in p if x > 0))


def exact(h, y, w, b):
    """Name -> value for every metric that these inputs define; None: by its definition it has no value."""
    h, y, w, b = matrix(h), matrix(y), matrix(w), matrix(np.asarray(b).reshape(1, -1))
    count, d, n = h.rows, h.cols, y.cols
    hc, yc = centred(h), centred(y)
    sigma_h, sigma_y, cross = (hc.T * hc) / count, (yc.T * yc) / count, (hc.T * yc) / count
    values, vectors = eigen(sigma_h)
    total = mp.fsum(values)
    scale_y = mp.fsum(sigma_y[k, k] for k in range(n))
    tiny = mp.mpf(10) ** -45
    rank = sum(v > tiny * values[0] for v in values)
    error = matrix(np.zeros((count, n)))
    for i in range(count):
        error[i, :] = h[i, :] * w.T + b - y[i, :]
    z = h * w.T
    mean_h = matrix([[mp.fsum(h[:, j]) / count for j in range(d)]])
    ms = square(h) / count
    out = {
        "mse": square(error) / (count * n),
        "feature_norm": mp.sqrt(ms),
        "mean_share": square(mean_h) / ms,
        "offset": square(mp.matrix([mp.fsum(z[:, k]) / count for k in range(n)])) / (square(z) / count),
        "weight_norm": mp.sqrt(square(w)),
    }
    out["r2"] = 1 - square(error) / count / scale_y if scale_y else None
    if rank == 0:
        return out
    out |= {
        "stable_rank_features": total / values[0],
        "participation_ratio": total**2 / mp.fsum(v * v for v in values),
        "effective_rank": entropy_rank([mp.sqrt(v) for v in values if v > tiny * values[0]]),
    }
    second = eigen((h.T * h) / count)[0][: min(count, d)]
    out["rankme"] = entropy_rank([mp.sqrt(v) for v in second], mp.mpf(1e-7))
    for k in range(min(5, d)):
        out[f"evr_{k + 1}"] = values[k] / total
    clear = n >= d or values[n - 1] > (1 + mp.mpf(10) ** -9) * values[n]
    out["nrc1"] = out["nrc1_raw"] = out["nrc1_centred"] = None
    if rank >= n and clear:
        basis = vectors[:, :n]
        out["nrc1"], out["nrc1_raw"] = left_over(normalised(h), basis), left_over(h, basis)
        out["nrc1_centred"] = left_over(normalised(hc), basis)
    rows_of_w = eigen(w * w.T)[0]
    out["nrc2"] = None
    if rows_of_w[-1] > mp.mpf(10) ** -14 * rows_of_w[0]:
        q = orthonormal(w.T)
        out["nrc2"], out["nrc2_raw"] = left_over(normalised(h), q), left_over(h, q)
    if scale_y:
        out["cka"] = square(cross) / mp.sqrt(square(sigma_h) * square(sigma_y))
        out["signal_share"] = square(centred(z)) / count / scale_y
    # 1e-28: float64 rows that are of low rank but for their last digits are of low rank
    kept = [k for k in range(d) if values[k] > mp.mpf(10) ** -28 * values[0]]
    gain = mp.fsum(square(vectors[:, k].T * cross) / values[k] for k in kept)
    out["linear_mse"] = (scale_y - gain) / n
    return out


def scales(h, y, w, b, out):
    """The size of the terms that each metric is a difference of: its absolute accuracy is 1e-14 of that."""
    h, y, w = (np.asarray(a, dtype=float) for a in (h, y, w))
    ms = float(np.mean(np.sum(h**2, 1)))
    targets = float(np.mean(np.sum(y**2, 1)) + np.sum(np.asarray(b) ** 2) + ms * np.sum(w**2))
    large = {"mse": targets, "linear_mse": float(y.var(0).sum()), "nrc1_raw": ms, "nrc2_raw": ms}
    large["r2"] = targets / max(float(y.var(0).sum()), 1e-300)
    bounded = (
        "nrc1",
        "nrc2",
        "nrc1_centred",
        "mean_share",
        "cka",
        "offset",
        *(f"evr_{k}" for k in range(1, 6)),
    )
    return large | dict.fromkeys(bounded, 1.0)


def well_off(rng, n, d, t):
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d))


def about_a_mean(rng, n, d, t):
    return rng.normal(size=(n, d)) + 10 ** rng.uniform(-1, 3)


def graded_columns(rng, n, d, t):
    return rng.normal(size=(n, d)) * 10 ** rng.uniform(-3, 3, size=d)


def graded_directions(rng, n, d, t):
    q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (rng.normal(size=(n, d)) * np.geomspace(1, 10 ** rng.uniform(-8, -1), d)) @ q


def collapsed(rng, n, d, t):
    q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    size = np.r_[np.ones(min(t, d)), np.full(max(d - t, 0), 10 ** rng.uniform(-7, -1))]
    return (rng.normal(size=(n, d)) * size) @ q + rng.normal(size=d)


def hidden_direction(rng, n, d, t):
    q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    size = np.r_[np.ones(d - 1), 10 ** rng.uniform(-9, -5)]  # float64 rows about 1 hold it to 1e-7
    return (rng.normal(size=(n, d)) * size) @ q + rng.normal(size=d) * rng.integers(0, 2)


def low_rank(rng, n, d, t):
    k = max(1, min(t - 1, d - 1))
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, d))


def with_zeros(rng, n, d, t):
    h = np.maximum(rng.normal(size=(n, d)), 0)
    h[: n // 4] = 0
    return h


def duplicate_columns(rng, n, d, t):
    h = rng.normal(size=(n, d))
    h[:, -1] = h[:, 0]
    return h


def constant_column(rng, n, d, t):
    h = rng.normal(size=(n, d))
    h[:, 0] = 3.0
    return h


def tiny(rng, n, d, t):
    return rng.normal(size=(n, d)) * 10 ** rng.uniform(-4, -1)


def large(rng, n, d, t):
    return rng.normal(size=(n, d)) * 10 ** rng.uniform(1, 3)


def constant(rng, n, d, t):
    return np.tile(rng.normal(size=d), (n, 1))


KINDS = (
    *(
        well_off,
        about_a_mean,
        graded_columns,
        graded_directions,
        collapsed,
        low_rank,
        with_zeros,
        hidden_direction,
    ),
    *(duplicate_columns, constant_column, tiny, large, constant),
)


def case(number):
    """The input of this number: kind and type go round, sizes are drawn."""
    rng = np.random.default_rng(number)
    kind, dtype = KINDS[number % len(KINDS)], DTYPES[number // len(KINDS) % len(DTYPES)]
    t, d = int(rng.integers(1, 4)), int(rng.integers(2, 8))
    n = int(rng.integers(d + 2, 24))
    h = torch.as_tensor(kind(rng, n, d, t)).to(dtype)
    w = torch.as_tensor(rng.normal(size=(t, d)) * 10 ** rng.uniform(-2, 2)).to(dtype)
    spread = np.ones(t) if rng.uniform() < 0.7 else 10 ** rng.uniform(-3, 3, size=t)
    clean = h.double().numpy()
    clean = clean / (np.abs(clean).max() + 1e-300)
    y = clean @ rng.normal(size=(d, t)) + 10 ** rng.uniform(-3, 0) * rng.normal(size=(n, t))
    y = torch.as_tensor(y * spread).to(torch.float32 if dtype != torch.float64 else dtype)
    return kind.__name__, dtype, h, y, w, rng.normal(size=t)


def of_rows(h, y, w, b):
    return measure_with_reasons(h, y, w, bias=b)


def of_sums(h, y, w, b):
    """As `collect` and the monitor measure, which do not keep the rows."""
    half = len(h) // 2
    moments = Moments().update(h[:half], y[:half]).update(h[half:], y[half:])
    return measure_moments(moments.add_centred(h), w, bias=b)


def judge(numbers, measured=of_rows):
    """Counts of values right, of NaN with a reason, and the list of those that are silently off."""
    counts, off = Counter(), []
    for number in numbers:
        kind, dtype, h, y, w, b = case(number)
        h64, y64, w64 = (a.double().numpy() for a in (h, y, w))
        truth = exact(h64, y64, w64, b)
        found = measured(h, y, w, b)
        size = scales(h64, y64, w64, b, truth)
        for name, value in found.values.items():
            if math.isnan(value):
                counts["reason" if found.undefined.get(name) else "silent"] += name in truth
                if not found.undefined.get(name):
                    off.append((number, kind, dtype, name, "NaN without a reason"))
            elif name in truth and truth[name] is None:
                counts["arbitrary"] += 1
                off.append((number, kind, dtype, name, value, "no value by its definition"))
            elif name in truth:
                want = float(truth[name])
                allowed = TOLERANCE * abs(want) + ABSOLUTE * size.get(name, 0.0)
                if (
                    name == "linear_mse" and measured is of_sums
                ):  # leaves out what they do not resolve, by its docstring
                    allowed += (0.01 + 2 * h.shape[1] / len(h)) * value
                good = abs(value - want) <= allowed
                counts["right" if good else "off"] += 1
                if not good:
                    off.append((number, kind, dtype, name, value, want))
    return counts, off


@pytest.mark.parametrize("measured", [of_rows, of_sums])
@pytest.mark.parametrize("part", range(6))
def test_values_are_right_or_said_to_be_undefined(part, measured):
    counts, off = judge(range(10 * part, 10 * part + 10), measured)
    assert not off, off[:5]
    assert counts["right"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("measured", [of_rows, of_sums])
@pytest.mark.parametrize("part", range(20))
def test_a_thousand_inputs(part, measured):
    counts, off = judge(range(1000 + 50 * part, 1050 + 50 * part), measured)
    assert not off, off[:5]
    assert counts["right"] > 500
