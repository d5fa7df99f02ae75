"""Checkpoints of trainings: the same bits as never having stopped, whatever happens; early stopping by a metric; going
back.
"""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import schuss
from conftest import data, network
from schuss import (
    LBFGS,
    SGD,
    Adam,
    Dense,
    EarlyStopping,
    InputError,
    ModelFileError,
    Network,
    Population,
    RMSprop,
    Training,
    training_file,
)
from schuss.callbacks import Checkpoint, CSVLog, LivePlot, TensorBoard
from schuss.errors import SchussError
from schuss.philox import permuted_by_blocks, shuffle_keys
from schuss.schedules import Cosine

X, Y = data(90, 3, 1, dtype="float32")
HELD = data(40, 3, 1, seed=5, dtype="float32")

OPTIMIZERS = [
    SGD(Cosine(0.05), 0.01, 0.9),
    Adam(Cosine(0.01, warmup=0.1)),
    RMSprop(0.005, momentum=0.5),
    LBFGS(history=3),
]


def fresh(members=None):
    layers = [Dense(9, "tanh", dropout=0.0), Dense(1)]
    return Network(3, layers, seed=4) if members is None else Population(3, layers, members=members, seed=4)


class HaltError(Exception):
    pass


def killed_at(path, epoch):
    """A callback that writes a checkpoint and then fails, as a kill would, after some epochs."""

    def callback(training, history):
        if training.epochs >= epoch:
            training.checkpoint(path)
            raise HaltError

    return callback


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.kind)
def test_a_resumed_run_has_the_bits_of_one_that_was_never_cut(engine, optimizer, members, tmp_path, monkeypatch):
    monkeypatch.setattr("schuss.runs._CHUNK_SECONDS", 0.0)  # a chunk a step: checkpoints in the middle of epochs, too
    batch = None if isinstance(optimizer, LBFGS) else 40
    options = {"engine": engine, "batch_size": batch, "validation": HELD, "l2": 0.1, "average": 0.9, "seed": 7}
    stopping = EarlyStopping(patience=6)
    whole, cut = fresh(members), fresh(members)
    with Training(whole, X, Y, **options) as training:
        expected = training.run(20, optimizer, early_stopping=stopping)
        average = training.averaged().parameters
    path = tmp_path / "run.checkpoint"
    with Training(cut, X, Y, **options) as training, pytest.raises(HaltError):
        training.run(20, optimizer, early_stopping=stopping, callbacks=[killed_at(path, 5)])
    with Training.resume(path, X, Y, validation=HELD, engine=engine) as training:
        assert training.epochs >= 5
        history = training.run(20, optimizer, early_stopping=stopping, resume=True)
        assert training.model.parameters.tobytes() == whole.parameters.tobytes()
        assert training.averaged().parameters.tobytes() == average.tobytes()
        assert training.epochs == expected.epoch[-1]
    assert history.cost.tobytes() == expected.cost.tobytes()
    assert history.validation_cost.tobytes() == expected.validation_cost.tobytes()
    assert (history.stopped, history.converged) == (expected.stopped, expected.converged)


def test_a_checkpoint_between_runs_continues_the_optimizer(engine, tmp_path):
    whole, cut = fresh(), fresh()
    with Training(whole, X, Y, engine=engine, batch_size=30) as training:
        training.run(4, Adam(0.01))
        training.run(6, Adam(0.02))
    with Training(cut, X, Y, engine=engine, batch_size=30) as training:
        training.run(4, Adam(0.01))
        training.checkpoint(tmp_path / "c")
    with Training.resume(tmp_path / "c", X, Y, engine=engine) as training:
        training.checkpoint(tmp_path / "again")  # before a run has taken up the state
    with Training.resume(tmp_path / "again", X, Y, engine=engine) as training:
        history = training.run(6, Adam(0.02), resume=True)
        assert history.epoch.tolist() == [5, 6, 7, 8, 9, 10]
        assert training.model.parameters.tobytes() == whole.parameters.tobytes()


def test_other_epochs_or_data_are_refused(tmp_path):
    with Training(fresh(), X, Y) as training, pytest.raises(HaltError):
        training.run(100, Adam(), callbacks=[killed_at(tmp_path / "c", 1)])
    for x, y in ((X[:-1], Y[:-1]), (X + 1, Y), (X, 2 * Y)):
        with pytest.raises(InputError, match="not those of the checkpoint"):
            Training.resume(tmp_path / "c", x, y)
    with pytest.raises(InputError, match="not those of the checkpoint"):
        Training.resume(tmp_path / "c", X, Y, validation=HELD)
    with Training.resume(tmp_path / "c", X, Y) as training, pytest.raises(InputError, match="was one of 100 epochs"):
        training.run(50, Adam(), resume=True)


