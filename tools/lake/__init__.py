"""Care of the lake: people forgotten, garbage and old versions deleted."""
