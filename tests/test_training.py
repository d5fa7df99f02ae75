"""The public edge of Training: bad input, threads, Ctrl-C, callbacks, progress."""

import os
import pickle
import signal
import threading
import time
import tracemalloc

import numpy as np
import pytest

import schuss
from conftest import data, network
from schuss import SGD, Dense, EarlyStopping, InputError, Network, Training, TrainingError
from schuss.resources import available_cpus


def model():
    return network((3, 4, 1), ("tanh", "linear"), dtype="float32")


X, Y = data(20, 3, 1)


def with_value(array, row, column, value):
    changed = array.copy()
    changed[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            X,
            np.zeros((20, 2)),
            r"y has shape \(20, 2\) but the network gives 1 output; pass y of shape \(20, 1\) or \(20,\)",
        ),
        (X[:, 0], Y, r"x has shape \(20,\) but must be of shape \(n, 3\).*reshape"),
        (X[:, :2], Y, "x has 2 columns but the network takes 3"),
        (X, Y[:19], "x has 20 rows but y has 19"),
        (X[:0], Y[:0], "x has no rows"),
        (with_value(X, 7, 2, np.nan), Y, "x holds nan in row 7, column 2"),
        (X, with_value(Y, 19, 0, -np.inf), "y holds -inf in row 19, column 0"),
        (with_value(X, 3, 1, 1e300), Y, r"x holds 1e\+300 in row 3, column 1: too large for float32"),
        (X.astype(object), Y, "x has dtype object; pass real numbers"),
        (X.astype(complex), Y, "x has dtype complex128"),
        ([[1, 2, 3], [4, 5]], Y, "x cannot be read as an array"),
        (None, Y, "x has dtype object"),
        (X, [["a"]] * 20, "y has dtype <U1"),
    ],
)
def test_data_that_do_not_fit_are_named(x, y, message):
    with pytest.raises(InputError, match=message):
        Training(model(), x, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": "quadratc"}, "unknown cost 'quadratc'; did you mean 'quadratic'"),
        ({"engine": "gpu"}, "unknown engine 'gpu'"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1; got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"threads": -1}, "threads must be a whole number"),
        ({"seed": -1}, "seed must be a whole number, from 0"),
        ({"l2": -1}, "l2 must be a finite number, at least 0"),
        ({"validation": X}, "validation must be a pair"),
        ({"validation": (X[:, :1], Y)}, "validation x has 1 columns"),
        ({"sample_weight": np.zeros(20)}, "sample_weight is all zero"),
        ({"sample_weight": -np.ones(20)}, "sample_weight must not be negative"),
        ({"sample_weight": np.ones(3)}, "sample_weight has 3 values but x has 20 rows"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Training(model(), X, Y, **options)


def test_all_mismatches_are_named_at_once():
    with pytest.raises(InputError, match=r"3 reasons:\n  1\. x has 2 columns.*\n  2\. y has shape.*\n  3\. l2"):
        Training(model(), X[:, :2], np.zeros((20, 5)), l2=-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SGD, -0.1), "learning_rate must be at least 0 and finite; got -0.1"),
        ((SGD, np.nan), "learning_rate must be at least 0"),
        ((SGD, "fast"), "learning_rate must be a number"),
        ((SGD, 0.1, -1), "weight_decay must be at least 0"),
        ((SGD, 0.1, 0, 1), r"momentum must be in \[0, 1\); got 1"),
        ((EarlyStopping, 0), "patience must be a whole number"),
        ((Dense, 0), r"a layer needs a whole number of units, at least 1 and less than 2\*\*31; got 0"),
        ((Dense, 2.5), "got 2.5"),
        ((Network, 0, [Dense(1)]), "inputs must be a whole number"),
        ((Network, 1, []), "layers must be a list of at least one Dense"),
    ],
)
def test_descriptions_check_themselves(arguments, message):
    kind, *rest = arguments
    with pytest.raises(InputError, match=message):
        kind(*rest)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((10,), {}, "run needs an optimizer"),
        ((-1, SGD(0.1)), {}, "epochs must be a whole number"),
        ((10, "adam"), {}, "the optimizer must be an SGD"),
        (([(10, SGD(0.1))], SGD(0.1)), {}, "pass one"),
        (([10, SGD(0.1)],), {}, "list of .epochs, optimizer. pairs"),
        ((10, SGD([0.1, 0.2])), {}, "learning_rate has 2 values but the model has 1 member"),
        ((10, SGD(0.1)), {"early_stopping": EarlyStopping()}, "needs validation data"),
        ((10, SGD(0.1)), {"record_every": 0}, "record_every must be"),
        ((10, SGD(0.1)), {"callbacks": [3]}, "callbacks must be a list of functions"),
    ],
)
def test_runs_that_make_no_sense_are_refused(arguments, options, message):
    with Training(model(), X, Y) as training:
        with pytest.raises(InputError, match=message):
            training.run(*arguments, **options)
        assert training.epochs == 0


