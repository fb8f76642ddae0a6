"""The papers' definitions, written as they stand (N x N where they are N x N), in numpy."""

import numpy as np


def unit(rows):
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def residual(rows, basis):
    """mean |x - P x|^2, P on the orthonormal columns of basis."""
    return np.mean(np.sum((rows - rows @ basis @ basis.T) ** 2, axis=1))


def principal(h, k):
    return np.linalg.svd(h - h.mean(0), full_matrices=False)[2][:k].T


def top_eigenvectors(covariance, k):
    return np.linalg.eigh(covariance)[1][:, ::-1][:, :k]


def root(sigma):
    values, vectors = np.linalg.eigh(sigma)
    return vectors @ np.diag(np.sqrt(values)) @ vectors.T


def nrc3(w, sigma, gamma):
    k = w @ w.T
    a = root(sigma) - np.sqrt(gamma) * np.eye(len(k))
    return np.sum((k / np.linalg.norm(k) - a / np.linalg.norm(a)) ** 2)


def cka(h, y):
    n = len(h)
    centre = np.eye(n) - 1 / n
    a, b = centre @ h @ h.T @ centre, centre @ y @ y.T @ centre
    return np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b))


def mean_cosine(a, b):
    from scipy.linalg import subspace_angles

    return np.cos(subspace_angles(a, b)).mean()


def entropy_rank(singular_values, eps=0.0):
    p = singular_values / singular_values.sum() + eps
    p = p[p > 0]
    return np.exp(-np.sum(p * np.log(p)))


def oracle(h, y, w, b, r):
    """Every metric that has a value for generic data."""
    n, t = y.shape
    hc, yc = h - h.mean(0), y - y.mean(0)
    sigma_h, sigma_y, cross = hc.T @ hc / n, yc.T @ yc / n, hc.T @ yc / n
    values = np.clip(np.linalg.eigvalsh(sigma_h)[::-1], 0, None)
    v = unit(hc)
    p, p_w = principal(h, t), np.linalg.qr(w.T)[0]
    error = h @ w.T + (y.mean(0) - w @ h.mean(0) if b is None else b) - y
    s_w = np.linalg.svd(w, compute_uv=False)
    left, _, right = np.linalg.svd(cross)
    affine = np.linalg.lstsq(np.c_[h, np.ones(n)], y, rcond=1e-12)[0]
    plain = np.linalg.pinv(h, rcond=1e-3) @ y
    u_r, u_y = top_eigenvectors(sigma_h, r), top_eigenvectors(sigma_y, t)
    k = min(r, len(s_w))
    out = {
        "mse": np.mean(error**2),
        "r2": 1 - np.sum(error**2) / np.sum(yc**2),
        "nrc1": residual(unit(h), p),
        "nrc2": residual(unit(h), p_w),
        "nrc1_raw": residual(h, p),
        "nrc2_raw": residual(h, p_w),
        "nrc1_centred": residual(v, p),
        "noise": 1 - np.trace(u_r.T @ sigma_h @ u_r) / np.trace(sigma_h),
        "noise_abs": np.trace(sigma_h) - np.trace(u_r.T @ sigma_h @ u_r),
        "stable_rank_features": np.linalg.norm(hc) ** 2 / np.linalg.norm(hc, 2) ** 2,
        "stable_rank_covariance": np.linalg.norm(sigma_h) ** 2 / np.linalg.norm(sigma_h, 2) ** 2,
        "stable_rank_weights": np.linalg.norm(w) ** 2 / np.linalg.norm(w, 2) ** 2,
        "feature_weight_alignment": mean_cosine(np.linalg.svd(w)[2][:k].T, u_r),
        "feature_weight_alignment_k": k,
        "feature_target_alignment": mean_cosine(right[:r].T, u_y[:, :r]),
        "feature_target_alignment_features": mean_cosine(left[:, :r], u_r),
        "cka": cka(h, y),
        "cka_first_columns": cka(h[:, :t], y),
        "linear_mse": np.mean((np.c_[h, np.ones(n)] @ affine - y) ** 2),
        "linear_mse_uncentred": np.mean((h @ plain - y) ** 2),
        "weight_rcond": 1 / np.linalg.cond(w),
        "mean_share": np.sum(h.mean(0) ** 2) / np.mean(np.sum(h**2, 1)),
        "feature_norm": np.sqrt(np.mean(np.sum(h**2, 1))),
        "signal_share": np.sum((hc @ w.T) ** 2) / np.sum(yc**2),
        "effective_rank": entropy_rank(np.linalg.svd(hc, compute_uv=False)),
        "participation_ratio": values.sum() ** 2 / np.sum(values**2),
        "rankme": entropy_rank(np.linalg.svd(h, compute_uv=False), 1e-7),
        "weight_norm": np.linalg.norm(w),
        "offset": np.sum((h @ w.T).mean(0) ** 2) / np.mean(np.sum((h @ w.T) ** 2, 1)),
    }
    out |= {f"evr_{j + 1}": values[j] / values.sum() for j in range(min(5, len(values)))}
    if r < t:
        out["noise_alignment"] = mean_cosine(right[:r].T, u_y[:, r:])
    return out
