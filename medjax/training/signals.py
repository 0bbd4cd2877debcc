"""SIGTERM and Ctrl-C as a wish to stop after the step at hand."""

import signal
import threading


class StopRequest:
    """Within `with`, remembers that a signal asked to stop; a second one acts as usual."""

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.requested = False
        self._before = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._request) for s in self._SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def _request(self, *_) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
