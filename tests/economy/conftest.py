"""Where simulations and adversaries are found."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("benchmarks", "examples"):
    sys.path.insert(0, str(ROOT / folder))
