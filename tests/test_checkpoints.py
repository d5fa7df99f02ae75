"""Whatever a checkpoint or a state of an optimizer holds, it is refused by its error or good; nothing reaches native code."""

import numpy as np
import pytest

from altered import DELETED, changed, parts
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
    Training,
    checkpoint,
    training_file,
)

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))


def cut_off(path, optimizer, engine="cpu", **options):
    """Write a checkpoint in the middle of a run of two members."""

    def write(training, history):
        training.checkpoint(path)
        return True

    model = Population(3, [Dense(2, "tanh"), Dense(1)], members=2, seed=1)
    with Training(model, X, Y, validation=(X, Y), engine=engine, **options) as training:
        training.run(9, optimizer, early_stopping=EarlyStopping(patience=5), callbacks=[write])
    return parts(path, "schuss_training")


DESCRIPTION_CHANGES = [
    *[("step", value) for value in (-1, 2**62, 10**9, 0.5, None, True, DELETED)],
    *[("run.begin", value) for value in (-2, 5, 2**62, None)],
    *[("run.epochs", value) for value in (-1, 0, "9", DELETED)],
    *[("run", value) for value in ([], 3, DELETED)],
    *[("optimizer", value) for value in (["LBFGS", 0], ["LBFGS", 101], ["SGD", 0], ["Adam", 1])],
    *[("optimizer", value) for value in (["Adam"], "Adam", ["x", 0], None)],
    *[("model.inputs", value) for value in (4, 60_000)],
    *[("model.seeds", value) for value in ([1], [1, 2, 3], DELETED)],
    ("model.format", 1),
    *[("cost.name", value) for value in ("mse", [], None, "huber", "quantile")],
    *[("cost.option", value) for value in ([], [1.0], [0.0, 0.0], 0.0)],
    *[("options.l2", value) for value in ([], [0.0], 0.0, [0.0, -1.0])],
    *[("options.batch_size", value) for value in (0, -8, 21, 8.0, None)],
    *[("options.average", value) for value in (1.0, 0, -1)],
    *[("options.shuffle", value) for value in ("x", None, 1)],
    *[("options.threads", value) for value in (1, 2**31)],
    *[("options.seed", value) for value in (-1, 2**64)],
    *[("data", value) for value in (None, [], [[20, 3], [20, 1]], [[-20, 3], [20, 1], False, False, ""])],
    *[("validation", value) for value in (3, [[20, 3], [19, 1], False, False, ""])],
    *[("fates", value) for value in (None, {"lost": {}}, {"stopped": {"2": 1}}, {"stopped": {"-1": 1}})],
    ("fates", {"stopped": {"0": 99}}),
    ("format", 0),
    ("further", 1),
]  # fmt: skip


@pytest.mark.parametrize(("path", "new"), DESCRIPTION_CHANGES, ids=str)
def test_a_checkpoint_whose_description_does_not_fit_is_refused(tmp_path, path, new):
    description, tensors = cut_off(tmp_path / "c", Adam(0.01), batch_size=8, average=0.9)
    checkpoint.write_tensors(tmp_path / "c", "schuss_training", description, tensors)
    Training.resume(tmp_path / "c", X, Y, validation=(X, Y)).release()
    checkpoint.write_tensors(tmp_path / "c", "schuss_training", changed(description, path, new), tensors)
    with pytest.raises(ModelFileError):
        Training.resume(tmp_path / "c", X, Y, validation=(X, Y))


def column(array, which, value):
    array = array.copy()
    array[..., which] = value
    return array


BAD_NUMBERS = {
    "state.kept_pairs": (-3, -(2**62)),
    "state.fate": (77, -1),
    "state.fate_epoch": (-5, 2**40),
    "runner.scale": (0.0, -1.0, 2.0, np.nan, np.inf),
    "snapshot.step": (-1, 2**40),
    "snapshot.parameters": (np.nan,),
    "state.parameters": (np.nan, np.inf),
    "history.epoch": (0, -1, 2**40),
}


@pytest.mark.parametrize("optimizer", [SGD(0.1), LBFGS(history=3)], ids=lambda one: one.kind)
def test_numbers_that_no_training_has_are_refused(tmp_path, optimizer):
    description, tensors = cut_off(tmp_path / "c", optimizer, on_divergence="restart")
    bad = [(name, np.full_like(tensors[name], value)) for name, values in BAD_NUMBERS.items() for value in values]
    bad += [("state.progress", column(tensors["state.progress"], which, value))
            for which in (3, 4, 5) for value in (-1, 0.5, np.nan, np.inf, 2.0**60)]  # fmt: skip
    bad += [(name, np.concatenate([tensors[name]] * 2)) for name in tensors]
    bad += [(name, tensors[name].astype("float16")) for name in tensors]
    bad += [("state.square", tensors["state.parameters"]), ("other", tensors["state.fate"])]
    for name, array in bad:
        checkpoint.write_tensors(tmp_path / "c", "schuss_training", description, tensors | {name: array})
        with pytest.raises(ModelFileError):
            Training.resume(tmp_path / "c", X, Y, validation=(X, Y))
    for name in set(tensors) - {"state.best"}:  # without early stopping there is none
        left = {other: array for other, array in tensors.items() if other != name}
        checkpoint.write_tensors(tmp_path / "c", "schuss_training", description, left)
        with pytest.raises(ModelFileError):
            Training.resume(tmp_path / "c", X, Y, validation=(X, Y))


@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.01), LBFGS(history=3)], ids=lambda one: one.kind)
def test_an_optimizer_state_that_does_not_fit_is_refused(optimizer):
    model = Population(3, [Dense(2, "tanh"), Dense(1)], members=2, seed=1)
    with Training(model, X, Y) as training:
        training.run(4, optimizer)
        state = training.optimizer_state()
        training.load_optimizer_state(state)
        wrong = [
            ("kept_pairs", [-3, 0]),
            ("kept_pairs", [0.5, 0]),
            ("kept_pairs", 1),
            ("steps", [-1, 0]),
            ("steps", [np.nan, 0]),
        ]
        wrong += [("optimizer", "Momentum"), ("history", -1), ("history", 101), ("history", 0.5)]
        wrong += [(name, state[name][:, :1]) for name in ("velocity", "square", "pairs") if len(state[name])]
        wrong += [("velocity", np.zeros((2, 4))), ("pairs", np.zeros((2, 5, 2, 11)))]
        for name, value in wrong:
            with pytest.raises(InputError, match="optimizer's state"):
                training.load_optimizer_state(state | {name: np.asarray(value)})
        for other in ({}, None, {name: state[name] for name in state if name != "steps"}):
            with pytest.raises(InputError, match="missing"):
                training.load_optimizer_state(other)
        training.run(2, optimizer)


def test_a_state_that_waits_for_its_run_is_that_of_the_checkpoint(tmp_path):
    with Training(Network(3, [Dense(2), Dense(1)], seed=1), X, Y) as training:
        training.run(3, Adam(0.01))
        state = training.optimizer_state()
    with Training(Network(3, [Dense(2), Dense(1)], seed=1), X, Y, on_divergence="restart") as training:
        training.run(3, SGD(0.01))
        training.load_optimizer_state(state)
        training.checkpoint(tmp_path / "c")
    assert training_file.read(tmp_path / "c").description["optimizer"] == ["Adam", 0]
    with Training.resume(tmp_path / "c", X, Y) as training:
        training.run(2, Adam(0.01), resume=True)
        assert training.optimizer_state()["steps"].tolist() == [5.0]
