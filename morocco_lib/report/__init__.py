"""Tables, figures and the page, from step folders alone."""
