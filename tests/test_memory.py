"""Memory that users own: what is theirs alone is never written to, and what kernels cannot work on is refused."""

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import data
from schuss import SGD, Dense, InputError, Network, Population, Training
from schuss.interop.sklearn import EnsembleRegressor, MLPClassifier, MLPRegressor

LAYERS = [Dense(4, "tanh"), Dense(1)]


def owned(values, dtype, order, aligned, writeable):
    """Return the same numbers as an array of another kind of memory."""
    values = values.astype(np.dtype(dtype).newbyteorder(order))
    memory = bytearray(values.nbytes + 1)
    array = np.frombuffer(memory, values.dtype, values.size, 0 if aligned else 1).reshape(values.shape)
    array[...] = values
    array.flags.writeable = writeable
    return array


@given(
    dtype=st.sampled_from(["float32", "float64"]),
    order=st.sampled_from("<>"),
    aligned=st.booleans(),
    writeable=st.booleans(),
    contiguous=st.booleans(),
    members=st.sampled_from([None, 1, 3]),
)
@settings(max_examples=60, deadline=None)
def test_any_memory_is_trained_in_place_or_refused(dtype, order, aligned, writeable, contiguous, members):
    x, y = data(20, 2, 1, dtype=dtype)
    first = Network(2, LAYERS, seed=1, dtype=dtype).parameters
    values = first if members is None else np.tile(first, (members, 1))
    if not contiguous:
        values = np.repeat(values, 2, axis=-1)
    array = owned(values, dtype, order, aligned, writeable)
    if not contiguous:
        array = array[..., ::2]
    before = array.copy()

    def make():
        if members is None:
            return Network.from_parameters(2, LAYERS, array, seed=1)
        return Population.from_parameters(2, LAYERS, array, seeds=np.arange(members, dtype=np.uint64))

    if not (array.dtype.isnative and array.flags.aligned and array.flags.c_contiguous):
        with pytest.raises(InputError, match="cannot use these parameters"):
            make()
        return
    model = make()
    np.testing.assert_array_equal(
        model(x).reshape(-1, 20, 1)[0], Network.from_parameters(2, LAYERS, first.copy(), seed=1)(x)
    )
    if writeable:
        with Training(model, x, y, seed=1) as training:
            training.run(2, SGD(0.1))
        assert not np.array_equal(array, before)
        return
    with pytest.raises(InputError, match=r"read-only memory; train a copy: model.copy\(\)"):
        Training(model, x, y)
    with Training(model.copy(), x, y) as training:
        training.run(2, SGD(0.1))
    np.testing.assert_array_equal(array, before)


def test_a_memory_map_predicts_and_is_not_written_to(tmp_path):
    x, y = data(20, 2, 1, dtype="float32")
    network = Network(2, LAYERS, seed=1)
    np.save(tmp_path / "parameters.npy", network.parameters)
    mapped = Network.from_parameters(2, LAYERS, np.load(tmp_path / "parameters.npy", mmap_mode="r"), seed=1)
    np.testing.assert_array_equal(mapped(x), network(x))
    with pytest.raises(InputError, match="read-only memory"):
        Training(mapped, x, y)


@pytest.mark.parametrize("dtype", [">f4", "<f4", "=f4", np.float32, "f4"])
def test_the_byte_order_of_a_dtype_means_nothing_to_a_network(dtype):
    x, _ = data(5, 3, 1)
    np.testing.assert_array_equal(Network(3, LAYERS, seed=0, dtype=dtype)(x), Network(3, LAYERS, seed=0)(x))


@pytest.mark.filterwarnings("ignore:Maximum iterations")
@pytest.mark.parametrize("make", [MLPRegressor, MLPClassifier, EnsembleRegressor])
def test_estimators_loaded_as_memory_maps_go_on_with_a_copy(tmp_path, make):
    x, y = data(60, 2, 1)
    y = (y[:, 0] > 0).astype(int) if make is MLPClassifier else y[:, 0]
    given = {"max_iter": 3, "random_state": 0, "warm_start": True}
    model, plain = (make(**given).fit(x, y) for _ in range(2))
    joblib.dump(model, tmp_path / "model.joblib")
    before = (tmp_path / "model.joblib").read_bytes()
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    for estimator in (mapped, plain):
        estimator.partial_fit(x, y) if hasattr(estimator, "partial_fit") else estimator.fit(x, y)
    np.testing.assert_array_equal(mapped.predict(x), plain.predict(x))
    assert (tmp_path / "model.joblib").read_bytes() == before
