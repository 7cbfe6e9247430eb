"""Files and objects: listing, reading, whole-or-nothing writes."""
