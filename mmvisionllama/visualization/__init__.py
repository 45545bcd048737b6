"""What is drawn, from results and arrays; matplotlib is imported where a picture is drawn."""
