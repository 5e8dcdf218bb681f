"""Pictures of data, results and of what a model looks at. Tools import from the modules that hold the names."""
