"""A correction of Python's own `zipfile`, which the middleware's quantum graphs need.

Some releases of Python (3.12.1 and 3.13.0 among them) move a member of an archive to a wrong place when
another member of the same open archive was read in between: a relative seek starts from the shared file's
position instead of the member's own. Quantum graphs of more than some hundred quanta are read so, and then
end in an `EOFError`.
``bin/install`` makes every Python process of the environment import this module.
"""

from __future__ import annotations

import os
import zipfile
from typing import Any


def mend() -> None:
    """Correct `zipfile` if this Python needs it."""
    shared: Any = zipfile._SharedFile  # type: ignore[attr-defined]
    if "SEEK_CUR" in shared.seek.__code__.co_names:
        return
    wrong = shared.seek

    def seek(self: Any, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset, whence = offset + self._pos, os.SEEK_SET
        return int(wrong(self, offset, whence))

    shared.seek = seek


mend()
