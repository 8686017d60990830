"""The one make of all HTML pages: layout and colours for light and dark, pictures, and labels beside their lines."""
