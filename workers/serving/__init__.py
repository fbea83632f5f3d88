"""A worker's life without Celery: claim, prepare, run, publish, renew."""
