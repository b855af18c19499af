"""Nobody waits in silence: what happens when a rank fails alone."""

from hpcml.watch.abort import end_world_on_error

__all__ = ["end_world_on_error"]
