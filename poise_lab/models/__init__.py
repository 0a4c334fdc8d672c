"""Where policies come from: fetched, converted, or pretrained here."""
