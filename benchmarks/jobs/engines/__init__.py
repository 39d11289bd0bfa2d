"""Where jobs run: this machine, Slurm or Ray; and the processes that they start."""
