"""Where a study is recorded: MLflow."""
