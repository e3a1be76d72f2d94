"""Light curves of targets from reduced frames: datasets of one target, instrument and filter."""
