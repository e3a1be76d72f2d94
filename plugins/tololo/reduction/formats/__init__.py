"""Files and the objects they hold."""