def test_damaged_checkpoints_are_refused(tmp_path):
    with Training(fresh(), X, Y) as training:
        training.run(2, Adam())
        training.checkpoint(tmp_path / "c")
    whole = (tmp_path / "c").read_bytes()
    rng = np.random.default_rng(0)
    for attempt in range(40):
        if attempt % 2:
            broken = whole[: rng.integers(len(whole))]
        else:
            changed = bytearray(whole)
            changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            broken = bytes(changed)
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(ModelFileError):
            Training.resume(tmp_path / "broken", X, Y)
    fresh().save(tmp_path / "model")
    with pytest.raises(ModelFileError, match=r"not one written by Training\.checkpoint"):
        Training.resume(tmp_path / "model", X, Y)
    with pytest.raises(FileNotFoundError):
        Training.resume(tmp_path / "none", X, Y)


EPOCHS = 8000
SCRIPT = """
import sys, numpy as np
from pathlib import Path
from schuss import Adam, Dense, Network, Training
from schuss.callbacks import Checkpoint
from schuss.schedules import Cosine
import schuss.runs
schuss.runs._CHUNK_SECONDS = 0.002
path = Path(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (400, 3)); y = np.sin(x.sum(axis=1))
if path.exists():
    training = Training.resume(path, x, y)
else:
    training = Training(Network(3, [Dense(30, "tanh", dropout=0.1), Dense(1)], seed=1), x, y, batch_size=32)
training.run(EPOCHS, Adam(Cosine(0.01)), resume=True, callbacks=[Checkpoint(path, every=1)])
training.model.save(path.with_suffix(".model"))
"""


