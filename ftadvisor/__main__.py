"""`python -m ftadvisor`: the same as the `ftadvisor` command."""

from ftadvisor.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
