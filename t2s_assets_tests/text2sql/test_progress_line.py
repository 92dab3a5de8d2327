import pytest

from t2s_assets.text2sql.progress_line import progress_line


@pytest.mark.parametrize(
    ("done", "total", "seconds", "before", "line"),
    [
        (1, 321, 10, 0, "1 of 321"),
        (32, 321, 10, 0, "32 of 321, 3.2 a second, 1.5 min left"),
        (1032, 4000, 16, 1000, "1,032 of 4,000, 2.0 a second, 24.7 min left"),
        (1001, 4000, 1, 1000, "1,001 of 4,000"),
        (5, 5, 2, 0, "5 of 5, 2.5 a second, 0.0 min left"),
        (0, 5, 0, 0, "0 of 5"),
    ],
)
def test_the_time_left_is_told_once_it_is_known(done: int, total: int, seconds: float, before: int, line: str) -> None:
    assert progress_line(done, total, seconds, before) == line
