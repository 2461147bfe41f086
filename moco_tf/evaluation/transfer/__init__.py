"""Transfer to object detection and semantic segmentation (section 4.2)."""
