"""What a worker shows of itself: health and metrics."""
