from tiercel.kv.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Breaker


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def trip(breaker):
    return [breaker.failed() for _ in range(FAILURES)]


def test_it_opens_after_failures_in_a_row_and_says_so_once():
    breaker = Breaker(Clock())
    assert trip(breaker) == [False] * (FAILURES - 1) + [True]
    assert breaker.is_open
    assert not breaker.failed(), "it is open already"


def test_a_success_between_failures_keeps_it_closed():
    breaker = Breaker(Clock())
    for _ in range(5):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert not breaker.is_open


def test_it_tries_again_after_a_pause_that_doubles_up_to_a_limit():
    clock = Clock()
    breaker = Breaker(clock)
    trip(breaker)
    pauses = []
    for _ in range(10):
        start = clock.now
        while breaker.is_open:
            clock.now += 0.5
        pauses.append(clock.now - start)
        assert breaker.failed(), "one failure opens it again"
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_a_success_closes_it_and_the_pause_starts_small_again():
    clock = Clock()
    breaker = Breaker(clock)
    trip(breaker)
    clock.now += FIRST_PAUSE
    breaker.succeeded()
    assert not breaker.is_open
    trip(breaker)
    clock.now += FIRST_PAUSE
    assert not breaker.is_open
