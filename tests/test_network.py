"""Networks and their files."""

import pickle
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

import schuss
from schuss import Dense, InputError, ModelFileError, Network, Population
from schuss.initializers import INITIALIZERS


def small(dtype="float32"):
    return Network(3, [Dense(5, "gelu"), Dense(2)], seed=7, dtype=dtype)


def test_layers_are_views_of_the_flat_vector():
    network = small()
    network.layers[0].weights[1, 2] = 42
    network.layers[1].bias[:] = -1
    assert network.parameters[5] == 42
    assert network.parameters[-2:].tolist() == [-1, -1]
    assert network.parameters.shape == (3 * 5 + 5 * 2 + 5 + 2,)


def test_prediction_is_the_formula():
    network = Network(2, [Dense(3, "tanh"), Dense(1, "sigmoid")], seed=2, dtype="float64")
    x = np.random.default_rng(0).normal(size=(50, 2))
    (W1, b1), (W2, b2) = [(layer.weights, layer.bias) for layer in network.layers]
    expected = 1 / (1 + np.exp(-(np.tanh(x @ W1.T + b1) @ W2.T + b2)))
    np.testing.assert_allclose(network(x), expected, rtol=1e-14)
    assert network(x[:0]).shape == (0, 1)


def test_prediction_of_a_row_does_not_depend_on_the_others():
    network, x = small(), np.random.default_rng(0).normal(size=(1000, 3)).astype("float32")
    whole = network(x)
    x[3] = np.nan
    assert np.isnan(network(x)[3]).all()
    assert np.array_equal(np.delete(network(x), 3, axis=0), np.delete(whole, 3, axis=0))
    assert np.array_equal(network(x[500:501]), whole[500:501])


def test_a_seed_gives_the_same_weights_and_none_gives_others():
    assert small().parameters.tolist() == small().parameters.tolist()
    first, second = (Network(3, [Dense(1)]) for _ in range(2))
    assert first.seed != second.seed
    assert Network(3, [Dense(1)], seed=first.seed).parameters.tolist() == first.parameters.tolist()


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("glorot", (2 / 500) ** 0.5),
        ("he", (2 / 300) ** 0.5),
        ("lecun", (1 / 300) ** 0.5),
        ("article", 1 / 300),
        ("zeros", 0),
    ],
)
def test_initializers_have_their_deviation(name, deviation):
    layer = Network(300, [Dense(200, "tanh", initializer=name)], seed=3).layers[0]
    assert layer.weights.std() == pytest.approx(deviation, rel=5 / (2 * 60_000) ** 0.5)
    assert layer.bias.std() == pytest.approx(
        1 if name == "article" else 0, abs=5 / 400**0.5 if name == "article" else 0
    )
    assert name in INITIALIZERS


def test_an_initializer_may_be_an_array():
    weights = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(Network(3, [Dense(2, initializer=weights)]).layers[0].weights, weights)
    with pytest.raises(InputError, match=r"initializer array has shape \(2, 3\); pass one of shape \(2, 4\)"):
        Network(4, [Dense(2, initializer=weights)])
    with pytest.raises(InputError, match="unknown initializer 'hee'; did you mean 'he'"):
        Dense(2, initializer="hee")


def test_copies_and_pickles_are_independent():
    network = small()
    for other in (network.copy(), pickle.loads(pickle.dumps(network))):
        assert repr(other) == repr(network)
        other.parameters[:] = 0
        assert network.parameters.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_gives_back_the_network(tmp_path, dtype):
    network = small(dtype)
    network.save(tmp_path / "modell ü.safetensors")
    loaded = schuss.load(tmp_path / "modell ü.safetensors")
    assert repr(loaded) == repr(network)
    assert loaded.parameters.tobytes() == network.parameters.tobytes()


def test_any_changed_byte_is_noticed(tmp_path):
    network, path = small(), tmp_path / "model.safetensors"
    network.save(path)
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x01
        path.write_bytes(changed)
        try:
            loaded = schuss.load(path)
        except ModelFileError:
            continue
        # Only blanks that pad the header may change without a trace.
        assert loaded.parameters.tobytes() == network.parameters.tobytes()
        assert repr(loaded) == repr(network)


def test_any_cut_is_noticed(tmp_path):
    path = tmp_path / "model.safetensors"
    small().save(path)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match=r"cut short|damaged"):
            schuss.load(path)


def test_files_of_others_and_missing_files_are_named(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="not one written by schuss"):
        schuss.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        schuss.load(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        small().save(tmp_path / "none" / "model.safetensors")
    with pytest.raises(IsADirectoryError):
        small().save(tmp_path)


def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    small().save(path)
    before = path.read_bytes()

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        Network(3, [Dense(50)]).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_killed_process_leaves_a_whole_file(tmp_path):
    path = tmp_path / "model.safetensors"
    small().save(path)
    code = f"""
import schuss
network = schuss.load({str(path)!r})
print("ready", flush=True)
while True:
    network.parameters += 1
    network.save({str(path)!r})
"""
    for delay in (0.01, 0.03, 0.05):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        schuss.load(path)


def test_making_a_network_takes_little_more_than_its_parameters():
    size = 4 * 3001 * 3000
    tracemalloc.start()
    network = Network(3000, [Dense(3000)], seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert network.parameters.nbytes == size
    assert peak < 4 * size  # of blocks of 2^20 numbers, some arrays of float64 and of words


def test_sizes_beyond_memory_and_the_kernels_numbers_are_refused_before_any_work():
    with pytest.raises(InputError, match=r"parameters need .* GB of memory are free; about \d+ parameters would fit"):
        Network(2_000_000, [Dense(2_000_000), Dense(1)])
    for wrong in (2**31, 2**32 + 1, 2**64):
        with pytest.raises(InputError, match=r"at least 1 and less than 2\*\*31"):
            Dense(wrong)
        with pytest.raises(InputError, match=r"at least 1 and less than 2\*\*31"):
            Network(wrong, [Dense(1)])


@pytest.mark.parametrize("members", [1, 3])
def test_first_weights_do_not_depend_on_the_blocks_they_are_drawn_in(monkeypatch, members):
    layers = [Dense(7, "tanh"), Dense(5, initializer="article"), Dense(3)]
    whole = Population(5, layers, members=members, seed=1).parameters
    monkeypatch.setattr("schuss.initializers._NUMBERS_AT_ONCE", 1)
    np.testing.assert_array_equal(Population(5, layers, members=members, seed=1).parameters, whole)