@pytest.mark.parametrize("dtype", ["int8", "uint16", "float16", "float64", "bool"])
def test_any_real_dtype_and_order_is_taken(dtype):
    x = np.asfortranarray((X > 0).astype(dtype))[::2]
    x.flags.writeable = False
    results = []
    for given in (x, np.ascontiguousarray(x, np.float32)):
        net = model()
        with Training(net, given, Y[::2, 0]) as training:
            training.run(3, SGD(0.1))
        results.append(net.parameters.tolist())
    assert results[0] == results[1]


def test_changing_the_data_later_does_not_change_the_training(engine):
    results = []
    for change in (False, True):
        x, net = X.astype(np.float32), model()
        with Training(net, x, Y, engine=engine) as training:
            training.run(1, SGD(0.1))
            x *= 1 + change
            training.run(1, SGD(0.1))
        results.append(net.parameters.tolist())
    assert results[0] == results[1]


def test_a_released_training_says_so():
    training = Training(model(), X, Y)
    training.release()
    training.release()
    for call in (lambda: training.run(1, SGD(0.1)), training.cost, training.value_and_gradient):
        with pytest.raises(TrainingError, match="was released"):
            call()


def test_a_second_thread_is_refused():
    started, errors = threading.Event(), []

    def intrude():
        started.wait()
        try:
            training.run(1, SGD(0.1))
        except TrainingError as error:
            errors.append(str(error))
        done.set()

    done = threading.Event()

    def callback(training, history):
        started.set()
        done.wait()
        return True

    with Training(model(), X, Y) as training:
        thread = threading.Thread(target=intrude)
        thread.start()
        training.run(10**9, SGD(0.1), callbacks=[callback])
        thread.join()
    assert "at work in another thread" in errors[0]


def test_ctrl_c_keeps_what_was_learned():
    net = model()
    before = net.parameters.copy()
    with Training(net, X, Y) as training:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        history = training.run(10**9, SGD(0.1), record_every=1000)
        assert time.monotonic() - started < 5
    assert history.interrupted
    assert "interrupted" in repr(history)
    assert len(history) > 0
    assert (net.parameters != before).any()


def test_callbacks_may_look_stop_and_fail():
    seen = []

    def look(training, history):
        seen.append((training.cost(), len(history)))
        return len(seen) == 3

    net = model()
    with Training(net, X, Y) as training:
        training.run(10**9, SGD(0.1), callbacks=[look])
        assert len(seen) == 3
        before = net.parameters.copy()
        with pytest.raises(ZeroDivisionError):
            training.run(10**9, SGD(0.1), callbacks=[lambda training, history: 1 / 0])
        assert (net.parameters != before).any()
        with pytest.raises(TrainingError, match="from a callback"):
            training.run(5, SGD(0.1), callbacks=[lambda training, history: training.run(1, SGD(0.1))])
        with pytest.raises(TrainingError, match="from a callback"):
            training.run(5, SGD(0.1), callbacks=[lambda training, history: training.release()])
        history = training.run(10**9, SGD(0.1), callbacks=[lambda training, history: [0]])
        assert list(history.stopped) == [0]


