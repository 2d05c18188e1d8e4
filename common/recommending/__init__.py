"""Recommendation algorithms as pure functions of arrays: histories in, scores, rankings and their quality out."""
