"""The bps service ``local``: one machine, warm workers."""
