"""The study of transfer: detection and segmentation from three initializations (section 4.2)."""
