"""The operations between the matrix products: one interface, in Triton and in torch."""
