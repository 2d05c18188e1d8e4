"""Runtimes: each runs jobs in one place, by the same verbs around one command line."""
