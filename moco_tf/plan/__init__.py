"""A plan: settings of a run that are chosen from the images and the devices, with reasons."""
