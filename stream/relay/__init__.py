"""The relay: labels from a topic of their own, or many partitions for one learner, into the one log of a pipeline."""
