"""The main job: see ``demo/run.py``."""
