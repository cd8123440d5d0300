"""Judging models and measuring speed, always against something independent."""
