"""Several trainings at once, each in a Python thread of its own: a search for the rate to learn digits with.

Compiled code releases the GIL, so threads of one process use all cores, on the same arrays, without copies of the data.
What each of them computes does not depend on the others. Run it with `python examples/many_trainings.py`.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.datasets import load_digits

import optirs

HELD_OUT = 360  # of 1797 images
GRADIENT = optirs.supervised(optirs.crossentropy)


def data(seed):
    """Training and held-out data: `x[image, pixel]` in [0, 1], and the digit `y[image]`."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])


def network(rate, known, epochs, seed):
    """One training. Everything random in it comes from generators of its own."""
    rng = optirs.Xoshiro(seed)
    model = optirs.Chain(optirs.Dense.glorot(64, 128, "relu", rng=rng), optirs.Dense.glorot(128, 10, rng=rng))
    shuffling = np.random.default_rng(seed)
    return optirs.train(
        GRADIENT, model, known, optirs.Adam(rate), epochs=epochs, batch_size=128, shuffle=True, rng=shuffling
    ).model


def main(epochs=15, rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), workers=2, seed=0):
    """Trains one after the other and side by side, and prints and returns the held-out losses by rate."""
    known, held_out = data(seed)
    threads = optirs.get_num_threads()
    optirs.set_num_threads(1)  # for each training: there are several
    try:
        start = time.perf_counter()
        in_turn = [network(rate, known, epochs, seed) for rate in rates]
        between = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            at_once = list(pool.map(lambda rate: network(rate, known, epochs, seed), rates))
        end = time.perf_counter()
    finally:
        optirs.set_num_threads(threads)
    losses = {rate: GRADIENT.loss(model, *held_out) for rate, model in zip(rates, at_once, strict=True)}
    for rate, loss in losses.items():
        print(f"rate {rate:g}: held-out loss {loss:.4f}")
    print(f"best rate: {min(losses, key=losses.get):g}")
    print(f"in turn {between - start:.2f} s, in {workers} threads {end - between:.2f} s")
    for left, right in zip(in_turn, at_once, strict=True):  # the same bits either way
        for a, b in zip(optirs.trainables(left), optirs.trainables(right), strict=True):
            np.testing.assert_array_equal(a, b)
    return losses


if __name__ == "__main__":
    main()
