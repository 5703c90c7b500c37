"""What a newcomer runs and copies; the tests run all of it."""
