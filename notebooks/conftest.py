"""Notebooks as tests (`pytest --nbmake`) run in the kernels that `make reproduce` gives them."""

import jupyter_client

from unifylens.reproduce import ThisInterpreter

jupyter_client.AsyncKernelManager = ThisInterpreter  # nbmake leaves the choice to nbclient, which looks it up here
