"""The `penstock` command line. Nothing here imports torch at start."""
