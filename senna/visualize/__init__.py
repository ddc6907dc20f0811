"""Pictures of what a model says of a drive: one a key frame, and films of scenes."""
