"""Weight files: student.pth, the files of other training tools, and what other libraries name the same tensors."""
