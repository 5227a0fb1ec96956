"""Pure maths on images: colour, resizing, quality metrics, figures."""
