"""mvp-deploy: one pretrained image backbone, many small and fast per-task models."""

__version__ = "0.1.0"
