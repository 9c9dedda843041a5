"""Ways into Rasa: one module for each wire format, Sanic and Rasa glue only."""
