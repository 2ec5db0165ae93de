"""Tables and figures of the two reports on Severstal's photographs."""
