"""`python -m quants` is the command line."""

from quants.cli import main

if __name__ == "__main__":
    main()
