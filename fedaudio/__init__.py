"""fedaudio: devices learn one shared audio model without their audio leaving them."""
