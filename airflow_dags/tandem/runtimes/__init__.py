"""Runtimes: where jobs run, each the same verbs around one command line."""
