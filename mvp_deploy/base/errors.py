"""What a user can cause (it lives in exporters, which imports nothing from here)."""

from mvp_deploy.exporters.errors import (
    WORST,
    AccuracyError,
    Busy,
    DeviceAway,
    EnvironmentMissing,
    ExitCode,
    InputError,
    LatencyError,
    MvpError,
    ParityError,
    StructureError,
    error_of,
    first_line,
    worst,
)

__all__ = [
    "WORST", "AccuracyError", "Busy", "DeviceAway", "EnvironmentMissing", "ExitCode", "InputError", "LatencyError",
    "MvpError", "ParityError", "StructureError", "error_of", "first_line", "of_system", "worst",
]  # fmt: skip


def of_system(error: OSError) -> EnvironmentMissing:
    """The sentence for a disk, a network or a permission that does not do what it should."""
    named = "" if error.filename is None else f"{error.filename}: "
    message = f"{named}{error.strerror or error}: check the path, its permissions, and the room on its disk."
    return EnvironmentMissing(message)
