"""What made the recorded data: each study makes what is missing of its records, and reads them."""
