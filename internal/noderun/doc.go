// Package noderun is the supervisor that runs once on every allocated node of
// a job, as the srun task's own process. It attests, fetches keys, mounts,
// checks the inputs, runs the application in its container, seals the results
// and signs a receipt; then it unmounts and wipes.
//
// The phases of a run follow each other in run.go. Each returns the value that the
// next one works with, of a type with its own file: admitted, granted, mounted, ran
// and sealed. What a phase has opened, its value closes, the last one first.
//
// What it reads and leaves on the cluster's shared storage is drawn in package
// jobdir. A supervisor that is killed leaves the statement, the wrapped key, the
// origin statement and the output volume: the outputs written so far open with
// the recipients' identities (volume.OpenCipherDir, or stock age and gocryptfs).
//
// Inside the container:
//
//	/sd-container/encrypted/NAME   the inputs, read-only; what HPCS encrypted, as a sealed volume of the run's own
//	/sd-container/input            the first of them
//	/sd-container/output           the output volume, and the working directory;
//	                               stdout, stderr, exit_code and sealbatch.log land here too
//	/sd-container/scratch          a volume under a key that dies with the job
//	/sd-container/home, /tmp, /var/tmp   in the scratch volume
//	/sd-container/tools/input_logic/jobs, .../output_logic/jobs   the verification scripts
//
// The whole tree is one directory of a private tmpfs that is bound once, so
// names of datasets stand neither on the runtime's command line nor in its
// environment. The application's own arguments do show in its command line, as
// every program's do: only a site that mounts /proc with hidepid hides them from
// other users.
package noderun
