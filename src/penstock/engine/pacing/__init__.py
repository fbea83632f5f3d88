"""Step times: measured, predicted, and how many prompt tokens fit into one."""
