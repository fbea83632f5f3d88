"""What Penstock costs and carries, measured; each script says how it is run."""
