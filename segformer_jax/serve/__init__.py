"""A model that others use: over the browser, over HTTP."""
