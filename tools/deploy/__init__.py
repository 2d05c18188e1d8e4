"""Deployment of jobs, DAGs and tables to an environment, and rollback."""
