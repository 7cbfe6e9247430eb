"""What a user may set, as options, YAML and dataclasses."""
