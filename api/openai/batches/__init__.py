"""/v1/files and /v1/batches: stored on disk, run line by line."""
