// Package jobdir owns the layout of a job's directory on a cluster's shared
// storage: its names, the programs that travel with a job, the reasons that its
// receipts give, and the check of what a node signed.
//
// The submitter lays out the directory, and nobody writes there after that but
// the job itself, below nodes:
//
//	sealbatch-RUN/             0700  job-prep; RUN: the run's first 16 digits
//	├── manifest.json          0600  job-prep: what the job is, pinned by the digest in job.sbatch
//	├── manifest.json.sig      0600  job-prep: the submitter's signature of it
//	├── job.sbatch             0600  job-prep: the script that sbatch got
//	├── tokens                 0600  job-prep, at tier C: a one-time token a node, one a line
//	├── job.log                      Slurm: the job's log
//	├── bin/                   0700  job-prep
//	│   ├── sealbatch          0700
//	│   └── gocryptfs          0700
//	├── scripts/               0700  job-prep
//	│   ├── input/NAME         0600  verification scripts, run before the application
//	│   └── output/NAME        0600  and after it
//	└── nodes/                 0700  job-prep
//	    └── NODE/              0700  that node's supervisor; NODE.rN for the Nth restart
//	        ├── statement.jws  0600  the key service's word for the node's signing key S
//	        ├── keys.age       0600  the output volume's master key, wrapped to the recipients
//	        ├── origin.jws     0600  S's word that keys.age and output/ are this job's own
//	        ├── output/        0700  gocryptfs: the output volume's cipher directory, until it is sealed
//	        ├── output.index   0600  a sealed index over it, if it could not be sealed
//	        ├── scratch/       0700  gocryptfs: a volume whose key dies with the job
//	        ├── reserve        0600  room for the index and the receipt, until they are written
//	        ├── results.sealed 0600  the outputs as a sealed volume
//	        └── receipt.jws    0600  S's account of the run; the last thing that is written
//
// Files that are being written have the suffix .partial.
package jobdir
