"""Interrupts that other code loses."""

import signal
import threading
import weakref

import pytest

from moco_tf import interrupts


def ignored_by_python():
    """Interrupt a callback of a weak reference, whose exceptions Python ignores."""

    class Referent:
        pass

    referent = Referent()
    reference = weakref.ref(referent, lambda _: signal.raise_signal(signal.SIGINT))
    del referent
    assert reference() is None


def replaced_by_c_code():
    """Interrupt as `PyList_SetItem` does, which fails with another error."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise SystemError("bad argument to internal function") from None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ignored_interrupt_is_raised_again():
    with interrupts.remembered() as interrupted:
        interrupted.raise_again()
        ignored_by_python()
        assert interrupted.happened
        with pytest.raises(KeyboardInterrupt):
            interrupted.raise_again()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_error_after_an_interrupt_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt) as raised, interrupts.remembered():
        replaced_by_c_code()
    assert isinstance(raised.value.__cause__, SystemError)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_errors_stay_what_they_are():
    with pytest.raises(SystemError, match="of its own"), interrupts.remembered():
        raise SystemError("of its own")


def test_handlers_that_raise_nothing_are_called_and_nothing_else():
    numbers = []
    previous = signal.signal(signal.SIGINT, lambda number, _: numbers.append(number))
    try:
        with interrupts.remembered() as interrupted:
            signal.raise_signal(signal.SIGINT)
            interrupted.raise_again()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert numbers == [signal.SIGINT]


def test_ignored_signals_and_other_threads_change_nothing():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.remembered() as interrupted:
            signal.raise_signal(signal.SIGINT)
            interrupted.raise_again()
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)
    handlers = []

    def in_thread():
        with interrupts.remembered():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
