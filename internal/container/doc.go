// Package container finds the container runtime of a node (Apptainer or
// SingularityCE), lays out what a container sees of a job, and makes the
// runtime's command lines and environments. Nothing of the user's stands on a
// command line but what the manifest's flags and the application's arguments say.
package container
