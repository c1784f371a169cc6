"""Exports a page that segments photos in the visitor's browser, as a folder of static files."""
