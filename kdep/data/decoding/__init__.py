"""Open image files within limits, and decode one crop of them."""
