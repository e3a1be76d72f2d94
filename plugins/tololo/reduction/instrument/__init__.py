"""DECam as the Butler knows it."""
