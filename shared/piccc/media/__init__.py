"""Image and video tasks."""
