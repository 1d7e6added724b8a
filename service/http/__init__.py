"""HTTP below the routes: connections, bodies, headers, browsers."""