def test_killed_at_any_moment_it_resumes_to_the_same_bits(tmp_path):
    # The 200 kills of the benchmark (benchmarks/kills.py) run the same script; here a few.
    script = tmp_path / "job.py"
    script.write_text(SCRIPT.replace("EPOCHS", str(EPOCHS)))
    command = [sys.executable, str(script)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    rng = np.random.default_rng(0)
    path = tmp_path / "killed"
    for kill in range(4):
        process = subprocess.Popen([*command, str(path)])
        while not path.exists() and process.poll() is None:
            time.sleep(0.01)
        with pytest.raises(subprocess.TimeoutExpired):  # it trains for seconds
            process.wait(0.3 * (kill > 0) + rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert training_file.read(path).description["run"]["epochs"] == EPOCHS
    subprocess.run([*command, str(path)], check=True)
    models = [schuss.load(one.with_suffix(".model")) for one in (path, tmp_path / "whole")]
    assert models[0].parameters.tobytes() == models[1].parameters.tobytes()


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    with Training(fresh(), X, Y) as training:
        training.run(2, Adam())
        training.checkpoint(tmp_path / "c")
        before = (tmp_path / "c").read_bytes()

        def full(handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        parameters = training.model.parameters.copy()
        with pytest.raises(OSError, match="No space"):
            training.run(50, Adam(), callbacks=[Checkpoint(tmp_path / "c")])
        assert (training.model.parameters != parameters).any()  # what was learned is kept
        assert not list(tmp_path.glob(".c*"))
    assert (tmp_path / "c").read_bytes() == before


def test_automatic_checkpoints_keep_their_distance(tmp_path, monkeypatch):
    monkeypatch.setattr("schuss.runs._CHUNK_SECONDS", 0.0)
    seen = []
    monkeypatch.setattr(Training, "checkpoint", lambda self, path: seen.append(self.epochs))
    with Training(fresh(), X, Y) as training:
        training.run(20, Adam(), callbacks=[Checkpoint(tmp_path / "c", every=6)])
    assert seen == [1, 7, 13, 19]
    with pytest.raises(InputError, match="there is no folder"):
        Checkpoint(tmp_path / "no" / "c")


# -- early stopping by a metric, going back after divergence -----------------------------------------------------------------


def test_early_stopping_by_a_metric(engine):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    model = Network(2, [Dense(16, "tanh"), Dense(2, "softmax")], seed=0)
    stopping = EarlyStopping(patience=20, metric="accuracy")
    options = {"cost": "cross_entropy", "engine": engine, "validation": (x[100:], y[100:])}
    with Training(model, x[:100], y[:100], **options) as training:
        history = training.run(3000, Adam(0.03), early_stopping=stopping)
    best = int(np.argmax(history.score))
    assert history.stopped == {0: best + 1 + 20}
    assert ((model(x[100:]).argmax(axis=1)) == y[100:]).mean() == history.score[best]
    own = EarlyStopping(patience=20, metric=lambda y, outputs: (outputs.argmax(axis=1) == y[:, 0]).mean())
    again = Network(2, model.dense, seed=0)
    with Training(again, x[:100], y[:100], **options) as training:
        training.run(3000, Adam(0.03), early_stopping=own)
    assert again.parameters.tobytes() == model.parameters.tobytes()


def test_a_metric_resumes_to_the_bit(tmp_path):
    options = {"validation": HELD, "batch_size": 30}
    stopping = EarlyStopping(patience=15, metric="r2")
    whole = fresh(2)
    with Training(whole, X, Y, **options) as training:
        expected = training.run(60, Adam(0.05), early_stopping=stopping)
    with Training(fresh(2), X, Y, **options) as training, pytest.raises(HaltError):
        training.run(60, Adam(0.05), early_stopping=stopping, callbacks=[killed_at(tmp_path / "c", 9)])
    with Training.resume(tmp_path / "c", X, Y, validation=HELD) as training:
        history = training.run(60, Adam(0.05), early_stopping=stopping, resume=True)
        assert training.model.parameters.tobytes() == whole.parameters.tobytes()
    assert history.score.tobytes() == expected.score.tobytes()


def test_a_diverged_member_goes_back_and_is_slowed(engine, monkeypatch):
    x, y = data(60, 3, 1, dtype="float32")
    layers = [Dense(8, "relu"), Dense(1)]
    results = []
    for seconds in (0.0, 10.0):
        monkeypatch.setattr("schuss.runs._CHUNK_SECONDS", seconds)
        population = Population(3, layers, members=2, seed=1)
        with Training(population, x, 100 * y, engine=engine, on_divergence="restart") as training:
            history = training.run(200, SGD([0.001, 1.5]))
        results.append(population.parameters.tobytes())
        assert list(history.restarted) == [1]
        assert not history.diverged
        assert history.cost[-1, 1] < history.cost[0, 1]
        assert np.isfinite(population.parameters).all()
    assert results[0] == results[1]


def test_a_member_that_cannot_be_saved_diverges(engine):
    model = network((1, 1), ("linear",))
    with (
        Training(model, np.ones((4, 1)), np.full((4, 1), 1e200), engine=engine, on_divergence="restart") as training,
        pytest.warns(schuss.DivergenceWarning),
    ):
        history = training.run(3, SGD(1e200))
    assert history.diverged


# -- callbacks, diagnostics --------------------------------------------------------------------------------------------------


def test_csv_log_holds_every_record(tmp_path):
    with Training(fresh(3), X, Y, validation=HELD) as training:
        history = training.run(50, Adam(), callbacks=[CSVLog(tmp_path / "log.csv")])
    table = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    assert table.dtype.names == ("epoch", "cost", "validation_cost")
    assert table["epoch"].tolist() == history.epoch.tolist()
    np.testing.assert_allclose(table["cost"], np.median(history.cost, axis=1), rtol=1e-12)


def test_writers_that_are_absent_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(SchussError, match="pip install tensorboardX"):
        TensorBoard(tmp_path)
    with pytest.raises(SchussError, match="notebook"):
        LivePlot()


def test_tensorboard_and_live_plot_get_every_record(tmp_path, monkeypatch):
    written, shown = [], []

    class Writer:
        def __init__(self, folder):
            assert folder == str(tmp_path)

        def add_scalar(self, name, value, epoch):
            written.append((name, epoch))

        def flush(self):
            pass

    module = type(sys)("tensorboardX")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    display = type(sys)("IPython.display")
    display.display = lambda figure, display_id: shown.append(figure) or type("Handle", (), {"update": shown.append})()
    shell = type(sys)("IPython")
    shell.get_ipython, shell.version_info = (lambda: None), (8, 0)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("schuss.runs._CHUNK_SECONDS", 0.0)
    with Training(fresh(), X, Y) as training:
        training.run(4, Adam(), callbacks=[TensorBoard(tmp_path), LivePlot(0)])
    assert written == [("cost", epoch) for epoch in (1, 2, 3, 4)]
    assert len(shown) == 4


def test_diagnostics_see_dead_and_saturated_units(engine):
    model = Network(3, [Dense(4, "relu"), Dense(4, "tanh"), Dense(1)], seed=0, dtype="float64")
    first, second, _ = model.layers
    first.bias[:2] = -1e3
    second.bias[:1] = 1e3
    with Training(model, X, Y, engine=engine) as training:
        states = training.diagnose()
        _, gradient = training.value_and_gradient()
    assert [state.dead for state in states] == [0.5, 0, 0]
    assert states[1].saturated == 0.25
    assert states[0].weight_norm == pytest.approx(np.linalg.norm(first.weights))
    assert states[0].gradient_norm == pytest.approx(np.linalg.norm(gradient[:12]))
    with Training(fresh(3), X, Y, engine=engine) as training:
        assert training.diagnose()[1].weight_norm.shape == (3,)


# -- memory-mapped arrays ----------------------------------------------------------------------------------------------------


def mapped(tmp_path, n):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (n, 3))
    x[:] = np.random.default_rng(0).uniform(size=(n, 3))
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def test_mapped_arrays_are_shuffled_by_blocks_as_the_reference_does(level, tmp_path):
    n = 70_000 + 321  # one window of blocks, some of a second, and a tail
    x = mapped(tmp_path, n)
    y = np.sin(np.asarray(x).sum(axis=1))
    results = []
    for engine in ("cpu", "reference"):
        for threads in (1, 2) if engine == "cpu" else (1,):
            model = Network(3, [Dense(4, "tanh"), Dense(1)], seed=0)
            options = {"engine": engine, "batch_size": 1000, "shuffle": "blocks", "threads": threads}
            with Training(model, x, y, **options) as training:
                training.run(2, SGD(0.05))
            results.append(model.parameters.copy())
    assert results[0].tobytes() == results[1].tobytes()
    assert np.abs(results[0] - results[2]).max() <= 20 * np.finfo("f4").eps * np.abs(results[2]).max()


def test_a_shuffle_by_blocks_is_a_permutation_that_stays_near():
    n = 70_000 + 321
    order = permuted_by_blocks(np.arange(n), n, shuffle_keys(1, 2))
    assert np.array_equal(np.sort(order), np.arange(n))
    assert (order[-(n % 4096) :] >= n - n % 4096).all()
    for window in range(0, n - 65536, 65536):
        assert len(np.unique(order[window : window + 65536] // 4096)) == 16


def test_a_mapped_array_larger_than_the_budget_is_read_in_place(tmp_path, monkeypatch):
    x = mapped(tmp_path, 5000)
    y = np.asarray(x).sum(axis=1)
    monkeypatch.setattr("schuss.checks.available_memory", lambda: 1000)
    monkeypatch.setattr("schuss.training.check_memory", lambda *_: None)
    with Training(Network(3, [Dense(1)], seed=0), x, y, batch_size=100) as training:
        assert training._plan.order == "blocks"
        assert training.run(3, SGD(0.1)).cost[-1] < 0.1
    with pytest.raises(InputError, match="can only be read in place as a C-ordered array of float64"):
        Training(Network(3, [Dense(1)], seed=0, dtype="float64"), x, y)


def test_binding_float64_arrays_makes_no_second_copy():
    code = """
import numpy as np
from schuss import SGD, Dense, Network, Training
from pathlib import Path
def now(what):
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(what)).split()[1]) / 1024
x = np.random.default_rng(0).random((1_000_000, 20)); y = x.sum(axis=1)
for batch in (None, 256):
    Path("/proc/self/clear_refs").write_text("5")
    before = now("VmRSS")
    fresh = lambda: Network(20, [Dense(4, "tanh"), Dense(1)], seed=0)
    with Training(fresh(), x, y, batch_size=batch, threads=1, engine="cpu") as training:
        grown = now("VmHWM") - before
    print(grown)
"""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of memory cannot be reset here")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    packed = 1_000_000 * 21 * 4 / 2**20
    assert all(float(grown) < 1.35 * packed for grown in found), found


def test_a_share_of_the_rows_is_held_out():
    x = np.arange(100.0)[:, None]
    with Training(
        Network(1, [Dense(1)], seed=0), x, x[:, 0], validation=0.25, sample_weight=np.arange(1, 101.0), seed=3
    ) as t:
        train, held = t._data.x[:, 0], t._held_out.x[:, 0]
        assert sorted([*train, *held]) == list(range(100))
        assert len(held) == 25
        np.testing.assert_array_equal(t._data.weights, train + 1)
        assert t.run(2, SGD(1e-5)).validation_cost.shape == (2,)
