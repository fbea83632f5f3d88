"""Steps captured as graphs, and the buffers that feed them."""
