"""Coverage-guided fuzzing of what is read: python fuzz.py model|checkpoint|onnx SECONDS FOLDER [--mistake].

Any bytes give a good object or the documented error, never another, and never take more than 2 GB. FOLDER is for files, and
for an input that fails. --mistake takes a check of the reader away, which must be found.
"""

import random
import resource
import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["schuss"]):
    import schuss
    from schuss import checkpoint, tabular, training_file, training_schema
    from schuss.engines import reference  # noqa: F401 - instrumented
    from schuss.table_commands import described

import changes
import numpy as np

from schuss import SGD, Adam, Dense, EarlyStopping, InputError, ModelFileError, Network, Population, Training

FOLDER = Path(sys.argv[3])
ROOM = 2 << 30
MOST_GOOD = 500
LONGEST = 60  # epochs of a run that is gone on with
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))


class Model:
    """Model files, with and without the encoding of a table."""

    kind = "schuss"

    def __init__(self):
        self.good = []  # inputs that were taken, from which many changes begin: most others are refused at once

    def seeds(self):
        layers = [Dense(3, "tanh", dropout=0.1), Dense(2, "softmax")]
        Network(2, layers, seed=1).save(FOLDER / "a")
        Population(2, [Dense(2, "gelu"), Dense(1)], members=2, seed=1, dtype="float64").save(FOLDER / "b")
        table = {"number": [*range(11), None], "text": ["a", "b", "c"] * 4}
        for name, target in (("c", [0.5 * i for i in range(12)]), ("d", ["no", "yes"] * 6)):
            tabular.fit(table | {"target": target}, "target", epochs=1, folds=2, layers=[[2]]).save(FOLDER / name)
        return [(FOLDER / name).read_bytes() for name in "abcd"]

    def check(self, path):
        model = schuss.load(path)
        if not np.isfinite(model.parameters).all():
            raise AssertionError("parameters that are not finite were loaded")
        model(np.zeros((2, model.inputs)))
        described(path)
        if "encoding" not in checkpoint.load_with_extra(path)[1]:
            return
        encoding = tabular.load(path).encoding
        tabular.load(path).outputs({one.name: [None] if one.categories is None else ["a"] for one in encoding.columns})

    def break_the_reader(self):
        checkpoint._MODEL = lambda description, name: None

    def is_good(self, path):
        """Return whether a file is taken; let every error pass that no reader promises."""
        try:
            self.check(path)
        except (ModelFileError, InputError, schuss.TrainingError):
            return False
        return True

    def change(self, data, most, seed):
        chosen = random.Random(seed)
        begin = chosen.choice(self.good) if chosen.random() < 0.5 else data
        return self.changed(begin, chosen, most)

    def changed(self, data, chosen, most):
        return changes.changed_file(data, chosen, self.kind, atheris.Mutate, most)


class Saved(Model):
    """Checkpoints of trainings; a run that was cut off is gone on with."""

    kind = "schuss_training"
    run = EarlyStopping(patience=5)

    def seeds(self):
        def write(training, history):
            training.checkpoint(FOLDER / "seed")
            return True

        found = []
        for members, optimizer, options in (
            (None, Adam(0.01), {"batch_size": 8, "average": 0.9}),
            (2, SGD(0.1, momentum=0.5), {"on_divergence": "restart", "shuffle": "member", "bootstrap": True}),
            (2, schuss.LBFGS(history=3), {}),
        ):
            layers = [Dense(2, "tanh"), Dense(1)]
            model = Network(3, layers, seed=1) if members is None else Population(3, layers, members=members, seed=1)
            with Training(model, X, Y, validation=(X, Y), **options) as training:
                training.run(9, optimizer, early_stopping=self.run, callbacks=[write])
            found.append((FOLDER / "seed").read_bytes())
        return found

    def break_the_reader(self):
        training_schema.check = lambda description, name: None

    def check(self, path):
        with Training.resume(path, X, Y, validation=(X, Y), engine="cpu") as training:
            saved = training_file.read(path)
            kind, history = saved.description["optimizer"] or ("SGD", 0)
            optimizer = schuss.LBFGS(history=history) if kind == "LBFGS" else getattr(schuss, kind)(0.01)
            run = saved.description["run"]
            if run is not None and run["epochs"] <= LONGEST:
                training.run(run["epochs"], optimizer, early_stopping=self.run, resume=True)
            training.checkpoint(FOLDER / "again")
        training_file.read(FOLDER / "again")


