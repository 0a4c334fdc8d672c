"""What the extra `scale` must bring."""

import importlib.metadata

from packaging.version import Version

from ..errors import PoiseLabError

OLDEST, TOO_NEW = "1.16", "2"  # of TRL


def check_trl() -> None:
    """Raises PoiseLabError if TRL or accelerate is missing, or is a version that `poise_lab.trl` was not made for."""
    for package in ("trl", "accelerate"):
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise PoiseLabError(
                f'{package} is not installed; the engine trl needs the extra: pip install "poise-lab[scale]"'
            ) from None
        if package == "trl" and not Version(OLDEST) <= Version(found) < Version(TOO_NEW):
            raise PoiseLabError(
                f"TRL {found} is not supported; install one from {OLDEST} to below {TOO_NEW}: "
                f'pip install "trl>={OLDEST},<{TOO_NEW}"'
            )
