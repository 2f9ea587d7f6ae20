"""How much memory the listener has, and giving back what only its start needed."""

from __future__ import annotations

import ctypes
import logging
import mmap
import sys
from pathlib import Path

log = logging.getLogger(__name__)

_MAPS = Path("/proc/self/maps")
_DONT_NEED = 4
"""MADV_DONTNEED of Linux, on all that Python runs on."""


def resident() -> int:
    """Bytes of this process that are in memory."""
    if sys.platform == "linux":
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * mmap.PAGESIZE
    import psutil  # 1.5 MB of code, where the system itself does not tell

    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Let go of freed memory, and of the code of libraries that has run for the last time.

    The start alone runs 17 MB of code, most of it ONNX Runtime. It stays in the system's cache of
    files, so what does run again comes back at once, page by page. Only on Linux; elsewhere nothing is done.
    """
    if sys.platform != "linux":
        return
    try:
        system = ctypes.CDLL(None)
        if hasattr(system, "malloc_trim"):  # glibc's alone
            system.malloc_trim(0)
        system.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
            span, access, _, _, inode, *_ = line.split()
            # Code alone: nobody has written to it, so the file holds all that is let go of.
            if access == "r-xp" and inode != "0":
                start, end = (int(part, 16) for part in span.split("-"))
                system.madvise(start, end - start, _DONT_NEED)
    except (OSError, AttributeError, ValueError) as error:
        log.debug("memory is not given back: %s", error)
