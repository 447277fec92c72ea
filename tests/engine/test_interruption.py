"""Signals inside and outside the block that watches for them."""

import os
import signal
import threading

import pytest

from detres.engine.interruption import Interrupted, Interruption


def test_no_signal():
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption, interruption.at_once():
        interruption.check()
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_is_noted_then_raised():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="stopped by SIGTERM$") as caught:
            interruption.check()
    assert caught.value.exit_code == 143


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
def test_the_early_warning_of_a_scheduler():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted, match="stopped by SIGUSR1$") as caught:
            interruption.check()
    assert caught.value.exit_code == 138


def test_a_signal_that_is_still_on_its_way(monkeypatch):
    with Interruption() as interruption:
        interruption.check()
        monkeypatch.setattr("detres.engine.interruption.sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            interruption.check_soon()


def test_at_once():
    with Interruption() as interruption:
        with pytest.raises(Interrupted, match="stopped by Ctrl-C"), interruption.at_once():
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the signal came late")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_leave_the_handlers_alone():
    found = []

    def work():
        with Interruption() as interruption:
            found.append(signal.getsignal(signal.SIGTERM))
            interruption.check()

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_worker_processes_outlive_a_ctrl_c_and_obey_a_sigterm():
    with Interruption() as interruption:
        ends = []
        for number in (signal.SIGINT, signal.SIGTERM):
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), number)
                os._exit(7)
            ends.append(os.waitpid(child, 0)[1])
        interruption.check()
    assert os.WEXITSTATUS(ends[0]) == 7
    assert os.WIFSIGNALED(ends[1]) and os.WTERMSIG(ends[1]) == signal.SIGTERM
