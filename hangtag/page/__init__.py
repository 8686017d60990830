"""Draws the parts that all HTML pages share: layout, light and dark colours, pictures, and labels next to lines."""
