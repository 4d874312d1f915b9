"""Its place puts this folder on the path, so that tests in the folders below import `test_compiled_learner`."""
