"""An inverse problem: how well a rod conducts heat, place by place, found from its temperatures.

The rod has `n` cells and insulated ends. With the gradient G across the inner faces and the conductivity k there,
explicit Euler steps are

    u[t+1] = u[t] - dt * G' (k * G u[t])

Measured are some cells at some times, in noise. The loss J is the mean square of what the model leaves unexplained,
plus a penalty on a rough k. Its gradient comes from the discrete adjoint, which goes back in time with the residuals r
as sources:

    a[T] = r[T],    a[t] = a[t+1] - dt * G' (k * G a[t+1]) + r[t],    r[t] = dJ / du[t] where it is measured, else 0
    dJ / dk = -dt * sum over t of (G a[t+1]) * (G u[t])

So a gradient costs as much as one more simulation, however many unknowns there are. It is NumPy by hand, in float64;
optirs does the steps. k is positive, hence log k is what is trained. Run it with `python examples/heat_adjoint.py`.
"""

from dataclasses import dataclass

import numpy as np

import optirs

NOISE = 0.005


@dataclass(frozen=True)
class Rod:
    """The simulation: `n` cells of a rod of length 1, and `steps` steps of `dt`."""

    n: int = 40
    steps: int = 250
    dt: float = 2e-4  # stable while 2 * dt * k * n**2 <= 1
    smooth: float = 1e-8  # weight of the penalty

    def grad(self, u):  # u[..., n] -> [..., n - 1]
        return np.diff(u) * self.n

    def step(self, k, u):
        """`u - dt * G' (k * G u)`; as the matrix is symmetric, this is the step of the adjoint too."""
        flux = k * self.grad(u) * (self.dt * self.n)
        u = u.copy()
        u[:-1] += flux
        u[1:] -= flux
        return u

    def simulate(self, log_k, start):
        """Temperatures `u[time, cell]`."""
        k, u = np.exp(log_k), np.empty((self.steps + 1, self.n))
        u[0] = start
        for t in range(self.steps):
            u[t + 1] = self.step(k, u[t])
        return u

    def loss_and_gradient(self, model, start, measured):
        """J and its gradient by log k; `measured[time, cell]` is NaN where nothing was measured."""
        log_k = model["log_k"]
        k, u = np.exp(log_k), self.simulate(log_k, start)
        error = np.where(np.isnan(measured), 0.0, u - measured)
        count = np.isfinite(measured).sum()
        rough = self.grad(log_k)
        loss = np.sum(error**2) / count + self.smooth * np.mean(rough**2)

        r = 2 * error / count
        a = r.copy()
        for t in reversed(range(self.steps)):
            a[t] += self.step(k, a[t + 1])
        dk = -self.dt * np.sum(self.grad(a[1:]) * self.grad(u[:-1]), axis=0)
        penalty = -np.diff(rough, prepend=0, append=0) * self.n * (2 * self.smooth / rough.size)
        return loss, {"log_k": dk * k + penalty}


def experiment(rod, seed):
    """The true log k at the inner faces, the temperatures at the start, and what is measured of the later ones."""
    rng = np.random.default_rng(seed)
    faces, cells = np.arange(1, rod.n) / rod.n, (np.arange(rod.n) + 0.5) / rod.n
    truth = np.log(np.where(faces < 0.5, 1.0, 0.4) + 0.5 * np.exp(-(((faces - 0.25) / 0.08) ** 2)))
    start = np.sin(9 * np.pi * cells) + np.cos(4 * np.pi * cells)
    measured = rod.simulate(truth, start) + NOISE * rng.normal(size=(rod.steps + 1, rod.n))
    keep = np.zeros(measured.shape, bool)
    keep[5::5, ::2] = True  # every second cell, at every fifth step
    return truth, start, np.where(keep, measured, np.nan)


def main(epochs=300, seed=0):
    """Fits, prints what has come of it, and returns the relative errors of k before and after."""
    rod = Rod()
    truth, start, measured = experiment(rod, seed)
    guess = {"log_k": np.full(rod.n - 1, np.log(0.7))}
    rule = optirs.Scheduled(optirs.Adam(), eta=optirs.schedules.Cosine(0.05, steps=epochs))
    training = optirs.train(rod.loss_and_gradient, guess, [(start, measured)], rule, epochs=epochs)

    def error(model):
        return float(np.linalg.norm(np.exp(model["log_k"] - truth) - 1) / np.sqrt(truth.size))

    before, after = error(guess), error(training.model)
    print(f"loss {training.history[0]:.3g}, then {training.history[-1]:.3g}; noise alone has {NOISE**2:.3g}")
    print(f"error of the conductivity {before:.1%}, then {after:.1%}")
    for face in range(0, rod.n - 1, 6):
        found, true = np.exp(training.model["log_k"][face]), np.exp(truth[face])
        print(f"  at {(face + 1) / rod.n:.3f}: {found:.3f}, in truth {true:.3f}")
    return before, after


if __name__ == "__main__":
    before, after = main()
    assert after < before / 10
