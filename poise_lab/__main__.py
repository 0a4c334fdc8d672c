"""`python -m poise_lab` is `poise-lab`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
