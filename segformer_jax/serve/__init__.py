"""A segmenter for others: on many machines, behind HTTP, as a page in the browser."""
