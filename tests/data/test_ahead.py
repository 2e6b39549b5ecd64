"""Work in threads, ahead of need: in order, bounded, with errors where they are wanted."""

import threading
import time

import pytest

from lavita.data.ahead import InOrder, in_threads


def test_results_come_in_order_and_few_are_ahead():
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.01 if number % 2 else 0.0)
        return number * number

    source = in_threads(work, iter(range(50)), threads=4, ahead=5)
    for number in range(50):
        assert next(source) == number * number
        assert len(begun) <= number + 6
    assert next(source, None) is None


def test_an_error_is_raised_where_its_result_is_wanted_and_threads_end():
    before = threading.active_count()
    source = in_threads(lambda number: 1 // (number - 2), range(100), threads=2, ahead=3)
    assert [next(source), next(source)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(source)
    assert threading.active_count() == before


def test_slices_that_follow_each_other_are_worked_on_once():
    begun = []
    source = InOrder(lambda number: (begun.append(number), number)[1], 20)
    assert list(source[0:4]) == [0, 1, 2, 3] and list(source[4:8]) == [4, 5, 6, 7]
    assert len(begun) == len(set(begun)) > 8  # the next are worked on already
    begun.clear()
    assert list(source[12:16]) == [12, 13, 14, 15] and min(begun) == 12
    assert list(source[0:2]) == [0, 1]
    source.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]
