"""What a bundle's models say of images, in their own runtime; needs numpy, Pillow and that runtime alone."""
