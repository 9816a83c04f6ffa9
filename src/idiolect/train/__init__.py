"""Objectives, optimisers, schedules, precision, checkpoints and the one loop."""
