"""The rows of `benchmarks.speed`: each module measures one thing against its rival, in one run."""
