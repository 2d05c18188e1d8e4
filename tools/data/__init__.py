"""Sample and generated data."""
