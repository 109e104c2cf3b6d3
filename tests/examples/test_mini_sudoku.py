"""Mini-sudoku: the boards it learns from."""


def test_there_are_288_boards(example):
    assert example.all_boards().shape == (288, 4, 4)
