"""A process that imports torch once and forks a child for each run, so that a run that is killed costs milliseconds.

The same file is both sides: `ForkServer` in the test, `main` in the server. A server never computes anything itself,
for torch's threads do not survive a fork.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KILLED = -signal.SIGKILL


@dataclass
class Ended:
    """How a child ended: its exit code (a signal's number is negative), whether it hung, what it printed."""

    code: int
    hung: bool
    output: str


class ForkServer:
    """Runs `function(*arguments)` of a file, each time in a fresh fork."""

    def __init__(self, log: Path, prefix: Sequence[str] = ()) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [*prefix, sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, file, function, *arguments, kill_after=None, environment=None, trace=None) -> Ended:
        """Runs to the end, or SIGKILLs after so many seconds.

        A child that stops itself (IDIOLECT_FAULT=hang@…) is killed then, too; or without kill_after at once; or goes
        on under the tracer `trace`.
        """
        request = {
            "file": str(file),
            "function": function,
            "arguments": [str(argument) for argument in arguments],
            "kill_after": kill_after,
            "trace": trace,
            "environment": environment or {},
            "log": str(self.log),
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()), output=self.log.read_text())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # before torch starts threads, for sigwait to see it
    import torch
    import torch._dynamo  # the first step of an optimiser would load it, in every child anew

    torch.set_num_threads(1)
    modules = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["file"] not in modules:
            spec = importlib.util.spec_from_file_location(Path(request["file"]).stem, request["file"])
            modules[request["file"]] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[request["file"]])
        pid = os.fork()
        if pid == 0:
            child(request, getattr(modules[request["file"]], request["function"]))
        stops = request["trace"] or request["environment"].get("IDIOLECT_FAULT", "").startswith("hang")
        print(json.dumps(watch(pid, request["kill_after"], request["trace"], stops)), flush=True)


def watch(pid, kill_after, trace, stops):
    """Waits for the child; nothing else reaps it, so its number is never another process's when it is killed.

    A child that was not to stop itself was stopped from outside, and will be let go from there.
    """
    hung, tracer, deadline = False, None, kill_after and time.monotonic() + kill_after
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if ended and not os.WIFSTOPPED(status):
            if tracer:
                tracer.communicate()
            return {"code": os.waitstatus_to_exitcode(status), "hung": hung}
        if ended and stops:
            hung = True
            if trace:
                tracer = subprocess.Popen([*trace, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
                assert "attached" in tracer.stderr.readline()
                os.kill(pid, signal.SIGCONT)
            elif deadline is None:
                os.kill(pid, signal.SIGKILL)
        elif deadline is None:
            signal.sigwait([signal.SIGCHLD])
        elif signal.sigtimedwait([signal.SIGCHLD], max(0, deadline - time.monotonic())) is None:
            os.kill(pid, signal.SIGKILL)
            deadline = None


def child(request, function):
    from idiolect.errors import UserError

    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["environment"])
    code = 1
    try:
        code = int(function(*request["arguments"]) or 0)
    except UserError as error:
        code = int(error.code)
        print(error)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
