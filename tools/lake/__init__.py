"""Maintenance of the lake: erasure of people, deletion of garbage and old versions."""
