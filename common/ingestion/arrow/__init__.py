"""Deliveries of sources in Arrow: records with the source's fields, and the columns that they map to."""
