"""The reference: a page for every module, with its public names. Run by `mkdocs build`.

Walks `optirs.__all__`; rules are left to their own pages.
"""

from collections import defaultdict

import mkdocs_gen_files

import optirs

ELSEWHERE = {id(rule) for rule in optirs.RULES.values()}


def title(module):
    return module.removeprefix("optirs").strip("._").capitalize() or "Package"


pages = defaultdict(list)
for name in optirs.__all__:
    member = getattr(optirs, name)
    if id(member) not in ELSEWHERE and not name.startswith("__"):
        pages[getattr(member, "__module__", None) or "optirs"].append(name)

for module, names in pages.items():
    with mkdocs_gen_files.open(f"reference/{title(module).lower()}.md", "w") as file:
        file.write(f"# {title(module)}\n")
        file.writelines(f"\n::: optirs.{name}\n" for name in names)

with mkdocs_gen_files.open("reference/SUMMARY.md", "w") as file:
    file.writelines(f"* [{title(module)}]({title(module).lower()}.md)\n" for module in pages)
