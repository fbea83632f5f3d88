"""The worker edge: `celery -A workers worker -Q <model>-<device>`."""

from workers.delivery.application import app

__all__ = ["app"]
