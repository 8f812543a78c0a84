"""Programs that do one piece of work and end: what is timed is the whole process."""
