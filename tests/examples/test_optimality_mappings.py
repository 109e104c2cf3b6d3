"""The catalog of optimality mappings with solvers of other people: every Jacobian is right."""

import numpy as np
import pytest

QUICK = ("KKT, linear program", "proximal gradient")


@pytest.mark.parametrize("name", QUICK)
def test_a_row_with_a_closed_form(example, name):
    row = example.ROWS[name]()
    assert row.exact is not None
    assert max(example.errors(row, row.etas[-1])) < 1e-10


def test_the_reference_by_differences_is_the_closed_form(example):
    row = example.ROWS["proximal gradient"]()
    np.testing.assert_allclose(example.reference(row._replace(exact=None)), example.reference(row), atol=1e-6)


def test_a_wrong_mapping_is_found(example):
    """The lasso differentiated as if it were a smooth problem."""
    lasso, smooth = example.ROWS["proximal gradient"](), example.ROWS["stationary"](num_features=10)
    wrong = lasso._replace(decorate=smooth.decorate)
    assert min(example.errors(wrong, None)) > 0.1


def test_every_mapping_of_the_catalog_has_a_row(example):
    from jaxsolve.implicit_diff import optimality

    catalog = {name.removesuffix("_fixed_point").removesuffix("_residual") for name in optimality.__all__}
    catalog -= {"block_step", "bregman_step", "call_with_hyperparams"}
    rows = {name.split(",")[0].lower().replace(" ", "_") for name in example.ROWS}
    assert rows == catalog


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stationary", "gradient descent", "KKT, quadratic program", "projected gradient"])
def test_other_rows(example, name):
    check(example, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["proximal gradient", "mirror descent", "Newton", "block proximal gradient"])
def test_fixed_points_at_every_step_size(example, name):
    assert len(example.ROWS[name]().etas) == 3
    check(example, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conic, Clarabel", "conic, SCS"])
def test_cone_programs(example, name):
    check(example, name)


def check(example, name):
    row = example.ROWS[name]()
    for eta in row.etas:
        assert max(example.errors(row, eta)) <= example.TOLERANCE


@pytest.mark.slow
def test_the_script_prints_its_table(example, capsys):
    assert example.main(names=("KKT, linear program", "conic, SCS"))
    printed = capsys.readouterr().out
    assert "HiGHS" in printed and "pure_callback" in printed and "NO" not in printed
