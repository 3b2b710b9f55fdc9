"""A child process in a process group of its own, whose whole group ends with us."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from search_spaces.errors import StartFailed

POLL_S = 0.2
KILLED_S = 10.0
"""How long killed processes may take to vanish."""
STOP_S = 20.0
"""How long a group may take to end after SIGTERM before it is killed."""
TAIL_LINES = 25


_running: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


def _stop_all() -> None:
    for process in list(_running):
        process.stop()


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Stop every group, then die of the same signal as if it had not been caught."""
    _stop_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _stop_on_exit() -> None:
    """Stop servers at interpreter exit and on SIGTERM and SIGHUP; Ctrl-C unwinds by itself."""
    atexit.unregister(_stop_all)
    atexit.register(_stop_all)
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _on_signal)


class ServerProcess:
    """A running command, its log and its process group."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        """Start it; `env` is added to this process's environment.

        From now on the end of this process, by SIGTERM or SIGHUP too, is the end of the group.

        Raises:
            StartFailed: the program cannot be run.
        """
        _stop_on_exit()
        self.words = tuple(words)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as sink:
            try:
                self._child = subprocess.Popen(
                    self.words,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **env},
                    start_new_session=True,
                )
            except OSError as error:
                raise StartFailed(f"command={words[0]!r} cannot be run: {error.strerror}") from None
        self.pid = self._child.pid
        _running.add(self)

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines that the process wrote."""
        with self.log.open("rb") as source:
            source.seek(max(0, self.log.stat().st_size - 400 * lines))
            text = source.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def wait_until_healthy(self, url: str, timeout_s: float) -> None:
        """Return once `url` answers 200; stop the group otherwise.

        Raises:
            StartFailed: it ended, or `timeout_s` passed; with the last lines of the log.
        """
        limit = time.monotonic() + timeout_s
        try:
            while not answers(url):
                code = self._child.poll()
                if code is not None:
                    raise StartFailed(self._story(f"ended with exit code {code} before it was healthy"))
                if time.monotonic() > limit:
                    raise StartFailed(
                        self._story(f"start-timeout={timeout_s:g} s passed before {url} answered; allow more")
                    )
                time.sleep(POLL_S)
        except BaseException:
            self.stop()
            raise

    def _story(self, what: str) -> str:
        return f"server: {what}\n{self.log_tail()}\nthe whole log is {self.log}"

    def stop(self, patience_s: float = STOP_S) -> None:
        """End every process of the group: SIGTERM, then SIGKILL for what is left."""
        _running.discard(self)
        self._signal(signal.SIGTERM)
        limit = time.monotonic() + patience_s
        while self.group_members() and time.monotonic() < limit:
            self._child.poll()
            time.sleep(POLL_S)
        self._signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(patience_s)
        # A killed process is listed until the kernel has taken it down.
        limit = time.monotonic() + KILLED_S
        while self.group_members() and time.monotonic() < limit:
            time.sleep(POLL_S)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def group_members(self) -> list[int]:
        """Processes of the group that have not ended (zombies have)."""
        if not Path("/proc/self/stat").exists():
            return [self.pid] if self._child.poll() is None else []
        found = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = entry.read_text().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue
            if int(group) == self.pid and state != "Z":
                found.append(int(entry.parent.name))
        return found


def answers(url: str, timeout_s: float = 5.0) -> bool:
    """Whether a GET gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False
