"""One training job: data, models, trainers, rollouts, teacher outputs."""
