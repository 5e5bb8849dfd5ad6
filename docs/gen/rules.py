"""A page for every rule, from its docstring, with its loss curves. Run by `mkdocs build`.

The curves: the loss against the step on two problems, Rosenbrock's function from (-1.2, 1) and the notebook's linear
model. `eta` is the one of a grid with the lowest loss at the end.
"""

import functools
import inspect
import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import mkdocs_gen_files
import numpy as np

import optirs

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "optirs"  # the same file every time

ETAS = [digit * 10.0**power for power in range(-5, 1) for digit in (1, 2, 5)]


def rosenbrock():
    """Start, and gradient function, of Rosenbrock's function."""

    def value(model):
        x, y = model["x"]
        slope = np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])
        return float((1 - x) ** 2 + 100 * (y - x * x) ** 2), {"x": slope}

    return {"x": np.array([-1.2, 1.0])}, value


def notebook():
    """Start, and gradient function, of the problem of `python -m optirs`."""
    rng = optirs.Xoshiro(12345)
    truth = optirs.Affine.random(3, 2, rng=rng)
    x = rng.rand(3, 100).T
    y = truth(x)
    gradient = optirs.supervised(optirs.mse)
    return optirs.Affine.random(3, 2, rng=optirs.Xoshiro(54321)), lambda model: gradient(model, x, y)


PROBLEMS = {"Rosenbrock": (rosenbrock, 2000), "The notebook's problem": (notebook, 500)}


def losses(rule, problem, steps):
    """The loss before every step, up to the first that is not finite."""
    model, gradient = problem()
    state = optirs.setup(rule, model)
    found = []
    with np.errstate(all="ignore"):
        for _ in range(steps):
            loss, grad = gradient(model)
            if not np.isfinite(loss):
                break
            found.append(loss)
            state, model = optirs.update_(state, model, grad)
    return np.array(found)


def with_defaults(cls):
    """The rule with its defaults; None for one that needs arguments, or only holds other rules."""
    parameters = inspect.signature(cls).parameters.values()
    if any(p.default is p.empty for p in parameters):
        return None
    return cls()


def only_transforms(rule):
    """Whether the rule passes a small gradient on as it is, where the parameter is zero: decay, clipping."""
    x, g = np.zeros(2), np.array([0.5, -0.25])
    return np.array_equal(optirs.apply(rule, optirs.init(rule, x), x, g)[1], g)


def candidates(rule):
    """The rules to try for a curve: `rule` with every `eta`, chained with `Descent` if it does not step by itself."""
    if optirs.rules.lands(rule):
        return [optirs.OptimiserChain(optirs.Descent(eta), rule) for eta in ETAS]
    if only_transforms(rule):
        return [optirs.OptimiserChain(rule, optirs.Descent(eta)) for eta in ETAS]
    return [rule.replace(eta=eta) for eta in ETAS] if hasattr(rule, "eta") else [rule]


@functools.cache
def best(cls, title):
    """The losses of the best candidate, and the candidate."""
    problem, steps = PROBLEMS[title]
    runs = [(losses(rule, problem, steps), rule) for rule in candidates(with_defaults(cls))]
    return min((run for run in runs if len(run[0]) == steps), key=lambda run: run[0][-1])


def draw(ax, title, cls, **style):
    curve, rule = best(cls, title)
    steps = np.unique(np.geomspace(1, len(curve), 150).astype(int))  # enough for a logarithmic axis
    ax.loglog(steps, np.maximum(curve[steps - 1], 1e-14), **style)
    return rule


def save(figure, path):
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text.getvalue())


def figure_of(cls, drawn):
    """One rule in colour among all the others in grey; returns the rules drawn."""
    figure, axes = plt.subplots(1, len(PROBLEMS), figsize=(9, 3.4), layout="constrained")
    rules = []
    for ax, title in zip(axes, PROBLEMS, strict=True):
        for other in drawn:
            draw(ax, title, other, color="0.85", linewidth=0.8)
        rules.append(draw(ax, title, cls, color="C0", linewidth=2))
        ax.set(title=title, xlabel="step", ylabel="loss")
    save(figure, f"rules/{cls.__name__}.svg")
    return rules


def overview(title, drawn, path):
    """All rules on one problem, a panel each."""
    columns = 4
    rows = -(-len(drawn) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(9, 1.7 * rows), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(drawn) :]:
        ax.set_visible(False)
    for ax, cls in zip(axes.flat, drawn, strict=False):
        for other in drawn:
            draw(ax, title, other, color="0.85", linewidth=0.6)
        draw(ax, title, cls, color="C0", linewidth=1.6)
        ax.set_title(cls.__name__, fontsize=9)
    figure.supxlabel("step")
    figure.supylabel("loss")
    save(figure, path)


def page(name, cls, drawn):
    lines = [f"# {name}", "", f"::: {cls.__module__}.{name}", "    options:", "      show_root_heading: false"]
    if cls in drawn:
        lines += ["", "## Loss against step", "", f"![The loss of {name} on two problems]({name}.svg)", ""]
        lines += ["Blue: this rule, where it does best among a grid of `eta`. Grey: all the others.", ""]
        lines += [f"- {title}: `{rule!r}`" for title, rule in zip(PROBLEMS, figure_of(cls, drawn), strict=True)]
    with mkdocs_gen_files.open(f"rules/{name}.md", "w") as file:
        file.write("\n".join(lines) + "\n")


def main():
    drawn = [cls for cls in optirs.RULES.values() if with_defaults(cls) is not None]
    index = ["# All rules", "", "| rule | |", "|---|---|"]
    for name, cls in optirs.RULES.items():
        page(name, cls, drawn)
        index.append(f"| [`{name}`]({name}.md) | {inspect.getdoc(cls).splitlines()[0]} |")
    index += [
        "",
        "Every rule, where it does best among a grid of `eta`; those that only transform a gradient, or see where a",
    ]
    index += ["step has led, are chained with `Descent`. Grey: all the others."]
    for number, title in enumerate(PROBLEMS):
        overview(title, drawn, f"rules/overview-{number}.svg")
        index += ["", f"## {title}", "", f"![The loss of every rule, {title}](overview-{number}.svg)"]
    with mkdocs_gen_files.open("rules/all.md", "w") as file:
        file.write("\n".join(index) + "\n")
    with mkdocs_gen_files.open("rules/SUMMARY.md", "w") as file:
        file.writelines(["* [All rules](all.md)\n", *(f"* [{name}]({name}.md)\n" for name in optirs.RULES)])


main()
