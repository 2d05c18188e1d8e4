"""A file of events becomes a source: look at it, propose the mapping, run it on the file, report, try it."""
