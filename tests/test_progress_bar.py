"""Progress where there is a terminal, where there is none, and on workers that do not show any."""

import io
import re

import pytest

from moco_tf import progress_bar as module
from moco_tf.progress_bar import progress_bar


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, as a list of one number of seconds."""
    seconds = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: seconds[0])
    return seconds


def work(clock, seconds_per_item, total=10, **options):
    with progress_bar(total, "test features", "image", **options) as bar:
        for _ in range(total - options.get("start", 0)):
            clock[0] += seconds_per_item
            bar.set_postfix(loss="0.5", refresh=False)
            bar.update()


def test_log_gets_a_line_a_minute_with_the_remaining_time(capsys, clock):
    work(clock, seconds_per_item=35, total=1200)
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert lines[0] == "test features: 2 of 1,200 images, loss 0.5; 11:38:50 left"
    assert lines[-1] == "test features: 1,200 of 1,200 images, loss 0.5; 00:00 left"
    assert len(lines) == 600  # After every second image.
    assert output.out == ""


def test_short_work_writes_nothing_to_a_log(capsys, clock):
    work(clock, seconds_per_item=5)
    assert capsys.readouterr().err == ""


def test_notebook_gets_one_line_that_is_updated(capsys, monkeypatch, clock):
    shown = []
    monkeypatch.setattr(module, "in_notebook", lambda: True)
    monkeypatch.setattr(
        module.Line, "show", lambda self, done, text, at_once=False: shown.append((done, text))
    )
    work(clock, seconds_per_item=60, total=3)
    assert shown == [
        (1, "test features: 1 of 3 images, loss 0.5; unknown time left"),
        (2, "test features: 2 of 3 images, loss 0.5; 01:00 left"),
        (3, "test features: 3 of 3 images, loss 0.5; 00:00 left"),
    ]
    assert capsys.readouterr().err == ""


def test_items_that_were_done_before_do_not_count_in_the_estimate(capsys, clock):
    work(clock, seconds_per_item=60, total=100, start=90)
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first == "test features: 91 of 100 images, loss 0.5; unknown time left"
    assert second == "test features: 92 of 100 images, loss 0.5; 08:00 left"


def test_terminal_shows_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(module.sys, "stderr", terminal)
    with progress_bar(4, "test features", "image", start=1) as bar:
        bar.update(3)
    assert re.search(r"test features: 100%.*4/4", terminal.getvalue())


def test_brief_bar_does_not_show_up_for_short_work(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(module.sys, "stderr", terminal)
    with progress_bar(4, "test features", "image", brief=True) as bar:
        bar.update(4)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("is_terminal", [False, True])
def test_work_without_a_description_or_on_another_worker_shows_nothing(
    monkeypatch, clock, is_terminal
):
    stderr = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(module.sys, "stderr", stderr)
    with progress_bar(10, None, "image") as bar:
        clock[0] += 100
        bar.update()
    monkeypatch.setattr(module, "is_chief", lambda: False)
    work(clock, seconds_per_item=100)
    assert stderr.getvalue() == ""


class WithoutTerminal:
    """A standard error that a program has put in place of the real one."""

    def write(self, text):
        return len(text)

    def flush(self):
        pass


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stderr", [None, WithoutTerminal(), closed()])
def test_process_without_standard_error_works(monkeypatch, clock, stderr):
    monkeypatch.setattr(module.sys, "stderr", stderr)
    work(clock, seconds_per_item=100)


def test_line_of_a_notebook_ends_with_the_last_numbers(monkeypatch):
    shown = []

    class Handle:
        def update(self, contents, raw):
            shown.append(contents["text/plain"])

    def display(contents, raw, display_id):
        shown.append(contents["text/plain"])
        return Handle()

    monkeypatch.setattr(module, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    with progress_bar(1000, "test features", "image") as bar:
        for _ in range(999):
            bar.update()
    assert len(shown) < 100
    assert shown[0] == "test features: 1 of 1,000 images; unknown time left"
    assert shown[-1].startswith("test features: 999 of 1,000 images; ")


def test_log_that_cannot_be_written_does_not_end_the_work(monkeypatch, clock):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.sys, "stderr", Full())
    work(clock, seconds_per_item=100)
