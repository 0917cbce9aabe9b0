"""What loading costs, side by side with what it is made of and with what people write instead."""
