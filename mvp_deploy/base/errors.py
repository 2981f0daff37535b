"""The one exception type for what a user can cause (it lives in exporters, which imports nothing from here)."""

from mvp_deploy.exporters.errors import DeployError, ExitCode

__all__ = ["DeployError", "ExitCode"]
