"""Reading what others may have written (it lives in exporters, which imports nothing from here)."""

from mvp_deploy.exporters.formats import (
    MAX_BYTES,
    Amount,
    Classes,
    Count,
    Like,
    Malformed,
    Rule,
    Sha256,
    Share,
    Size,
    Within,
    Word,
    damaged,
    inside,
    loads,
    parse,
    plain_file,
    read_as,
    read_bytes,
    read_json,
    reading_errors,
    sealed,
    unsealed,
)

__all__ = [
    "MAX_BYTES", "Amount", "Classes", "Count", "Like", "Malformed", "Rule", "Sha256", "Share", "Size", "Within",
    "Word", "damaged", "inside", "loads", "parse", "plain_file", "read_as", "read_bytes", "read_json", "reading_errors",
    "sealed", "unsealed",
]  # fmt: skip
