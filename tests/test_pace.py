import pytest

from semrec_ray.pace import Pace


@pytest.fixture
def clock():
    class Clock:
        now = 100.0

        def __call__(self) -> float:
            return self.now

    return Clock()


def test_a_line_tells_the_rate_and_the_time_left(clock):
    lines: list[str] = []
    pace = Pace(lines.append, "embedded", "items", 9_000, every_s=5, clock=clock)
    clock.now += 10
    pace.add(3_000)
    assert lines == ["embedded 3,000 of 9,000 items, 300/s, 20 s left"]


def test_lines_come_no_more_often_than_asked_for_and_at_the_end(clock):
    lines: list[str] = []
    pace = Pace(lines.append, "embedded", "items", 40, every_s=5, clock=clock)
    for _ in range(4):
        clock.now += 2
        pace.add(10)
    assert [line.split(",")[0] for line in lines] == ["embedded 30 of 40 items", "embedded 40 of 40 items"]
    assert lines[-1].endswith("0 s left")


def test_where_the_whole_is_not_known_no_time_left_is_told(clock):
    lines: list[str] = []
    pace = Pace(lines.append, "read", "events", every_s=0, clock=clock)
    clock.now += 2
    pace.add(5_000)
    assert lines == ["read 5,000 events, 2,500/s"]
