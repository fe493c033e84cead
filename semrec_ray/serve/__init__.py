"""The same recommender with its parts in replicas of Ray Serve: the only room that imports ray.serve.

`app.py` puts the application together from an AppConfig; every other file is one deployment, a thin wrapper
around a class that knows no Ray.
"""
