"""The nine tasks of Russian SuperGLUE."""
