"""Memory that is refused, as a test can have it: of an amount that no machine has, and that is never written to."""

from pathlib import Path

import pytest

_POLICY = Path("/proc/sys/vm/overcommit_memory")
REFUSED = pytest.mark.skipif(
    not _POLICY.exists() or _POLICY.read_text().strip() == "1", reason="this system promises any amount of memory"
)
