"""CIFAR-10 and CIFAR-100: the published files, in every form that people have them in."""
