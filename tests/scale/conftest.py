"""These tests need the extra `scale`: `make test-scale`. Elsewhere none of them is collected."""

from __future__ import annotations

import importlib.util
import os

MISSING = [name for name in ("trl", "accelerate") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []
if not MISSING:  # before the hub's client is imported: a name that is not there is refused at once, not after retries
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
