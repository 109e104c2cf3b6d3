"""The solvers, one algorithm a file, grouped by the problem they solve."""
