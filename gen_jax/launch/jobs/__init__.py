"""Processes: several of a job, and several on one machine. Knows no other room."""
