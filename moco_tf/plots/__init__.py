"""Plots of runs, features, images and detected objects."""
