"""Reports on runs: what the lake knows about one, kept for trends, and shown as a page."""
