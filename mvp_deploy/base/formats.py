"""Reading what others may have written (it lives in exporters, which imports nothing from here)."""

from mvp_deploy.exporters.fields import Amount, Classes, Count, Like, Malformed, Rule, Sha256, Share, Size, Within, Word
from mvp_deploy.exporters.formats import (
    MAX_BYTES,
    damaged,
    inside,
    plain_file,
    read_as,
    read_bytes,
    read_json,
    reading_errors,
    sealed,
    unsealed,
)
from mvp_deploy.exporters.parsing import loads, parse

__all__ = [
    "MAX_BYTES", "Amount", "Classes", "Count", "Like", "Malformed", "Rule", "Sha256", "Share", "Size", "Within",
    "Word", "damaged", "inside", "loads", "parse", "plain_file", "read_as", "read_bytes", "read_json", "reading_errors",
    "sealed", "unsealed",
]  # fmt: skip
