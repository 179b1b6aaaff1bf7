"""What a step frees the next one needs again: the C library keeps it, or each would have its pages zeroed anew."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt`."""

ALL, LARGEST = 2**31 - 1, 2**25
"""As much as it takes: how much stays at the end of the heap, and up to which size a block comes from there."""


def keep_what_is_freed() -> None:
    """By this process, until `give_back`; elsewhere than on glibc nothing happens."""
    if (library := _glibc()) is not None:
        library.mallopt(TRIM_THRESHOLD, ALL)
        library.mallopt(MMAP_THRESHOLD, LARGEST)


def give_back() -> None:
    """What is free now."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
