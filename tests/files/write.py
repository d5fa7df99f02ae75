"""Write the model files of this version, with what they predict: ``python tests/files/write.py``, once for each release.

Files of older versions are never written again: they show that what was saved once can still be loaded.
"""

import json
from pathlib import Path

import numpy as np

import schuss.tables
from schuss import Adam, Dense, Network, Population, Training, tabular
from schuss.costs import Quantile
from schuss.tabular import TabularModel

folder = Path(__file__).parent / schuss.__version__
folder.mkdir()
rng = np.random.default_rng(0)
x = rng.normal(size=(4, 3))
layers = [Dense(5, "gelu", dropout=0.1), Dense(2)]
network, population = Network(3, layers, seed=1, dtype="float64"), Population(3, layers, members=3, seed=1)
network.save(folder / "network.safetensors")
population.save(folder / "population.safetensors")
n = 40
table = {
    "größe": [None if i % 9 == 0 else float(i) for i in range(n)],
    "farbe": [["rot", "blau", None][i % 3] for i in range(n)],
    "y": [float(i % 7) for i in range(n)],
}
numbers = tabular.fit(table, "y", layers=((4,),), epochs=5, folds=2, repeats=1, learning_rate=(0.01,))
classes = tabular.fit(table, "farbe", layers=((4,),), epochs=5, folds=2, repeats=1, learning_rate=(0.01,))
levels = (0.1, 0.9)
rows = schuss.tables.as_table(table)
encoding = schuss.tables.Encoding.learn(rows, "y", levels=levels)[0]
quantile = Network(encoding.x(rows).shape[1], [Dense(4, "tanh"), Dense(2)], seed=2)
with Training(quantile, encoding.x(rows), encoding.y(rows), cost=Quantile(levels)) as training:
    training.run(5, Adam(0.01))
quantiles = TabularModel(quantile, encoding)
train_x, train_y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
with Training(Network(3, layers, seed=1), train_x, train_y, batch_size=8, engine="reference") as training:
    training.run(3, Adam(0.01))
    training.checkpoint(folder / "checkpoint.safetensors")
    training.run(2, Adam(0.01))
    resumed = training.model.parameters.tolist()
expected = {
    "x": x.tolist(), "network": network(x).tolist(), "population": population(x).tolist(), "table": table,
    "train_x": train_x.tolist(), "train_y": train_y.tolist(), "resumed": resumed,
}  # fmt: skip
for name, model in (("numbers", numbers), ("classes", classes), ("quantiles", quantiles)):
    model.save(folder / f"{name}.safetensors")
    expected[name] = model.outputs(table)[0].tolist()
(folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False))
