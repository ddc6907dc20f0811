"""Image files are checked before they are opened: a FIFO would block for ever, and /dev/zero would fill the memory."""

import os
import stat
from os import PathLike

from senna.errors import DataError

MOST_BYTES = 256 << 20
"""The size of the largest image file that is read. A camera image has 0.1 to 20 MB."""


def check_image_file(path: str | PathLike[str]) -> None:
    """Raise DataError if a path is a device, a FIFO or a socket, or a file of more than ``MOST_BYTES``.

    A path that does not exist, a folder and a path that is not valid pass; opening them fails at once.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return
    if stat.S_ISDIR(found.st_mode):
        return
    if not stat.S_ISREG(found.st_mode):
        raise DataError("not a regular file", remedy="give the path of an image file", file=path)
    if found.st_size > MOST_BYTES:
        raise DataError(
            f"the file is too large for an image: {found.st_size / 1e6:.0f} MB, and at most {MOST_BYTES / 1e6:.0f} MB are read",
            remedy="scale the image down, or drop its record",
            file=path,
        )
