"""A fuzzer of hostile worlds: code of others that runs in the middle of a call and changes what the call is about.

A *world* is a model with all that belongs to it; a *road* is a call that leads through the package; a *hook* is a place
where Python code runs during such a call; an *act* is what that code does there. A round draws one of each, from tables
(`worlds`, `roads`, `hooks`, `acts`), so that a new road, hook or act is one entry. Rounds run in child processes, which
may crash, and are judged: `judge` says what is accepted.

    python -m attack --rounds 100000 --seed 7        # with tests/ on PYTHONPATH; `make attack` does that
"""
