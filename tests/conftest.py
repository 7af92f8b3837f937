"""One thread a process in every test: bits depend on their number, and the machine's cores serve several processes."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch
