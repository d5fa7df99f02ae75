"""Derive the float polynomials of math.hpp: run it to print them with their largest errors. Needs NumPy and mpmath."""

import mpmath as mp
import numpy as np

mp.mp.dps = 40


def weighted_fit(columns, target, weight, rounds=60):
    """Return the coefficients of an almost minimax fit: least squares, reweighted by the error (Lawson)."""
    share = np.ones(len(target))
    for _ in range(rounds):
        scale = weight * np.sqrt(share)
        coefficients = np.linalg.lstsq(columns * scale[:, None], target * scale, rcond=None)[0]
        error = np.abs((columns @ coefficients - target) * weight)
        share *= error / error.mean() + 1e-3
        share /= share.mean()
    return coefficients, error.max()


def expm1_tail(degree):
    """q of expm1(r) = r + r^2 q(r) for |r| <= ln(2) / 2; the error is relative to expm1(r)."""
    r = np.cos(np.linspace(0, np.pi, 2001)) * float(mp.log(2)) / 2
    r = r[np.abs(r) > 1e-6]
    target = np.array([float((mp.expm1(t) - mp.mpf(t)) / mp.mpf(t) ** 2) for t in r])
    return weighted_fit(np.vander(r, degree + 1, increasing=True), target, np.abs(r * r / np.expm1(r)))


def erf_ratio(top, bottom, end):
    """P, Q of erf(x) = x P(x^2) / Q(x^2), Q(0) = 1, for |x| <= end; the error is absolute."""
    x = (1 - np.cos(np.linspace(0, np.pi, 3001))) / 2 * end
    x = x[x > 1e-4]
    value = np.array([float(mp.erf(t)) for t in x])
    u = x * x
    columns = np.hstack(
        [
            x[:, None] * np.vander(u, top + 1, increasing=True),
            -value[:, None] * np.vander(u, bottom + 1, increasing=True)[:, 1:],
        ]
    )
    weight = np.ones_like(x)
    for _ in range(20):  # linearised; divide by the last denominator until it settles (Sanathanan and Koerner)
        c, _ = weighted_fit(columns, value, weight, rounds=1)
        weight = 1 / np.polynomial.polynomial.polyval(u, np.r_[1, c[top + 1 :]])
    c, error = weighted_fit(columns, value, weight)
    return c[: top + 1], np.r_[1, c[top + 1 :]], error


if __name__ == "__main__":
    q, error = expm1_tail(4)
    print(f"expm1 tail, relative error {error:.2e}:", ", ".join(f"{c:.9g}f" for c in q[::-1]))
    p, q, error = erf_ratio(5, 5, 3.925)
    print(f"erf, absolute error {error:.2e}:\n  P", ", ".join(f"{c:.9g}f" for c in p[::-1]))
    print("  Q", ", ".join(f"{c:.9g}f" for c in q[::-1]))
