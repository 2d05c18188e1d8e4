"""Kubernetes: pods, and Jobs that keep a pod."""
