"""One job, run by hand, as a step, or once more."""
