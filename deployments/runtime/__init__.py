"""Running functions: drivers behind one interface, and the pool of local instances.

Speaks the AWS Lambda Runtime API to whatever runs the code. Must know nothing of HTTP servers,
routes or the database, except that lines of output are handed to `deployments.logs`.
"""
