"""Deliveries into tables: files surveyed, lines parsed and quarantined, suppressed people left out."""
