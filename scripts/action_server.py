"""Rasa's action server for the project in the working directory, on 127.0.0.1 only.

    python action_server.py PORT

`rasa run actions` does the same, but always listens on all interfaces.
"""

import logging
import sys

from rasa_sdk.endpoint import create_app

if __name__ == "__main__":
    sys.path.insert(0, ".")  # where the package `actions` is
    logging.basicConfig(level=logging.INFO)
    create_app("actions").run(host="127.0.0.1", port=int(sys.argv[1]))
