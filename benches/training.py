"""How long until a network is as good as asked for, beside PyTorch and scikit-learn: `python benches/training.py`.

Two problems of scikit-learn's: handwritten digits (64-128-10, relu, cross-entropy) until 97 % of 360 held-out images
are read correctly, and diabetes (10-32-1, tanh, squares) until the held-out error is within 5 % of that of least
squares. Everybody trains with Adam on the same batches of 32 rows in float32, from the same weights, in the same order
(scikit-learn shuffles by itself), and evaluates the held-out data after every epoch. A round is one seed, for weights,
split and order; everybody takes a turn in it, each in a process of its own. What is quoted is the median of the rounds'
ratios, with the least and the greatest. Neither building the model nor preparing the data is timed. As
scikit-learn, in its own order, needs another number of epochs, the ratio of an epoch is quoted too.

    optirs           `train`, with `HeldOut` as its callback and one that stops
    torch            a loop over batches that were permuted at once, `Adam(fused=True)`
    torch compiled   the same with the step, forward to loss, compiled; the compilation is not timed
    sklearn          `partial_fit`, which is an epoch, and an evaluation
    sklearn fit      `fit` for as many epochs as that took, without an evaluation: the least that it can need
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

BATCH, MOST_EPOCHS = 32, 300
RATES = {"digits": 2e-3, "diabetes": 2e-4}
WARM_UP = 10_000  # a seed of its own
Array = np.ndarray[Any, Any]
Training = Callable[[], int]  # trains until the target is reached, and returns how many epochs that took


@dataclass(frozen=True)
class Task:
    """One seed of a problem: data, first weights, and what is asked for."""

    x: Array
    y: Array
    x_held: Array
    y_held: Array
    weights: list[Array]  # W1[n_hidden, n_in], b1, W2[n_out, n_hidden], b2
    target: float
    rate: float
    seed: int
    classify: bool

    def score(self, yhat: Array) -> float:
        """Of the predictions for the held-out rows; great is good."""
        if self.classify:
            return float(np.mean(yhat.argmax(axis=1) == self.y_held))
        return -float(np.mean((yhat.reshape(self.y_held.shape) - self.y_held) ** 2))


def task(problem: str, seed: int) -> Task:
    """The problem with this seed."""
    from sklearn import datasets

    import optirs

    classify = problem == "digits"
    data = datasets.load_digits() if classify else datasets.load_diabetes(scaled=False)
    order, held = np.random.default_rng(seed).permutation(len(data.data)), len(data.data) // 5
    x, y = data.data[order], data.target[order]
    if classify:
        x, target = x / 16, 0.97
    else:
        x, y = (x - x[held:].mean(axis=0)) / x[held:].std(axis=0), (y[:, None] - y[held:].mean()) / y[held:].std()
        columns = np.column_stack([x, np.ones(len(x))])
        linear = columns @ np.linalg.lstsq(columns[held:], y[held:], rcond=None)[0]
        target = -float(np.mean((linear[:held] - y[:held]) ** 2)) * 1.05**2
        y = y.astype(np.float32)
    x, rng, shape = x.astype(np.float32), optirs.Xoshiro(seed), (64, 128, 10) if classify else (10, 32, 1)
    layers = [optirs.Dense.glorot(*shape[i : i + 2], rng=rng) for i in (0, 1)]
    weights = [array for layer in layers for array in (layer.W, layer.b)]
    return Task(x[held:], y[held:], x[:held], y[:held], weights, target, RATES[problem], seed, classify)


def of_optirs(task: Task) -> Training:
    import optirs

    W1, b1, W2, b2 = task.weights
    model = optirs.Chain(optirs.Dense(W1, b1, "relu" if task.classify else "tanh"), optirs.Dense(W2, b2))
    gradient = optirs.supervised(optirs.crossentropy if task.classify else optirs.mse)
    held_out = optirs.HeldOut(lambda model, x: -task.score(model(x)), (task.x_held,))

    class Enough:
        def on_epoch_end(self, event: optirs.Event) -> None:
            if -held_out.results[-1].loss >= task.target:
                event.stop()

    rng = np.random.default_rng(task.seed)
    options: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "rng": rng, "callbacks": [held_out, Enough()]}

    def train() -> int:
        optirs.train(gradient, model, (task.x, task.y), optirs.Adam(task.rate), epochs=MOST_EPOCHS, **options)
        return held_out.results[-1].epoch

    return train


def of_torch(task: Task, compiled: bool = False) -> Training:
    import torch
    from torch import nn

    n_hidden, n_in = task.weights[0].shape
    n_out = len(task.weights[3])
    first, second = nn.Linear(n_in, n_hidden), nn.Linear(n_hidden, n_out)
    model = nn.Sequential(first, nn.ReLU() if task.classify else nn.Tanh(), second)
    with torch.no_grad():
        parameters = (first.weight, first.bias, second.weight, second.bias)
        for parameter, start in zip(parameters, task.weights, strict=True):
            parameter.copy_(torch.from_numpy(start))
    criterion = nn.functional.cross_entropy if task.classify else nn.functional.mse_loss
    x, y, x_held = torch.from_numpy(task.x), torch.from_numpy(task.y), torch.from_numpy(task.x_held)
    adam = torch.optim.Adam(model.parameters(), task.rate, fused=True)
    forward = _compiled(criterion) if compiled else None
    rng = np.random.default_rng(task.seed)

    def train() -> int:
        for epoch in range(1, MOST_EPOCHS + 1):
            order = torch.from_numpy(rng.permutation(len(x)))
            for xb, yb in zip(x[order].split(BATCH), y[order].split(BATCH), strict=True):
                loss = forward(xb, yb, *parameters) if forward else criterion(model(xb), yb)
                adam.zero_grad()
                loss.backward()
                adam.step()
            with torch.no_grad():
                if task.score(model(x_held).numpy()) >= task.target:
                    return epoch
        return MOST_EPOCHS

    return train


COMPILED: dict[Any, Any] = {}


def _compiled(criterion: Any) -> Any:
    """The loss as a function of a batch and the parameters, compiled once in a process."""
    import torch

    if criterion not in COMPILED:
        relu = criterion is torch.nn.functional.cross_entropy

        def loss(x: Any, y: Any, W1: Any, b1: Any, W2: Any, b2: Any) -> Any:
            z = torch.nn.functional.linear(x, W1, b1)
            return criterion(torch.nn.functional.linear(z.relu() if relu else z.tanh(), W2, b2), y)

        COMPILED[criterion] = torch.compile(loss, dynamic=False)
    return COMPILED[criterion]


def of_torch_compiled(task: Task) -> Training:
    return of_torch(task, compiled=True)


def _estimator(task: Task, epochs: int) -> Any:
    """An estimator of scikit-learn that begins with the task's weights."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    kind = MLPClassifier if task.classify else MLPRegressor
    estimator = kind(
        hidden_layer_sizes=(len(task.weights[1]),),
        activation="relu" if task.classify else "tanh",
        alpha=0.0,
        batch_size=BATCH,
        learning_rate_init=task.rate,
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=MOST_EPOCHS,
        random_state=task.seed,
    )
    # One step makes its arrays; then they are set back, and Adam with them.
    y = task.y if task.classify else task.y[:, 0]
    estimator.partial_fit(task.x[:BATCH], y[:BATCH], **({"classes": np.unique(y)} if task.classify else {}))
    W1, b1, W2, b2 = task.weights
    for array, start in zip(estimator.coefs_ + estimator.intercepts_, (W1.T, W2.T, b1, b2), strict=True):
        array[...] = start
    del estimator._optimizer
    estimator.t_ = estimator.n_iter_ = 0
    return estimator.set_params(warm_start=True)


