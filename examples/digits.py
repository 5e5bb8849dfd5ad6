"""Handwritten digits: a network of two layers learns to read 8 x 8 pixels. The data is scikit-learn's, no download.

Run it with `python examples/digits.py`.
"""

import numpy as np
from sklearn.datasets import load_digits

import optirs

HELD_OUT = 360  # of 1797 images


def data(seed):
    """Training and held-out data: `x[image, pixel]` in [0, 1], and the digit `y[image]`."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.data))
    x = (digits.data[order] / 16).astype(np.float32)
    y = digits.target[order]
    return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])


def accuracy(model, x, y):
    """The share of images whose greatest logit is that of the digit."""
    return np.mean(model(x).argmax(axis=1) == y)


def main(epochs=40, seed=0):
    """Trains, prints what has come of it, and returns the accuracy on the held-out images."""
    training_data, held_out_data = data(seed)
    rng = optirs.Xoshiro(seed)
    model = optirs.Chain(
        optirs.Dense.glorot(64, 128, "relu", rng=rng),
        optirs.Dense.glorot(128, 10, rng=rng),  # logits: crossentropy has the softmax in it
    )
    gradient = optirs.supervised(optirs.crossentropy)
    held_out = optirs.HeldOut(gradient, held_out_data, metric=accuracy)
    training = optirs.train(
        gradient,
        model,
        training_data,
        optirs.Adam(2e-3),
        epochs=epochs,
        batch_size=32,
        shuffle=True,
        rng=np.random.default_rng(seed),
        callbacks=[held_out],
    )
    for result in held_out.results[:: max(1, epochs // 8)]:
        print(f"epoch {result.epoch:3}: held-out loss {result.loss:.4f}, accuracy {result.metric:.1%}")
    _, score = held_out.evaluate(training.model)
    print(f"after {len(training.history)} steps {score:.1%} of {HELD_OUT} held-out images are read correctly")
    return score


if __name__ == "__main__":
    assert main() > 0.96
