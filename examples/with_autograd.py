"""Curve fitting: a damped oscillation in noise, differentiated by HIPS autograd. Needs the extra `autograd`."""

import autograd.numpy as anp
import numpy as np

import optirs

rng = np.random.default_rng(1)
t = np.linspace(0, 10, 200)  # s
clean = 1.5 * np.exp(-0.3 * t) * np.cos(2.0 * t + 0.5)
y = clean + 0.05 * rng.normal(size=t.size)


def residual(model, t, y):
    """The mean square of what the model does not explain. It is written with `autograd.numpy`, and nothing else."""
    curve = model["height"] * anp.exp(-model["decay"] * t) * anp.cos(model["omega"] * t + model["phase"])
    return anp.mean((curve - y) ** 2)


# Four numbers are a model: 0-d arrays are trained, the string is carried along.
start = {
    "height": np.array(1.0),
    "decay": np.array(0.1),
    "omega": np.array(1.8),
    "phase": np.array(0.0),
    "source": "a spring",
}
training = optirs.train(optirs.with_autograd(residual), start, (t, y), optirs.Adam(0.02), epochs=1000)

for name, truth in (("height", 1.5), ("decay", 0.3), ("omega", 2.0), ("phase", 0.5)):
    print(f"{name:6} {training.model[name]:.3f}, in truth {truth}")
print(f"mean square {training.history[0]:.4f}, then {training.history[-1]:.4f}; of the noise {0.05**2:.4f}")
assert training.history[-1] < 1.1 * 0.05**2
