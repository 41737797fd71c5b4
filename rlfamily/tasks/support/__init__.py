"""What tasks are made of: checkers, generators, readers of public data. A file beside this folder is a task."""
