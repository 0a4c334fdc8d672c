"""These tests need TRL and vLLM: `make test-vllm`. Elsewhere none of them is collected."""

from __future__ import annotations

import importlib.util

MISSING = [name for name in ("trl", "vllm") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []
