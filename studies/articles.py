"""What both studies share: the articles' data and networks, their update in plain NumPy, and tables."""

import sys
from pathlib import Path

import numpy as np

from schuss import SGD, Dense, Network

SAMPLES = 10_000
RESULTS = Path(__file__).parent / "results"


def data(seed, samples=SAMPLES):
    """y = sin x0 + cos x1 + tanh x2 + x3^2 for x uniform in [0, 1)."""
    x = np.random.default_rng(seed).random((samples, 4), np.float32)
    return x, (np.sin(x[:, 0]) + np.cos(x[:, 1]) + np.tanh(x[:, 2]) + x[:, 3] ** 2)[:, None]


def layers(*hidden, initializer="article"):
    """The articles' networks: a sigmoid layer, a tanh layer, one linear output; their initial weights unless asked."""
    first, second = hidden
    return [
        Dense(first, "sigmoid", initializer=initializer),
        Dense(second, "tanh", initializer=initializer),
        Dense(1, initializer=initializer),
    ]


def optimizer(eta, decay=0.0, momentum=0.0, samples=SAMPLES, **options):
    """The articles' [eta lambda mu]: their lambda is divided by the number of samples, and their biases have no momentum."""
    return SGD(eta, decay / samples, momentum, bias_momentum=False, **options)


def published_update(network: Network, x, y, epochs, eta, decay, momentum, bias_sign=+1):
    """Train by the articles' published formulas, in float64: z = W a - b, b <- b + bias_sign (-eta / n) sum of delta.

    They add the bias's step with sign +1; gradient descent on z = W a - b needs -1. Returns the cost after each epoch.
    """
    functions = [
        (lambda z: 1 / (1 + np.exp(-z)), lambda a: a - a * a),
        (np.tanh, lambda a: 1 - a * a),
        (lambda z: z, np.ones_like),
    ]
    W = [layer.weights.astype(float) for layer in network.layers]
    b = [-layer.bias.astype(float) for layer in network.layers]
    v = [np.zeros_like(w) for w in W]
    n, costs = len(x), []
    with np.errstate(all="ignore"):
        for _ in range(epochs):
            a = [x.astype(float)]
            for w, bias, (f, _) in zip(W, b, functions, strict=True):
                a.append(f(a[-1] @ w.T - bias))
            delta = (a[-1] - y) * functions[-1][1](a[-1])
            for level in (2, 1, 0):
                v[level] = momentum * v[level] - eta / n * delta.T @ a[level]
                before = W[level]
                b[level] = b[level] + bias_sign * (-eta / n) * delta.sum(axis=0)
                W[level] = v[level] + (1 - eta * decay / n) * W[level]
                if level:
                    delta = (delta @ before) * functions[level - 1][1](a[level])
            out = x.astype(float)
            for w, bias, (f, _) in zip(W, b, functions, strict=True):
                out = f(out @ w.T - bias)
            costs.append(0.5 * float(np.square(out - y).mean()))
    return np.array(costs), W


def largest(network):
    """The largest weight of each layer, in absolute value."""
    return ", ".join(f"{np.abs(layer.weights).max():.3g}" for layer in network.layers)


class Report:
    """Lines that are printed and, at the end, written to studies/results/."""

    def __init__(self, name, title):
        self._path = RESULTS / f"{name}.md"
        self._lines = []
        self(f"# {title}", "")

    def __call__(self, *lines):
        for line in lines:
            print(line, flush=True)
            self._lines.append(line)

    def table(self, head, rows):
        """Add a table."""
        self(f"| {' | '.join(head)} |", "|" + "---|" * len(head))
        self(*(f"| {' | '.join(map(str, row))} |" for row in rows), "")

    def write(self):
        """Write what was printed."""
        self._path.write_text("\n".join(self._lines).rstrip() + "\n")
        print(
            f"written: {self._path.relative_to(Path.cwd()) if self._path.is_relative_to(Path.cwd()) else self._path}",
            file=sys.stderr,
        )