def of_sklearn(task: Task) -> Training:
    estimator = _estimator(task, MOST_EPOCHS)
    y = task.y if task.classify else task.y[:, 0]

    def train() -> int:
        for epoch in range(1, MOST_EPOCHS + 1):
            estimator.partial_fit(task.x, y)
            yhat = estimator.predict_proba(task.x_held) if task.classify else estimator.predict(task.x_held)
            if task.score(yhat) >= task.target:
                return epoch
        return MOST_EPOCHS

    return train


def of_sklearn_fit(task: Task, epochs: int) -> Training:
    estimator = _estimator(task, epochs)

    def train() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            estimator.fit(task.x, task.y if task.classify else task.y[:, 0])
        return int(estimator.n_iter_)

    return train


CONTENDERS: dict[str, Callable[..., Training]] = {
    "optirs": of_optirs,
    "torch": of_torch,
    "torch compiled": of_torch_compiled,
    "sklearn": of_sklearn,
    "sklearn fit": of_sklearn_fit,
}


def work(name: str, problem: str, orders: Connection) -> None:
    """A process: for a seed (and a number of epochs) that comes in, seconds and epochs go out."""
    if name.startswith("torch"):
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    while (order := orders.recv()) is not None:
        seed, *more = order
        train = CONTENDERS[name](task(problem, seed), *more)
        start = time.perf_counter()
        epochs = train()
        orders.send((time.perf_counter() - start, epochs))


