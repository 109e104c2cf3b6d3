"""What compiled programs consist of."""

import re

#: Instructions of XLA that compute and copy nothing.
FREE = {"parameter", "get-tuple-element", "tuple", "constant", "bitcast"}


def bodies_of_loops(text):
    """The bodies of all while loops of a compiled program, inner ones first; each a list of lines.

    Args:
        text: the program, ``compiled.as_text()``.
    """
    computations, name = {}, ""
    for line in text.splitlines():
        if line and not line[0].isspace() and line.endswith("{"):
            name = line.split()[1 if line.startswith("ENTRY") else 0].lstrip("%")
            computations[name] = []
        elif line.startswith(" "):
            computations[name].append(line)
    loops = [re.search(r" while\(.*body=%?([\w.\-]+)", line) for lines in computations.values() for line in lines]
    return [computations[found.group(1)] for found in loops if found]


def kernels(body):
    """How many instructions of a computation do something at run time."""
    kinds = [re.search(r"= .*?\s([a-z\-]+)\(", line) for line in body]
    return sum(kind.group(1) not in FREE for kind in kinds if kind)
