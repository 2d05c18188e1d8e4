"""The business logic, one folder per job."""
