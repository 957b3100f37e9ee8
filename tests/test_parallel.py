import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from edgesea.parallel import prefetch, sleep_when_idle


def count_up(start: int, length: int) -> Callable[[], Iterator[int]]:
    return partial(iter, range(start, start + length))


def decode_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("edgesea-decode")}


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("waited 10 s in vain")


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("depth", [1, 3])
def test_everything_comes_in_order(workers, depth):
    def slow_first(index: int) -> Iterator[int]:
        time.sleep(0.02 if index % 3 == 0 else 0)
        yield from range(10 * index, 11 * index)

    result = [list(items) for items in prefetch([partial(slow_first, index) for index in range(12)], workers, depth)]
    assert result == [list(range(10 * index, 11 * index)) for index in range(12)]


def test_an_exception_arrives_in_its_place_and_the_next_source_goes_on():
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("damaged")

    streams = prefetch([count_up(0, 2), failing, count_up(5, 2)], 2)
    assert list(next(streams)) == [0, 1]
    broken = next(streams)
    assert next(broken) == 1
    with pytest.raises(OSError, match="damaged"):
        next(broken)
    assert list(next(streams)) == [5, 6]


def test_no_more_than_the_depth_is_made_ahead():
    made: list[int] = []

    def endless() -> Iterator[int]:
        for index in range(10**9):
            made.append(index)
            yield index

    streams = prefetch([endless], workers=1, depth=3)
    items = next(streams)
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    wait_until(lambda: len(made) == 8)  # four taken, three wait, and one that finds no room
    time.sleep(0.25)
    assert len(made) == 8
    streams.close()


def test_closing_early_ends_the_threads():
    before = decode_threads()
    streams = prefetch([count_up(0, 10**9) for _ in range(5)], workers=3)
    assert next(next(streams)) == 0
    assert decode_threads() - before
    streams.close()
    assert not decode_threads() - before


def test_sources_abandoned_halfway_do_not_hold_the_threads():
    """With as many of them as there are threads, nobody would be left to serve the next one."""
    streams = prefetch([count_up(100 * index, 50) for index in range(8)], workers=2, depth=1)
    firsts: list[int] = []
    reader = threading.Thread(target=lambda: firsts.extend(next(items) for items in streams), daemon=True)
    reader.start()
    reader.join(timeout=20)
    assert firsts == [100 * index for index in range(8)]


def test_the_environment_says_more_than_we_do(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    sleep_when_idle()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["KMP_BLOCKTIME"]) == ("ACTIVE", "0")
