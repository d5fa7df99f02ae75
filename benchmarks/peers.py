"""The peers of the benchmarks, each trained as its own documentation recommends.

A maker takes a case and its data and returns ``run(epochs)``.
"""

import os
import warnings
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from schuss import SGD, Training
from schuss.limits import Case
from schuss.resources import available_threads

RATE, DECAY, MOMENTUM = 0.02, 1e-5, 0.9
Run = Callable[[int], object]


def with_schuss(case: Case, x: np.ndarray, y: np.ndarray, engine: str = "auto") -> Run:
    training = Training(case.network(), x, y, batch_size=case.batch_size, engine=engine)
    return lambda epochs: training.run(epochs, SGD(RATE, DECAY, MOMENTUM), record_every=epochs)


def _torch(case, x, y, compiled, device="cpu", graphed=False):
    import torch

    torch.set_num_threads(available_threads())
    functions = {"sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "linear": torch.nn.Identity}
    layers = []
    for fan_in, layer in zip(case.sizes, case.layers, strict=False):
        layers += [torch.nn.Linear(fan_in, layer.units), functions[layer.activation.name]()]
    net = torch.nn.Sequential(*layers[:-1]).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    loss_function = torch.nn.MSELoss()
    tx, ty = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def loss(inputs, targets):
        return loss_function(net(inputs), targets)

    if compiled:
        loss = torch.compile(loss)

    def step(inputs, targets):
        optimizer.zero_grad()
        loss(inputs, targets).backward()
        optimizer.step()

    def run(epochs):
        for _ in range(epochs):
            if case.batch_size is None:
                step(tx, ty)
                continue
            for rows in torch.randperm(case.samples, device=device).split(case.batch_size):
                step(tx[rows], ty[rows])
        wait()

    if not graphed:
        return run
    # As PyTorch's documentation captures a whole step: a few on a stream of their own first. Full batches only.
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(3)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        step(tx, ty)

    def replay(epochs):
        for _ in range(epochs):
            graph.replay()
        wait()

    return replay


def with_torch(case: Case, x: np.ndarray, y: np.ndarray) -> Run:
    return _torch(case, x, y, compiled=False)


def with_torch_compiled(case: Case, x: np.ndarray, y: np.ndarray) -> Run:
    return _torch(case, x, y, compiled=True)


def with_torch_on_gpu(case: Case, x: np.ndarray, y: np.ndarray) -> Run:
    return _torch(case, x, y, compiled=False, device="cuda")


def with_torch_compiled_on_gpu(case: Case, x: np.ndarray, y: np.ndarray) -> Run:
    return _torch(case, x, y, compiled=True, device="cuda")


def with_torch_graphs(case: Case, x: np.ndarray, y: np.ndarray) -> Run:
    return _torch(case, x, y, compiled=False, device="cuda", graphed=True)


def with_jax(case: Case, x: np.ndarray, y: np.ndarray) -> Run:
    start = [(layer.weights.T, layer.bias) for layer in case.network().layers]
    return jax_loop(case, x, y, start, RATE, together=lambda step: step)


def jax_loop(case: Case, x: np.ndarray, y: np.ndarray, start, rate, together) -> Run:
    """The whole loop inside jax.jit, its buffers donated. JAX takes all cores; a smaller last batch is left out.

    start: the first parameters. rate: the learning rate, or one a member. together: makes the step of all members of that of
    one, step(parameters, velocity, rate, inputs, targets).
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    functions = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu, "linear": lambda z: z}
    jx, jy, start = jnp.asarray(x), jnp.asarray(y), jax.tree.map(jnp.asarray, start)

    def cost(parameters, inputs, targets):
        a = inputs
        for (W, b), layer in zip(parameters, case.layers, strict=True):
            a = functions[layer.activation.name](a @ W + b)
        return 0.5 * jnp.mean(jnp.sum(jnp.square(a - targets), axis=1))

    def step(parameters, velocity, eta, inputs, targets):
        gradient = jax.grad(cost)(parameters, inputs, targets)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v - eta * g, velocity, gradient)
        return jax.tree.map(lambda p, v: (1 - eta * DECAY) * p + v, parameters, velocity), velocity

    all_members = together(step)

    def epoch(_, carried):
        state, key = carried
        if case.batch_size is None:
            return all_members(*state, rate, jx, jy), key
        key, now = jax.random.split(key)
        whole = case.samples // case.batch_size
        rows = jax.random.permutation(now, case.samples)[: whole * case.batch_size].reshape(whole, case.batch_size)
        return jax.lax.scan(lambda s, r: (all_members(*s, rate, jx[r], jy[r]), None), state, rows)[0], key

    loop = jax.jit(lambda carried, epochs: jax.lax.fori_loop(0, epochs, epoch, carried), donate_argnums=0)
    carried = ((start, jax.tree.map(jnp.zeros_like, start)), jax.random.key(0))

    def run(epochs):
        nonlocal carried
        carried = jax.block_until_ready(loop(carried, epochs))

    return run


def with_sklearn(case: Case, x: np.ndarray, y: np.ndarray) -> Run:
    """MLPRegressor with solver="sgd". It knows one activation for all hidden layers: the last one's."""
    from sklearn.neural_network import MLPRegressor

    names = {"sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}

    def run(epochs):
        model = MLPRegressor(
            hidden_layer_sizes=case.sizes[1:-1],
            activation=names[case.layers[-2].activation.name],
            solver="sgd",
            alpha=0,
            batch_size=case.batch_size or case.samples,
            learning_rate_init=RATE,
            momentum=MOMENTUM,
            nesterovs_momentum=False,
            max_iter=epochs,
            tol=0,
            n_iter_no_change=10**9,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "maximum iterations reached" is what we ask for
            model.fit(x, y.ravel() if y.shape[1] == 1 else y)

    return run


PEERS = {
    "PyTorch eager": (with_torch, "torch"),
    "torch.compile": (with_torch_compiled, "torch"),
    "JAX, jitted loop": (with_jax, "jax"),
    "scikit-learn": (with_sklearn, "scikit-learn"),
}


def versions(names: list[str]) -> str:
    """Return the peers' names with their versions, and ours."""
    return ", ".join([f"schuss {version('schuss')}", *(f"{name} {version(PEERS[name][1])}" for name in names)])
