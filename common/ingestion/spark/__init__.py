"""Deliveries of sources in Spark: records with the source's fields, and the events that they map to."""
