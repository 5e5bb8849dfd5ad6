"""A picture of every schedule, for `schedules.md`. Run by `mkdocs build`."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import mkdocs_gen_files

from optirs import schedules

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "optirs"  # the same file every time

STEPS = 120
SHOWN = (
    schedules.Constant(0.5),
    schedules.Step(1.0, factor=0.5, every=25),
    schedules.Exponential(1.0, factor=0.5, every=25),
    schedules.Polynomial(1.0, steps=100, power=2.0),
    schedules.Cosine(1.0, steps=100),
    schedules.Warmup(schedules.Cosine(1.0, steps=80), steps=20),
    schedules.OneCycle(1.0, steps=100),
    schedules.Piecewise((1.0, 0.3, 0.1), boundaries=(40, 80)),
    schedules.Sequence((schedules.Cosine(1.0, 30), schedules.Cosine(0.8, 70)), boundaries=(30,)),
)


def save(figure, path):
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text.getvalue())


def draw(schedule, ax):
    schedule.plot(STEPS, ax)
    ax.set_ylim(-0.05, 1.05)


def main():
    assert [type(schedule).__name__ for schedule in SHOWN] == list(schedules.SCHEDULES)
    overview, axes = plt.subplots(3, 3, figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
    for schedule, ax in zip(SHOWN, axes.flat, strict=True):
        draw(schedule, ax)
        ax.set(title=type(schedule).__name__, xlabel="", ylabel="")
    overview.supxlabel("step")
    save(overview, "schedules/overview.svg")
    for schedule in SHOWN:
        figure, ax = plt.subplots(figsize=(9, 2.4), layout="constrained")
        draw(schedule, ax)
        ax.set_title(repr(schedule), fontsize=9, family="monospace")
        save(figure, f"schedules/{type(schedule).__name__}.svg")


main()
