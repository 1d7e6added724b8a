"""What the gateway must withstand: each module is one kind of abuse, and runs alone as a program where it counts."""
