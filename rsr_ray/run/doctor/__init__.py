"""What a run needs, checked before a GPU-hour is spent, and what it would cost."""
