"""`lavita variation` from a checkout that is not installed; `--help` says what it does."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from lavita.commands import variation  # noqa: E402


def main(argv: Sequence[str]) -> int:
    return variation.main(argv, prog="variation.py")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
