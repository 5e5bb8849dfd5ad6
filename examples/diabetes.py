"""A regression: how far diabetes goes in a year, from ten measurements of a patient. The data is scikit-learn's.

There are 265 patients to learn from, which a network soon knows by heart: it is stopped where it is best on patients
that it does not see, and judged on others still. With so few of them a linear model is hard to beat, so its error
stands beside. Run it with `python examples/diabetes.py`.
"""

import numpy as np
from sklearn.datasets import load_diabetes

import optirs

VALIDATION, TEST = 66, 111  # of 442 patients


def data(seed):
    """Training, validation and test data, `x[patient, measurement]` and `y[patient, 1]`, in units of the training
    data's standard deviations; and the one of y."""
    patients = load_diabetes(scaled=False)
    order = np.random.default_rng(seed).permutation(len(patients.data))
    x, y = patients.data[order], patients.target[order, None]
    first = VALIDATION + TEST
    scale = y[first:].std()
    x, y = (x - x[first:].mean(axis=0)) / x[first:].std(axis=0), (y - y[first:].mean()) / scale
    x, y = x.astype(np.float32), y.astype(np.float32)
    parts = slice(first, None), slice(TEST, first), slice(TEST)
    return [(x[part], y[part]) for part in parts], scale


def least_squares(x, y):
    """The best linear model, to compare with."""
    columns = np.column_stack([x, np.ones(len(x))])
    coefficients = np.linalg.lstsq(columns, y, rcond=None)[0]
    return optirs.Affine(coefficients[:-1].T, coefficients[-1])


def main(epochs=500, seed=0):
    """Trains, prints what has come of it, and returns the test errors of the network and of the linear model."""
    (known, validation, test), scale = data(seed)
    rng = optirs.Xoshiro(seed)
    start = optirs.Chain(optirs.Dense.glorot(10, 32, "tanh", rng=rng), optirs.Dense.glorot(32, 1, rng=rng))
    gradient = optirs.supervised(optirs.mse)
    stopping = optirs.EarlyStopping(optirs.HeldOut(gradient, validation), patience=20)
    training = optirs.train(
        gradient,
        start,
        known,
        optirs.AdamW(2e-3, lambda_=1e-2),
        epochs=epochs,
        batch_size=32,
        shuffle=True,
        rng=np.random.default_rng(seed),
        callbacks=[stopping],
    )
    errors = []
    for name, model in (("mean", None), ("least squares", least_squares(*known)), ("network", stopping.model)):
        x, y = test
        error = scale * np.sqrt(np.mean((y if model is None else model(x) - y) ** 2))
        errors.append(float(error))
        print(f"{name:13}: root mean square error {error:.1f} on {TEST} patients")
    epochs_done = len(training.history) // -(-len(known[0]) // 32)
    print(f"The network is that of epoch {stopping.epoch}; training ended after epoch {epochs_done}.")
    return errors[2], errors[1]


if __name__ == "__main__":
    network, linear = main()
    assert network < 1.1 * linear
