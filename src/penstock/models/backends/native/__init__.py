"""The `native` backend: Penstock's own kernels for x86-64 CPUs, INT4 and INT8 weights."""
