"""What ends a plan from outside, noted and raised where it is safe."""

import os
import signal

import pytest

from morocco_lib.pipeline.signals import Signals


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_a_signal_is_raised_where_it_is_asked_for_and_not_before(number, raised):
    handler = signal.getsignal(number)
    with pytest.raises(raised) as caught, Signals() as signals:
        os.kill(os.getpid(), number)
        reached = True
        signals.check()
    assert reached and signal.getsignal(number) is handler
    assert raised is KeyboardInterrupt or caught.value.code == 128 + number


def test_under_nohup_a_closed_terminal_ends_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            signals.check()
    finally:
        signal.signal(signal.SIGHUP, before)
