"""`python -m rewardd`, and the entry point of the `rewardd` command."""

from rewardd.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
