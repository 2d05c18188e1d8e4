"""Google Dataproc: jobs on clusters."""
