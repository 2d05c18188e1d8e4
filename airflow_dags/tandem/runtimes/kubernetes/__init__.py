"""Kubernetes: pods, and Jobs that replace a pod that is taken away."""
