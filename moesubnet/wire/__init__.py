"""Between processes that do not trust each other: frames, bodies, signed HTTP, panels."""
