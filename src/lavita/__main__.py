"""`python -m lavita` is the `lavita` command."""

from lavita.cli import main

raise SystemExit(main())
