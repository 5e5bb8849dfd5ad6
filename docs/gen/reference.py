"""The reference: pages for the modules, with their public names. Run by `mkdocs build`.

Walks what `import optirs` shows; rules and schedules are left to their own pages.
"""

import inspect
import sys
from collections import defaultdict

import mkdocs_gen_files

import optirs

ELSEWHERE = {id(rule) for rule in (*optirs.RULES.values(), optirs.Scheduled)}  # they have pages


def public():
    """The public names and what they stand for, without modules and rules."""
    names = getattr(optirs, "__all__", None) or [name for name in dir(optirs) if not name.startswith("_")]
    members = {name: getattr(optirs, name) for name in names}
    return {n: m for n, m in members.items() if not inspect.ismodule(m) and id(m) not in ELSEWHERE}


def home(name, member):
    """The module that defines a member. `optirs.NAME` could mean a module, where a function shares its name."""
    module = getattr(member, "__module__", None) or "optirs"
    return module if hasattr(sys.modules.get(module), name) else "optirs"


def title(module):
    """What is imported from one folder shares a page: `optirs.layers.dense` is on that of the layers."""
    _, *inner = module.split(".")
    return inner[0].strip("_").capitalize() if inner else "Package"


def main():
    pages = defaultdict(list)
    for name, member in public().items():
        module = home(name, member)
        pages[title(module)].append(f"{module}.{name}")
    for page, members in pages.items():
        with mkdocs_gen_files.open(f"reference/{page.lower()}.md", "w") as file:
            file.write(f"# {page}\n")
            file.writelines(f"\n::: {member}\n" for member in members)
    with mkdocs_gen_files.open("reference/SUMMARY.md", "w") as file:
        file.writelines(f"* [{page}]({page.lower()}.md)\n" for page in pages)


main()
