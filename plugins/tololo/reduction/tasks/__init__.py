"""PipelineTasks."""