class Graph(Model):
    """ONNX models; one that is taken computes what onnxruntime does."""

    def __init__(self):
        super().__init__()
        import onnx
        import onnxruntime

        with atheris.instrument_imports(include=["schuss"]):
            from schuss.interop import onnx as interop

        self.onnx, self.runtime, self.interop = onnx, onnxruntime, interop
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads, self.options.log_severity_level = 1, 4

    def seeds(self):
        node, tensor = self.onnx.helper.make_node, self.onnx.numpy_helper.from_array
        kinds = ("silu", "relu", "leaky_relu", "gelu")
        made = [self.interop.export(Network(2, [Dense(3, kind), Dense(2, "softmax")], seed=1)) for kind in kinds]
        chain = [("MatMul", ["x", "W0"], "a"), ("Add", ["a", "b0"], "b"), ("Dropout", ["b"], "c"), ("Flatten", ["c"], "d"),
                 ("Elu", ["d"], "e"), ("Gemm", ["e", "W1"], "outputs")]  # fmt: skip
        first = made[0].graph
        constants = [tensor(rng.normal(size=(2, 2)).astype("f"), name) for name in ("W0", "W1")]
        constants.append(tensor(np.float32([0.1, 0.2]), "b0"))
        nodes = [node(kind, inputs, [output], name=kind) for kind, inputs, output in chain]
        graph = self.onnx.helper.make_graph(nodes, "g", first.input, first.output, constants)
        opset = [self.onnx.helper.make_opsetid("", 20)]
        made.append(self.onnx.helper.make_model(graph, opset_imports=opset, ir_version=9))
        return [one.SerializeToString() for one in made]

    def break_the_reader(self):
        sys.modules["schuss.interop.onnx.reading"]._fits = lambda value, usual: True

    def check(self, path):
        network = self.interop.load(path)
        given = np.linspace(-1, 1, 3 * network.inputs).reshape(3, network.inputs)
        if np.abs(network.parameters).max() > 10:
            return  # rounding is no difference
        try:
            session = self.runtime.InferenceSession(path.read_bytes(), self.options)
            (described,) = session.get_inputs()
            dtype = {"tensor(float)": "f", "tensor(double)": "d"}[described.type]
            (expected,) = session.run(None, {described.name: given.astype(dtype)})
        except Exception:  # what onnxruntime cannot run, nothing is compared with
            return
        np.testing.assert_allclose(network(given), expected, rtol=1e-3, atol=1e-3)

    def changed(self, data, chosen, most):
        return changes.changed_model(data, chosen, self.onnx.ModelProto(), atheris.Mutate, most)


def main(name, seconds, mistake):
    warnings.simplefilter("ignore")
    checkpoint._digest = checkpoint.digest_of_all = lambda text, content: (
        "right"
    )  # it is no secret, and stops every change
    target = {"model": Model, "checkpoint": Saved, "onnx": Graph}[name]()
    if mistake:
        target.break_the_reader()
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, content in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(content)
        (FOLDER / "seed").write_bytes(content)
        if target.is_good(FOLDER / "seed"):
            target.good.append(content)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    path, counts = FOLDER / "input", [0, 0]

    def one_input(data):
        path.write_bytes(data)
        good = target.is_good(path)
        counts[0], counts[1] = counts[0] + 1, counts[1] + good
        if counts[0] % 1000 == 0:
            print(f"{counts[0]} inputs {counts[1]} taken", flush=True)
        if good:
            target.good = [*target.good[-MOST_GOOD:], data]

    options = [
        f"-max_total_time={seconds}",
        "-max_len=20000",
        "-rss_limit_mb=0",  # it would count the peak of the process that began this one: the limit above holds
        "-timeout=30",
        "-print_final_stats=1",
    ]
    options += ["-seed=1", "-verbosity=0", f"-artifact_prefix={FOLDER}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input, custom_mutator=target.change)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), "--mistake" in sys.argv)
