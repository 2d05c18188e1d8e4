"""The business logic, a folder a job."""
