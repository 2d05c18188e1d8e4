"""The places of a lake: a folder of this machine, S3, Google Cloud Storage."""
