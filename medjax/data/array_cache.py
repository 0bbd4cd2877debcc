"""Arrays that were used last, kept in memory."""

import collections
import threading
from collections.abc import Callable, Hashable

import numpy as np


class ArrayCache:
    """Arrays by key, within a limit of memory; those used longest ago go first.

    Safe to use from several threads. A copy sent to another process starts empty.

    Attributes:
      limit: bytes; 0 keeps nothing.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._arrays: collections.OrderedDict[Hashable, np.ndarray] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key, made if it is not there; not to be written to: callers share it."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = make()
        array.flags.writeable = False
        with self._lock:
            if key not in self._arrays:  # another thread may have made it, too
                self._arrays[key] = array
                self._bytes += array.nbytes
            while self._bytes > self.limit:
                self._bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array

    def __reduce__(self) -> tuple:
        return type(self), (self.limit,)
