"""Reading ahead: in order, near by, and without anything left behind."""

import threading

from segfocus.report.sources import read_ahead


def test_read_ahead_keeps_the_order_and_stays_near():
    begun = []

    def work(item):
        begun.append(item)
        return item * item

    results = read_ahead(work, range(50), ahead=3)
    for index in range(50):
        assert next(results) == index * index
        assert len(begun) <= index + 4
    assert next(results, None) is None


def test_read_ahead_ends_its_threads_when_it_is_left():
    before = threading.active_count()
    results = read_ahead(lambda item: item, range(1000))
    next(results)
    results.close()
    assert threading.active_count() == before
