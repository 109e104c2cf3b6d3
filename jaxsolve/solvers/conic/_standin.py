from typing import Any, NamedTuple


class R(NamedTuple):
    x: Any
    y: Any
    s: Any
    value: Any
    status: Any


def solve_conic(P, c, A, b, cones, **options):
    from jaxsolve.solvers.conic import ConicInteriorPoint

    p, s = ConicInteriorPoint(cones).run(None, (P, c), (A, b))
    return R(p.x, p.y, p.s, s.value, s.status)
