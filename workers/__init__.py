"""The worker edge: `celery -A workers worker -Q <model>-<device>`."""

from workers.application import app

__all__ = ["app"]
