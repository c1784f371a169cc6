"""A segmenter on many machines and behind HTTP: Ray does the work, this room says what it is."""