def measure(names: list[str], problem: str, threads: int, rounds: int) -> dict[str, Any]:
    """Seconds and epochs of every round by contender."""
    for library in ("OMP", "OPENBLAS", "MKL", "OPTIRS"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    spawn = multiprocessing.get_context("spawn")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    epochs: dict[str, list[int]] = {name: [] for name in names}
    workers = {}
    for name in names:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=work, args=(name, problem, theirs), daemon=True)
        process.start()
        workers[name] = ours, process
    latest: dict[str, int] = {}
    for seed in (WARM_UP, *range(rounds)):
        for name in names:
            connection, _ = workers[name]
            time.sleep(0.02)  # the last one's threads fall asleep
            connection.send((seed, latest["sklearn"]) if name == "sklearn fit" else (seed,))
            took, count = connection.recv()
            latest[name] = count
            if seed != WARM_UP:
                seconds[name].append(took)
                epochs[name].append(count)
    for connection, process in workers.values():
        connection.send(None)
        process.join()
    return {"problem": problem, "threads": threads, "seconds": seconds, "epochs": epochs}


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Median, least and greatest of the rounds' ratios."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    return f"{statistics.median(ratios):.2f} [{ratios[0]:.2f} {ratios[-1]:.2f}]"


def line(result: dict[str, Any], name: str) -> str:
    """A line of the table: median milliseconds, epochs, and the ratios to ours, of the whole and of an epoch."""
    seconds, epochs = result["seconds"], result["epochs"]
    each = {who: [s / n for s, n in zip(seconds[who], epochs[who], strict=True)] for who in ("optirs", name)}
    ratios = [ratio(times["optirs"], times[name]) for times in (seconds, each)] if name != "optirs" else ["", ""]
    missed = sum(count == MOST_EPOCHS for count in epochs[name])
    took = f"{statistics.median(epochs[name]):g} [{min(epochs[name])} {max(epochs[name])}]"
    took += f", {missed} missed" if missed else ""
    where, median = f"{result['problem']}, {result['threads']}", 1e3 * statistics.median(seconds[name])
    return f"| {where} | {name} | {median:.1f} | {took} | {ratios[0]} | {ratios[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to a held-out score, beside PyTorch and scikit-learn.")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--problems", nargs="+", default=["digits", "diabetes"], choices=["digits", "diabetes"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--json", help="a file for the times of all rounds")
    args = parser.parse_args()
    print("| problem, threads | | ms | epochs | time over ours | of an epoch |\n|---|---|---|---|---|---|", flush=True)
    results = []
    for threads in args.threads:
        for problem in args.problems:
            results.append(measure(args.contenders, problem, threads, args.rounds))
            for name in args.contenders:
                print(line(results[-1], name), flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file)


if __name__ == "__main__":
    main()
