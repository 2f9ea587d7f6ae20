"""What simulations found, as one page that needs nothing but itself."""
