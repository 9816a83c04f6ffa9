from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import idiolect
from idiolect.testing import TinyModel
from idiolect.train import hooks
from idiolect.train.hooks import Validate
from idiolect.train.loop import Step


def step(number: int, loss: float = 2.0, **logs: float) -> Step:
    return Step(number, loss, count=100, norm=0.5, learning_rate=1e-3, seconds=0.25, logs=logs)


def test_metrics_by_hand() -> None:
    lines: list[dict[str, Any]] = []
    hook = hooks.log_metrics(lines.append, 3, "cpu")
    for number in range(1, 8):
        assert hook(step(number, loss=1.5, bytes=400.0, kl=0.25)) is None
    assert [line["step"] for line in lines] == [1, 3, 6]
    assert lines[0]["tokens_per_second"] == 400
    assert lines[0]["bits_per_byte"] == pytest.approx(100 * 1.5 / 400 / 0.6931472, rel=1e-6)
    assert lines[0]["kl"] == 0.25
    assert "bytes" not in lines[0]
    assert 10e6 < lines[0]["peak_memory_bytes"] < 1e12
    json.dumps(lines)


def test_bits_per_byte_is_left_out_where_bytes_are_unknown() -> None:
    assert "bits_per_byte" not in hooks.figures(step(1), "cpu")


def test_every_and_sample() -> None:
    shown: list[tuple[int, str]] = []
    hook = hooks.sample(lambda: "a text", lambda number, text: shown.append((number, text)), 4)
    never = hooks.sample(lambda: pytest.fail("wrote"), lambda number, text: None, 0)
    for number in range(1, 10):
        assert hook(step(number)) is None
        never(step(number))
    assert shown == [(4, "a text"), (8, "a text")]


def test_evaluating_restores_the_mode_even_after_an_error() -> None:
    def fail_inside(model: TinyModel) -> None:
        with hooks.evaluating(model):
            assert not model.training
            assert not torch.is_grad_enabled()
            raise KeyError

    for mode in (True, False):
        model = TinyModel(5).train(mode)
        with pytest.raises(KeyError):
            fail_inside(model)
        assert model.training == mode
        assert torch.is_grad_enabled()


def validation(losses: list[float], **settings: Any) -> tuple[Validate, list[dict[str, Any]], list[str]]:
    written: list[dict[str, Any]] = []
    warned: list[str] = []
    left = iter(losses)
    made = {"every": 2, **settings}
    return Validate(lambda: {"loss": next(left)}, write=written.append, warn=warned.append, **made), written, warned


def drive(hook: Validate, losses: list[float], start: int = 1) -> dict[int, str]:
    answers = {number: hook(step(number, loss)) for number, loss in enumerate(losses, start)}
    return {number: reason for number, reason in answers.items() if reason}


def test_validation_keeps_the_best_and_stops_after_patience() -> None:
    hook, written, _ = validation([3.0, 2.0, 2.1, 2.0, 1.0], patience=2)
    assert drive(hook, [2.5] * 8) == {8: "early stop"}  # steps 6 and 8 were no better than step 4
    assert (hook.best, hook.best_step) == (2.0, 4)
    assert [line["step"] for line in written] == [2, 4, 6, 8]
    assert written[0]["validation.loss"] == 3.0
    assert written[0]["gap"] == pytest.approx(0.5)


def test_without_patience_it_never_stops_and_without_interval_it_never_validates() -> None:
    hook, _, _ = validation([1.0, 2.0, 3.0, 4.0])
    assert drive(hook, [1.0] * 8) == {}
    hook, written, _ = validation([], every=0)
    drive(hook, [1.0] * 5)
    assert written == []


def test_the_gap_alarm_speaks_once() -> None:
    hook, _, warned = validation([2.0, 2.6, 2.7, 2.8], gap_alarm=0.55)
    drive(hook, [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    assert len(warned) == 1
    assert warned[0].startswith("step 4: overfitting: validation loss 2.600 is 0.600 nats")


def test_validation_resumes_where_it_was() -> None:
    losses = [3.0, 2.0, 2.9, 2.8, 2.7]
    straight, _, told = validation(losses, patience=3, gap_alarm=0.1)
    assert drive(straight, [2.0 + i / 100 for i in range(10)]) == {10: "early stop"}
    first, _, told_first = validation(losses[:3], patience=3, gap_alarm=0.1)
    drive(first, [2.0 + i / 100 for i in range(7)])
    second, _, told_second = validation(losses[3:], patience=3, gap_alarm=0.1)
    second.load_state(json.loads(json.dumps(first.state())))
    assert drive(second, [2.0 + i / 100 for i in range(7, 10)], start=8) == {10: "early stop"}
    assert second.state() == straight.state()
    assert told_first + told_second == told


def test_progress_prints_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with hooks.progress(3, "cpu", stream=out, seconds=1e9) as hook:
        for number in (1, 2, 3):
            hook(step(number, loss=1.5, bytes=400.0))
    first, last = out.getvalue().splitlines()  # the first, then none for a long while, and the last
    assert first.startswith("step 1/3  loss 1.5000  0.541 bits/byte  400 tokens/s  ")
    assert "MB" in first
    assert last.startswith("step 3/3")
    assert " 0 s left" in last


def test_progress_is_a_live_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with hooks.progress(2, "cpu", stream=out) as hook:
        hook(step(1, loss=1.25))
    assert "loss 1.2500" in out.getvalue()
    assert out.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is shown again


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (61, "1 min 01 s"), (3725, "1 h 02 min")])
def test_durations(seconds: float, text: str) -> None:
    assert hooks._duration(seconds) == text


def test_the_first_signal_is_a_reason_and_handlers_are_restored(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        number = getattr(signal, name)
        before = signal.getsignal(number)
        with hooks.stop_on_signals() as hook:
            assert hook(step(1)) is None
            os.kill(os.getpid(), number)
            assert hook(step(2)) == name
        assert signal.getsignal(number) == before
        assert f"{name}: finishing this step" in capfd.readouterr().err


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with hooks.stop_on_signals() as hook:
            os.kill(os.getpid(), signal.SIGHUP)
            assert hook(step(1)) is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    got: list[object] = []

    def run() -> None:
        with hooks.stop_on_signals() as hook:
            got.append(hook(step(1)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert got == [None]


def test_a_second_signal_leaves_at_once() -> None:
    program = (
        "import os, signal\n"
        "from idiolect.train import hooks\n"
        "with hooks.stop_on_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('once', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('twice', flush=True)\n"
    )
    source = Path(idiolect.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
        timeout=120,
    )
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "once\n"
