"""Spark as the engine of frames: the session of a task, reading and writing files, buckets."""
