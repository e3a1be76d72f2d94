"""Sensors: tasks that wait for locks and for what collections contain."""
