"""What a session has to reach, in order: one function a goal says what it lacks. Pure."""
