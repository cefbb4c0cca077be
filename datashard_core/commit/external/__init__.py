"""Commits whose metadata another library has made: checked as a library's own are, and committed by the same rule."""
