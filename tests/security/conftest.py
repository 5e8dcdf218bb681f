"""What a hostile file may cost: a second of the processor, and 500 MB."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

SECONDS, MEGABYTES = 1.0, 500


@pytest.fixture
def refused() -> Callable:
    """``with refused(match): read(...)``: a ValueError or OSError of one line, in little time and memory."""

    @contextmanager
    def check(match: str) -> Iterator[None]:
        peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with pytest.raises((ValueError, OSError), match=match) as caught:
            yield
        assert time.process_time() - start < SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MEGABYTES * 1024
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 2_000

    return check
