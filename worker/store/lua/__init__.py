"""The Lua of `worker.scripts`, each change of a job's state one atomic script."""
