"""What all HTML pages share: layout, light and dark colours, pictures, and labels next to their lines."""
