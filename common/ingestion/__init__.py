"""Deliveries into tables: survey files, parse or quarantine lines, leave out suppressed people."""
