// Package slurm writes batch scripts and asks Slurm's own commands about jobs.
//
// A Script is a typed value; Render turns it into text that a person can read and submit by hand, and
// reads the text back by Slurm's own rules before it returns it. Commands runs sbatch, squeue and sacct
// through a Runner: over SSH, or on the login node itself.
package slurm
