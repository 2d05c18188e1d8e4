"""Run one job manually: in its image, as a step, or as a replay."""
