"""All that knows Celery: how a doorbell reaches a worker."""
