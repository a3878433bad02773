import importlib

# the first import sets environment variables, which no test may change
importlib.import_module("sklearn.datasets")
