"""`python -m poise_lab.trl`: every field of `PoiseConfig` is a flag; see `launch`."""

from ..errors import PoiseLabError
from .needed import check_trl

try:
    check_trl()
except PoiseLabError as e:
    raise SystemExit(f"poise-lab: {e}") from None

from .launch import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
