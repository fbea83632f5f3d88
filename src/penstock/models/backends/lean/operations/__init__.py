"""What happens between the matrix products: one interface, by Triton or by torch."""
