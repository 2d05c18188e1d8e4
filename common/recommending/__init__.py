"""Recommendation algorithms as pure functions of arrays: histories in, scores, rankings and their quality out."""

MICROSECONDS_PER_DAY = 86_400_000_000
