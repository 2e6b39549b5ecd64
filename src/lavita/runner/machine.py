"""Errors that a machine makes and no run can help: a full disk, a folder that became read-only."""

from __future__ import annotations

import errno

# Mended, the same command goes on; nothing has to be asked for.
OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}


def is_of_the_machine(error: BaseException) -> bool:
    """Whether an error is one of them."""
    return isinstance(error, OSError) and error.errno in OF_THE_MACHINE


def told(error: OSError, folder: str = "") -> str:
    """The error in words, with the file where it is known, else the folder that was written to."""
    said = error.strerror or str(error)
    where = error.filename or folder
    return f"{said}: {where}" if where else said
