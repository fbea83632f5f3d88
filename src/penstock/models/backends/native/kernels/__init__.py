"""The kernels' sources, and what compiles them. No part of a wheel."""
