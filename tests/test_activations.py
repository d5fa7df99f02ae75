"""The table against central differences, and the native functions against float64 to a few units in the last place."""

import numpy as np
import pytest

from schuss import Dense, InputError, Network
from schuss.activations import ACTIVATIONS, ELEMENTWISE

# Errors allowed in float32, in units in the last place; gelu's is absolute, 4 eps max(1, |x|).
ULP = {"linear": 0, "sigmoid": 3, "tanh": 3, "relu": 0, "leaky_relu": 1, "elu": 6, "silu": 6, "softplus": 6, "exp": 6}


def native(activation, z):
    """Return f(z) by the native predict: a layer with weight 1 and bias 0."""
    model = Network(1, [Dense(1, activation, initializer=[[1.0]])], seed=0, dtype=z.dtype)
    return model(z[:, None])[:, 0]


@pytest.mark.parametrize("row", [ACTIVATIONS[name] for name in ELEMENTWISE], ids=str)
def test_derivative_is_that_of_central_differences(row):
    z = np.linspace(-6, 6, 2000)  # an even number of points, none at the kink in 0
    step = 1e-6
    expected = (row.value(z + step) - row.value(z - step)) / (2 * step)
    given = row.derivative(row.value(z) if row.reads == "a" else z)
    np.testing.assert_allclose(given, expected, rtol=1e-8, atol=1e-9)


def sample_of_all_floats():
    """Every 2999th float32, of both signs, with the edges; NaN and infinities come apart."""
    bits = np.arange(0, 0x7F800000, 2999, dtype=np.uint32)
    positive = bits.view(np.float32)
    return np.concatenate([positive, -positive, np.float32([0, np.finfo("f4").max, np.finfo("f4").min])])


@pytest.mark.parametrize("name", ULP)
def test_native_functions_in_float32(every_level, name):
    z = sample_of_all_floats()
    with np.errstate(all="ignore"):
        expected = ACTIVATIONS[name].value(z.astype(np.float64))
    given = native(name, z).astype(np.float64)
    finite = np.abs(expected) <= np.finfo("f4").max  # exp overflows
    assert (given[~finite] == np.inf).all()
    given, expected = given[finite], expected[finite]
    normal = np.abs(expected) >= np.finfo("f4").tiny
    unit = 2.0 ** (np.frexp(expected[normal])[1] - 24)
    assert (np.abs(given - expected)[normal] / unit).max() <= ULP[name] + 0.5
    assert np.abs(given - expected)[~normal].max() <= 2 * np.finfo("f4").tiny


def test_native_gelu_in_float32(every_level):
    z = sample_of_all_floats()
    expected = ACTIVATIONS["gelu"].value(z.astype(np.float64))
    bound = 4 * np.finfo("f4").eps * np.maximum(1, np.abs(z.astype(np.float64)))
    assert (np.abs(native("gelu", z) - expected) <= bound).all()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_native_functions_in_float64(every_level, name):
    z = np.concatenate([np.linspace(-40, 40, 100_001), np.geomspace(1e-300, 1, 1000), -np.geomspace(1e-300, 1, 1000)])
    expected = ACTIVATIONS[name].value(z)
    np.testing.assert_allclose(
        native(name, z), expected, rtol=8 * np.finfo("f8").eps, atol=1e-16 if name == "gelu" else 0
    )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_stays_nan_and_infinity_does_what_it_should(every_level, name):
    edges = np.array([np.nan, np.inf], np.float32)
    given = native(name, edges)
    assert np.isnan(given[0])
    assert given[1] in ((1,) if name in ("sigmoid", "tanh") else (np.inf,))


def test_unknown_activation_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown activation 'sigmiod'; did you mean 'sigmoid'\? known: linear"):
        Dense(3, "sigmiod")
