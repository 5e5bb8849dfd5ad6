"""The picture of `training.md`: the loss of every step, and the held-out loss. Run by `mkdocs build`."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import mkdocs_gen_files
import numpy as np

import optirs

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "optirs"  # the same file every time


def problem():
    """The data, the model and the gradient function of the page."""
    rng = optirs.Xoshiro(1)
    x = 6 * rng.rand(600, 1) - 3
    y = np.sin(1.5 * x) + 0.3 * rng.rand(600, 1)
    model = optirs.Chain(optirs.Dense.glorot(1, 32, "tanh", rng=rng), optirs.Dense.glorot(32, 1, rng=rng))
    return model, (x[:400], y[:400]), (x[400:], y[400:])


def main():
    model, data, held = problem()
    gradient = optirs.supervised(optirs.mse)
    held_out = optirs.HeldOut(gradient, held, every=2)
    training = optirs.train(
        gradient, model, data, optirs.Adam(0.01), epochs=60, batch_size=32, shuffle=True, rng=0, callbacks=[held_out]
    )
    figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
    held_out.plot(training.history.plot(ax))
    step, after = ax.get_lines()
    step.set(linewidth=0.5, label="each step's batch")
    after.set(linewidth=2)
    ax.legend()
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    with mkdocs_gen_files.open("training/curve.svg", "w") as file:
        file.write(text.getvalue())


main()