def test_a_schedule_is_run_in_order():
    first, second = model(), model()
    with Training(first, X, Y) as training:
        training.run([(5, SGD(0.2)), (5, SGD(0.1, momentum=0.9))])
    with Training(second, X, Y) as training:
        training.run(5, SGD(0.2))
        training.run(5, SGD(0.1, momentum=0.9))
    assert first.parameters.tolist() == second.parameters.tolist()


def test_progress_goes_to_standard_error(capfd):
    with Training(model(), X, Y) as training:
        training.run(50, SGD(0.1), progress=True)
    captured = capfd.readouterr()
    assert "50/50" in captured.err
    assert captured.out == ""


def test_nothing_is_allocated_per_epoch_but_the_record():
    with Training(model(), X, Y) as training:
        training.run(10, SGD(0.1))
        tracemalloc.start()
        training.run(20_000, SGD(0.1), record_every=20_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # A chunk brings back one float64 an epoch; what was kept in Python besides does not grow with epochs.
    assert peak < 20_000 * 8 * 3


def test_history_knows_itself(tmp_path):
    with Training(model(), X, Y, validation=(X, Y)) as training:
        history = training.run(30, SGD(0.1))
    assert history.to_dict()["epoch"] == list(range(1, 31))
    assert history.best() == 0
    history.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    axes = history.plot()
    assert [line.get_label() for line in axes.get_lines()] == ["training", "validation"]
    assert repr(pickle.loads(pickle.dumps(history))) == repr(history)


def test_forked_children_train(level):
    with Training(network((3, 40, 1), ("tanh", "linear")), *data(5000, 3, 1), engine="cpu", threads=2) as training:
        training.run(20, SGD(0.1))
        child = os.fork()
        if child == 0:
            training.run(20, SGD(0.1))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_importing_loads_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, schuss; print(*[m for m in ('polars', 'rich', 'matplotlib', 'sklearn', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
    assert len(schuss.__all__) <= 25


def test_threads_beyond_the_cpus_are_not_begun():
    x, y = data(40, 2, 1)
    with Training(network((2, 30, 1), ("tanh", "linear")), x, y, engine="cpu", threads=4096) as training:
        assert training._plan.threads == available_cpus()
    for wrong in (0, 4097, 2**31, 2**32 + 1, 1.5):
        with pytest.raises(InputError, match="threads must be a whole number, from 1 to 4096"):
            Training(network((2, 1), ("linear",)), x, y, threads=wrong)


@pytest.mark.parametrize(
    ("dtype", "weight"), [("float32", 1e-50), ("float32", 1e37), ("float64", 1e-320), ("float64", 1e307)]
)
def test_weights_that_leave_the_range_of_the_dtype_are_refused(dtype, weight):
    x, y = data(40, 2, 1, dtype=dtype)
    with pytest.raises(
        InputError, match=f"the weights of samples, from .* leave the range of {dtype}.* divide them by their mean"
    ):
        Training(network((2, 1), ("linear",), dtype=dtype), x, y, sample_weight=np.full(40, weight))


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("weight", [1e-30, 1e28])
def test_only_the_ratios_of_weights_matter(engine, weight):
    x, y = data(40, 2, 1, dtype="float32")
    models = [network((2, 5, 1), ("tanh", "linear"), dtype="float32") for _ in range(2)]
    for model, given in zip(models, (None, np.full(40, weight)), strict=True):
        with Training(model, x, y, engine=engine, sample_weight=given, batch_size=16) as training:
            training.run(5, SGD(0.1, momentum=0.5))
    assert np.abs(models[0].parameters - models[1].parameters).max() <= 20 * np.finfo(np.float32).eps


def test_more_rows_than_shuffles_number_are_refused_before_they_are_read():
    x = np.broadcast_to(np.float32(0), (2**32, 2))  # takes no memory
    with pytest.raises(InputError, match="x has 4294967296 rows; shuffles number at most 4294967295"):
        Training(network((2, 1), ("linear",)), x, x[:, :1])
